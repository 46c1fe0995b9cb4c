"""``mfs bench fabric``: one controller for many embedded switches: its start, its ticks, its memory, and a takeover.

The switches, which carry no packets, run in other processes than the controllers, which are held to one core.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

ROOT = Path(__file__).parents[2]
SWITCHES_PER_PROCESS = 16
RATE = "100G"
POLL_S = 0.2
PATIENCE_S = 300.0
_CONTROLLER = "from mfs_ctrl.cli import main; main()"
_SWITCHES = "import sys; from mfs_eval.bench.fabric import serve; serve(*map(int, sys.argv[1:]))"


@dataclass(frozen=True, slots=True)
class Shape:
    """A leaf-spine fabric: number of switches, of spines among them, and of ports of a ToR."""

    switches: int
    spines: int
    ports: int

    @property
    def names(self) -> list[str]:
        """The names of the switches, ToRs first."""
        racks = self.switches - self.spines
        return [f"leaf{number + 1}" for number in range(racks)] + [f"spine{n + 1}" for n in range(self.spines)]

    def describe(self, addresses: Sequence[str]) -> str:
        """Return the file of the fabric; every ToR has a link to every spine, and hosts on its other ports."""
        racks, hosts = self.switches - self.spines, self.ports - self.spines
        lines = [f'[fabric]\nrate = "{RATE}"']
        for number, (name, address) in enumerate(zip(self.names, addresses, strict=True)):
            role = "tor" if number < racks else "spine"
            lines.append(f'[[switch]]\nname = "{name}"\nrole = "{role}"\naddress = "{address}"')
            lines.append(f'mac = "02:ff:00:00:00:{number:02x}"')
        for rack in range(racks):
            for port in range(1, hosts + 1):
                lines.append(f'[[host]]\nswitch = "leaf{rack + 1}"\nport = {port}')
                lines.append(f'mac = "02:00:00:00:{rack:02x}:{port:02x}"\nipv4 = "10.{rack}.0.{port}"')
            for spine in range(self.spines):
                lines.append(f'[[link]]\nends = ["leaf{rack + 1}:{hosts + spine + 1}", "spine{spine + 1}:{rack + 1}"]')
        return "\n".join(lines)


def serve(count: int, ports: int) -> None:
    """Serve this many switches; print their addresses, and end with stdin."""
    from host_agent.protocol.units import parse_bit_rate
    from soft_switch.p4runtime.server import P4RuntimeServer
    from soft_switch.switch import Switch

    servers = []
    for _ in range(count):
        switch = Switch()
        for port in range(1, ports + 1):
            switch.add_port(port, parse_bit_rate(RATE) or 0)
        servers.append(P4RuntimeServer(switch))
        servers[-1].start()
    print(json.dumps([server.address for server in servers]), flush=True)
    sys.stdin.read()


class _Python:
    """Processes of one Python environment, which end with the block."""

    def __init__(self, python: str) -> None:
        self._python = python
        self._started: list[subprocess.Popen[str]] = []

    def start(self, code: str, *arguments: str, core: int | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self._python, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if core is None else subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        self._started.append(process)
        return process

    def __enter__(self) -> _Python:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()


class _Controller:
    """``mfs ctrl`` of the fabric, its log by message, and what it says of itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.began_s = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        """When each line was read, and the line."""
        assert process.stderr is not None
        threading.Thread(target=self._read, args=(process.stderr,), daemon=True).start()

    def _read(self, log: IO[str]) -> None:
        for line in log:
            self.lines.append((time.monotonic(), line))

    def when(self, names: Sequence[str], text: str) -> list[float]:
        """Wait until the log has had ``text`` for each switch; return when, in the order of the names."""
        wanted = {name: re.compile(rf": {name}: {text}") for name in names}
        found: dict[str, float] = {}

        def all_said() -> bool:
            for time_s, line in list(self.lines):
                found.update((name, time_s) for name, said in wanted.items() if name not in found and said.search(line))
            return len(found) == len(wanted)

        self.wait(all_said)
        return [found[name] for name in names]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition.

        Raises:
            click.ClickException: it does not come, or the controller has ended.
        """
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > give_up_s:
                last = self.lines[-1][1] if self.lines else "it said nothing"
                raise click.ClickException(f"the controller does not come up: {last}")
            time.sleep(POLL_S)

    def switches(self) -> list[dict[str, Any]]:
        """Return its status of each switch."""
        [url] = [line.split()[-1] for _, line in self.lines if "serving the policy at" in line]
        with urllib.request.urlopen(url.replace("/policy", "/status"), timeout=PATIENCE_S) as answer:
            return list(json.load(answer)["switches"].values())

    def ticks(self) -> int:
        """Return the ticks of all switches."""
        return sum(switch["ticks"] for switch in self.switches())

    def cpu_s(self) -> float:
        """Return the processor time that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return the memory that it has now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class _Election:
    """A client that never becomes primary, and hears when a switch has a primary again; it ends with the switch.

    Attributes:
        elected_s: when it last heard so.
    """

    def __init__(self, address: str) -> None:
        from mfs_ctrl.p4rt.stream import StreamClient

        self.elected_s = 0.0
        self._client: StreamClient | None = None
        self._client = StreamClient(address, 1, 0, PATIENCE_S, on_arbitration=self._heard)

    def _heard(self) -> None:
        from google.rpc import code_pb2

        if self._client is not None and self._client.arbitration.status.code == code_pb2.ALREADY_EXISTS:
            self.elected_s = time.monotonic()


@contextlib.contextmanager
def _file(text: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fabric.toml"
        path.write_text(text, "utf-8")
        yield path


@click.command(short_help="One controller of many switches, its start and takeover.")
@click.option("--switches", type=click.IntRange(2, 255), default=64, show_default=True, help="Switches in all.")
@click.option("--spines", type=click.IntRange(0, 16), default=8, show_default=True, help="Spines among them.")
@click.option("--ports", type=click.IntRange(2, 64), default=64, show_default=True, help="Ports of a ToR.")
@click.option("--seconds", type=click.IntRange(min=1), default=20, show_default=True, help="Time to measure ticks for.")
@click.option("--python", default=sys.executable, metavar="FILE", help="The Python interpreter of another environment.")
def fabric(switches: int, spines: int, ports: int, seconds: int, python: str) -> None:
    """Measure one controller of a leaf-spine fabric, with the mfs policy, and a second that takes over from it.

    A tick of the fabric is one of each switch. A switch has a primary again once it says so to all its clients; after
    that the backup reads what the switch holds, writes what differs, and logs it.
    """
    shape = Shape(switches, spines, ports)
    core = min(os.sched_getaffinity(0))
    with _Python(python) as processes:
        addresses: list[str] = []
        for first in range(0, switches, SWITCHES_PER_PROCESS):
            count = min(SWITCHES_PER_PROCESS, switches - first)
            process = processes.start(_SWITCHES, str(count), str(ports))
            assert process.stdout is not None
            addresses += json.loads(process.stdout.readline())
        with _file(shape.describe(addresses)) as path:
            options = ("ctrl", "--fabric", str(path), "--policy-listen", "0", "--election-id")
            primary = _Controller(processes.start(_CONTROLLER, *options, "2", core=core))
            up_s = max(primary.when(shape.names, "connected to .* in force"))
            entries = sum(sum(switch["written"].values()) for switch in primary.switches())
            click.echo(f"{switches} switches ({spines} spines), {ports} ports a ToR; the controllers on one core")
            click.echo(f"start: {up_s - primary.began_s:.1f} s, {entries:,} entries written")
            before = primary.ticks(), primary.cpu_s()
            time.sleep(seconds)
            ticks, cpu_s = primary.ticks() - before[0], primary.cpu_s() - before[1]
            each_ms = 1000 * statistics.median(switch["tick_s"] for switch in primary.switches())
            click.echo(
                f"tick of the fabric: {cpu_s / ticks * switches:.2f} s of the core; "
                f"a switch's, beside the others': {each_ms:.0f} ms (median), {ticks / seconds / switches:.2f} a second"
            )
            click.echo(f"memory: {primary.memory_mb():.0f} MB, {primary.memory_mb() / switches:.1f} MB a switch")
            backup = _Controller(processes.start(_CONTROLLER, *options, "1", core=core))
            backup.when(shape.names, "connected to .*: as backup")
            elections = [_Election(address) for address in addresses]
            used_s = backup.cpu_s()
            primary.process.kill()
            killed_s = time.monotonic()
            backup.wait(lambda: all(election.elected_s > killed_s for election in elections))
            _say("is elected", [election.elected_s - killed_s for election in elections])
            # A switch that is too busy to answer in time is connected to again.
            done_s = backup.when(shape.names, "(primary now|connected again .* in force)")
            used_s = backup.cpu_s() - used_s
            _say("has compared and written", [time_s - killed_s for time_s in done_s])
            click.echo(f"for which it took {used_s:.1f} s of the core")


def _say(what: str, after_s: Sequence[float]) -> None:
    """Print after how long the backup has done something, over all switches."""
    least, *_, most = sorted(after_s)
    median = statistics.median(after_s)
    times = f"{least:.2f} s the first switch, {median:.2f} s the median, {most:.2f} s the last"
    click.echo(f"after kill -9 the backup {what}: {times}")
