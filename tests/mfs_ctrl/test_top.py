"""``mfs top``: what it shows of counters, and that it fits and follows on a real terminal."""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner
from rich.console import Console

from host_agent.protocol.stamp import Flags, Stage, Stamp
from mfs_ctrl.cli import mfs
from mfs_ctrl.controller import Controller
from mfs_ctrl.counters import CompletionCell, Count, Observation, PortLevel
from mfs_ctrl.top import screen
from soft_switch.switch import Switch
from tests.support.controller import MILLISECOND_NS, TOPOLOGY, controller, pass_through, serving

SWITCH = {
    "primary": True,
    "connected": True,
    "policy": "mfs",
    "ticks": 12,
    "thresholds": {"mlu": 126, "tight_slack": 152},
    "conditions": {},
}
LOST = {**SWITCH, "primary": False, "connected": False, "conditions": {"switch": "it does not answer"}}
STATUS = {"switches": {"leaf1": SWITCH, "leaf2": SWITCH, "spine1": LOST}}
SEEN = Observation(
    interval_ns=500_000_000,
    port_level={PortLevel(3, 7): Count(1, 1_000_000), PortLevel(3, 2): Count(1, 3_000_000)},
    completion={CompletionCell(Stage.P2D, 2, True, 10): 1, CompletionCell(Stage.P2D, 2, False, 13): 3},
    discarded={"no route": 4},
)


def shown(height: int = 24, ports: int = 16) -> list[str]:
    console = Console(file=io.StringIO(), width=80, height=height)
    rates = dict.fromkeys(range(1, ports + 1), 100_000_000)
    agents = {"/run/mfs/eth0.sock": {"interface": "eth0", "flows": [1, 2], "counters": {"stamped": 1234}}}
    console.print(screen("mfs top", SEEN, rates, STATUS, "leaf1", agents, height))
    return str(console.file.getvalue()).splitlines()  # type: ignore[attr-defined]


def test_a_port_has_its_rate_load_and_shares_by_level() -> None:
    [row] = [line.split() for line in shown() if line.split()[:1] == ["3"]]
    # 4 MB in half a second are 64 Mb/s.
    assert row == ["3", "64.0", "64%", "25%", ".", ".", ".", ".", "75%", ".", "."]


def test_a_stage_has_its_flows_late_share_and_slack_left() -> None:
    [row] = [line.split() for line in shown() if line.startswith("P2D")]
    # Four flows in half a second, one late; those in time had 2^13 to 2^14 us left.
    assert row[:3] == ["P2D", "8.0", "25%"]
    assert 2**13 / 1000 < float(row[3]) < 2**14 / 1000


@pytest.mark.parametrize(("height", "ports"), [(24, 16), (24, 40), (12, 16)])
def test_it_fits_a_terminal_of_80_columns(height: int, ports: int) -> None:
    lines = shown(height, ports)
    assert max(map(len, lines)) <= 80
    assert len(lines) <= max(height, 14)
    assert "thresholds: mlu 126  tight_slack 152" in "\n".join(lines)
    assert "of the 2 others: primary of 1, not connected of 1; wrong: spine1 (switch)" in lines
    assert any(line.split()[:1] == ["3"] for line in lines), "the busiest port stays"


@pytest.fixture
def running() -> Iterator[tuple[str, Controller, Switch]]:
    with serving() as (switch, server):
        one = controller(server)
        one.start(0)
        yield server.address, one, switch
        one.stop()


def test_it_reads_a_switch_whose_controller_stays_primary(running: tuple[str, Controller, Switch]) -> None:
    address, one, _ = running
    done = CliRunner().invoke(mfs, ["top", "--address", address, "--once", "--interval", "0.1"])
    assert done.exit_code == 0, done.output
    assert "no controller answers" in done.output
    assert one.tick(MILLISECOND_NS) is not None


@pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux on the PATH (Debian: apt-get install tmux)")
def test_in_a_terminal_it_follows_and_leaves_the_screen_as_it_was(
    running: tuple[str, Controller, Switch], tmp_path: Path
) -> None:
    address, _, switch = running
    tmux = ["tmux", "-S", str(tmp_path / f"tmux-{uuid4().hex[:8]}")]
    command = [sys.executable, "-c", "from mfs_ctrl.cli import main; main()"]
    command += ["top", "--address", address, "--interval", "0.2", "--run-dir", str(tmp_path)]

    def tell(*arguments: str) -> str:
        return subprocess.run([*tmux, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout

    def await_text(text: str) -> str:
        give_up = time.monotonic() + 60
        while text not in (seen := tell("capture-pane", "-p")):
            assert time.monotonic() < give_up, seen
            time.sleep(0.1)
        return seen

    tell("new-session", "-d", "-x", "80", "-y", "24", "env", "TERM=xterm", "NO_COLOR=1", "sh")
    try:
        tell("send-keys", shlex.join(command), "Enter")
        seen = await_text("COLLECTIVE")
        assert f"mfs top  {address}" in seen
        pass_through(switch, Stamp(Stage.P2D, Flags.FIRST, batch=1, flow=1, slack_us=3000, remaining=4))
        port = TOPOLOGY.hosts[1].port
        give_up = time.monotonic() + 60
        while not any(line.split()[:1] == [str(port)] and "100%" in line for line in seen.splitlines()):
            assert time.monotonic() < give_up, seen
            pass_through(switch, Stamp(Stage.P2D, Flags.FIRST, batch=1, flow=1, slack_us=3000, remaining=4))
            seen = tell("capture-pane", "-p")
        tell("send-keys", "C-c")
        assert "COLLECTIVE" not in await_text("interrupted")
    finally:
        tell("kill-server")
