"""Commands that only look: ``mfs switch entries``, ``mfs switch counters``, ``mfs status``, ``mfs doctor``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from host_agent import findings
from host_agent.protocol.stamp import Flags, Stage, Stamp
from mfs_ctrl.cli import mfs
from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.controller import Controller
from mfs_ctrl.endpoint import show
from mfs_ctrl.fabric import Controlled, Fabric
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.policy_server import PolicyServer
from soft_switch.examples import dscp_queues
from tests.support.controller import ARTIFACT, MILLISECOND_NS, TOPOLOGY, controller, pass_through
from tests.support.controller import serving as served
from topologies.processes import free_address


def run(*arguments: str) -> Result:
    return CliRunner().invoke(mfs, arguments)


class Shown(Fabric):
    """A fabric of controllers that the test runs itself."""

    def __init__(self, *loops: ControlLoop) -> None:
        super().__init__(lambda *_: None, 1.0)  # type: ignore[arg-type, return-value]
        self._loops = loops

    @property
    def controlled(self) -> list[Controlled]:
        return [Controlled(loop, lambda: None) for loop in self._loops]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[str, Controller]]:
    with served() as (switch, server):
        one = controller(server)
        one.start(0)
        pass_through(switch, Stamp(Stage.P2D, Flags.FIRST, batch=1, flow=1, slack_us=3000, remaining=4))
        yield server.address, one
        one.stop()


def test_entries_are_shown_while_the_controller_stays_primary(running: tuple[str, Controller]) -> None:
    address, one = running
    done = run("switch", "entries", "--address", address)
    assert done.exit_code == 0
    shown = done.output.splitlines()
    assert f"edge[ingress_port={TOPOLOGY.ports[0]}] -> trust(1, 7, 1)" in shown
    assert any(line.startswith("default of epoch -> activate") for line in shown)
    only = run("switch", "entries", "edge", "--address", address, "--json")
    assert len(json.loads(only.output)) == len([line for line in shown if "edge" in line and "register" not in line])
    assert one.tick(MILLISECOND_NS) is not None


def test_counters_are_shown_with_their_meaning(running: tuple[str, Controller]) -> None:
    address, one = running
    done = run("switch", "counters", "port_level", "--address", address)
    assert done.exit_code == 0
    assert f"(port {TOPOLOGY.hosts[1].port}, level " in done.output
    [row] = json.loads(run("switch", "counters", "port_level", "--address", address, "--json").output)
    assert (row["counter"], row["packets"]) == ("port_level", 1)
    assert row["bytes"] > 1000
    assert one.tick(2 * MILLISECOND_NS) is not None


def test_any_program_can_be_looked_into() -> None:
    folder = Path(dscp_queues.__file__).parent
    with served() as (_, server):
        empty = run("switch", "entries", "--address", server.address)
        assert (empty.exit_code, str(empty.exception)) == (
            1,
            f"the switch at {server.address} runs no program; start a controller: mfs ctrl",
        )
        server.load((folder / "dscp_queues.json").read_bytes(), (folder / "dscp_queues.p4info.txtpb").read_text())
        assert "RouterIngress.route" in run("switch", "entries", "--address", server.address).output
        unknown = run("switch", "entries", "nosuch", "--address", server.address)
        assert "the program has no table 'nosuch'; it has RouterIngress.route" in str(unknown.exception)


def test_status_shows_switch_controller_and_what_is_wrong(running: tuple[str, Controller], tmp_path: Path) -> None:
    address, one = running
    loop = ControlLoop(one, address)
    loop.connected = True
    with PolicyServer("0") as server:
        show(Shown(loop), server)
        url = server.url
        words = ("status", "--address", address, "--controller", url, "--run-dir", str(tmp_path))
        done = run(*words)
        assert done.exit_code == 0, done.output
        assert f"switch      {address}: mfs_v1model; 4 ports" in done.output
        assert f"controller  {url}, version " in done.output
        assert f"  primary   of {address}, policy mfs, 0 ticks" in done.output
        # Without an address, the controller says where the switches are.
        assert run("status", *words[3:]).output == done.output
        document = json.loads(run(*words, "--json").output)
        assert document["switches"][address]["ports"]["1"]["rate_bps"] == TOPOLOGY.rate_bps
        assert document["controller"]["switches"][address]["ports"]["1"]["bias"] == one.biases[1]
        loop.note("rates", "port 1 is slow; correct --rate")
        wrong = run(*words)
        assert wrong.exit_code == 1
        assert "  wrong     port 1 is slow; correct --rate" in wrong.output
        sick = run("doctor", "--address", address, "--policy-url", url, "--socket", str(tmp_path / "none.sock"))
        assert sick.exit_code == 1
        assert f"ok   switch       {address} answers, 4 ports, runs this version's program" in sick.output
        assert "fail controller   port 1 is slow; correct --rate" in sick.output
        assert "ok   clocks" in sick.output
    assert one.tick(3 * MILLISECOND_NS) is not None


def test_what_does_not_answer_is_named(tmp_path: Path) -> None:
    nobody = free_address()
    (tmp_path / "agent.sock").touch()
    done = run("status", "--address", nobody, "--controller", f"http://{nobody}", "--run-dir", str(tmp_path))
    assert done.exit_code == 1
    assert f"no P4Runtime server answers at {nobody}" in done.output
    assert f"no controller answers at http://{nobody}/status" in done.output
    assert "agent here  " in done.output


def test_a_session_that_reads_needs_no_election() -> None:
    with served() as (_, server):
        first = Session(server.address, election_id=5)
        first.connect()
        first.ensure_pipeline(ARTIFACT)
        assert run("switch", "entries", "--address", server.address).exit_code == 0
        assert first.primary
        first.close()


@pytest.mark.parametrize(
    ("finding", "grade", "words"),
    [
        (findings.kernel("6.1.0-18-amd64", "x86_64"), "ok", "TCP option"),
        (findings.kernel("5.10.0", "x86_64"), "note", "needs 5.15"),
        (findings.kernel("4.19.0", "x86_64"), "fail", "too old"),
        (findings.kernel("6.1.0", "s390x"), "fail", "not supported"),
        (findings.permissions("CapEff:\t000001ffffffffff\n"), "ok", "all"),
        (findings.permissions("CapEff:\t0000000000003000\n"), "fail", "lacks CAP_SYS_ADMIN, CAP_BPF; run as root"),
        (findings.time_stamps(True), "note", "sysctl -w net.ipv4.tcp_timestamps=0"),
        (findings.offloads("eth0", []), "ok", "none"),
    ],
)
def test_findings_say_what_to_do(finding: findings.Finding, grade: str, words: str) -> None:
    assert finding.grade == grade
    assert words in finding.text


def test_an_interface_is_judged_by_state_rate_and_mtu() -> None:
    down = {finding.subject: finding for finding in findings.link("eth0", None, 1500, up=False)}
    assert (down["interface"].grade, down["rate"].grade) == ("fail", "note")
    assert "--rate" in down["rate"].text
    assert "1476" in down["mtu"].text
    up = {finding.subject: finding for finding in findings.link("eth0", 10**11, 1500, up=True)}
    assert "interface" not in up
    assert "100 Gb/s" in up["rate"].text


def test_the_doctor_looks_at_this_machine(tmp_path: Path) -> None:
    done = run("doctor", "--interface", "nosuch", "--socket", str(tmp_path / "none.sock"), "--json")
    found = {(finding["subject"], finding["grade"]) for finding in json.loads(done.output)}
    assert done.exit_code == 1
    assert ("version", "ok") in found
    assert ("agent", "note") in found
    assert ("interface", "fail") in found or ("packages", "fail") in found
