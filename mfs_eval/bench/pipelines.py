"""``mfs bench pipelines``: packets per second of the embedded switch, and of bmv2.

First the pipeline alone, as Python and as machine code: ingress and egress, packet by packet, with the entries that a
controller writes. Then, as root, the switch as users run it: a host sends to another over veth, in turn through the
embedded switch and through ``simple_switch_grpc`` (if it is on the PATH). Program, entries, packets and cores are the
same. The kernel counts what leaves. Of several offered rates the one with the highest output counts, because
a switch that is offered too much may do worse.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from host_agent.command_line import Positive
from host_agent.protocol.stamp import ETHERTYPE_MFS, Flags, Stage, Stamp
from mfs_ctrl import policies
from mfs_ctrl.controller import Controller
from mfs_ctrl.p4rt.entries import ActionCall, Lpm, TableEntry
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.p4rt.updates import INSERT, Update
from mfs_eval.bench.interfaces import cpu_seconds, packet
from mfs_eval.packet_level.hosts.frames import ip_udp_header
from p4src import artifact
from soft_switch.backend import Backend
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.pipeline import Pipeline
from soft_switch.realtime.packet_socket import PacketSocket
from soft_switch.realtime.serving import NICENESS
from soft_switch.switch import Switch
from topologies import bmv2, namespaces
from topologies.processes import Process, free_address, listening, mfs, unwinding_on_sigterm
from topologies.topology import Topology, tor

PREFIX = "mfspipe"
RATE_BPS = 100_000_000_000
"""Rate of a port: higher than any of the switches reaches."""
SETTLING_S = 0.5
FLOWS = 256
OFFERED = (10_000.0, 20_000.0, 40_000.0, 80_000.0, 160_000.0, float("inf"))
"""Packets per second; the last is as fast as possible."""
BURST_S = 0.5e-3
L3 = Path(__file__).parents[1] / "data" / "l3"
"""Made by ``p4c-bm2-ss l3.p4 -o l3.json --p4runtime-files l3.p4info.txtpb``."""
ROUTES = 64
_THRIFT_PORT = 9291
_SENDER = 0


@dataclass(frozen=True, slots=True)
class SwitchUnderTest:
    """A switch: the embedded one with its pipeline run as ``run_as``, or bmv2 if that is empty."""

    name: str
    run_as: Backend | None = None


SWITCHES = (
    SwitchUnderTest("embedded, Python", "python"),
    SwitchUnderTest("embedded, machine code", "c"),
    SwitchUnderTest("simple_switch_grpc"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Packets per second that the sender offered and that left the switch, and CPU seconds per second."""

    offered: float
    left: float
    cpu: float

    @property
    def per_cpu_s(self) -> float:
        """Packets that left per CPU second."""
        return self.left / self.cpu if self.cpu else 0.0


@click.command(short_help="Packets per second in Python, machine code, bmv2.")
@click.option(
    "--program",
    "programs",
    type=click.Choice(["l3", "mfs"]),
    multiple=True,
    default=("l3", "mfs"),
    show_default=True,
    help="P4 program; may be repeated.",
)
@click.option("--bytes", "size", type=click.IntRange(64, 1500), default=256, show_default=True, help="Packet size.")
@click.option(
    "--seconds", type=Positive(0.2, 600), default=2.0, show_default=True, help="Duration at each offered rate."
)
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=2, show_default=True, help="Rounds over all switches in turn."
)
@click.option(
    "--cores", type=click.IntRange(1, 1024), default=1, show_default=True, help="Cores that a switch may use."
)
def pipelines(programs: tuple[str, ...], size: int, seconds: float, rounds: int, cores: int) -> None:
    """Measure the pipeline alone and, as root, the embedded switch and bmv2 between two hosts."""
    click.echo(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    topology = tor(2, 1, RATE_BPS)
    for program in programs:
        rates = {run_as: alone(program, topology, size, run_as) for run_as in ("python", "c")}
        told = ", ".join(f"{run_as} {rate:,.0f}" for run_as, rate in rates.items())
        click.echo(
            f"{program}, pipeline alone, packets per second of CPU: {told} (x {rates['c'] / rates['python']:.1f})"
        )
    if os.geteuid() != 0:
        click.echo("the switch on interfaces needs root: not measured", err=True)
        return
    switches = [one for one in SWITCHES if one.run_as or shutil.which(bmv2.PROGRAM)]
    if len(switches) < len(SWITCHES):
        click.echo(f"{bmv2.PROGRAM} is not on the PATH: only the embedded switch is measured", err=True)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "switch", "offered/s", "left/s", "of a core", "left per CPU s", "x bmv2"):
        table.add_column(heading, justify="left" if heading in ("", "switch") else "right", no_wrap=True)
    with unwinding_on_sigterm():
        for program in programs:
            results: dict[SwitchUnderTest, list[Measured]] = {one: [] for one in switches}
            for _ in range(rounds):
                for one in switches:
                    click.echo(f"measuring: {program}, {one.name}", err=True)
                    results[one].append(measured(program, one, topology, size, seconds, cores))
            _add_rows(table, program, results)
    Console(width=120).print(table)
    click.echo(f"load average now {os.getloadavg()[0]:.2f}")


def _add_rows(table: Table, program: str, results: dict[SwitchUnderTest, list[Measured]]) -> None:
    means = {switch: _mean(runs) for switch, runs in results.items()}
    reference = next((mean for switch, mean in means.items() if not switch.run_as), None)
    for switch, mean in means.items():
        ratio = f"{mean.left / reference.left:.2f}" if reference and reference.left else ""
        cells = (f"{mean.offered:,.0f}", f"{mean.left:,.0f}", f"{mean.cpu:.0%}", f"{mean.per_cpu_s:,.0f}", ratio)
        table.add_row(program, switch.name, *cells)


def _mean(runs: Sequence[Measured]) -> Measured:
    count = len(runs)
    return Measured(
        sum(run.offered for run in runs) / count,
        sum(run.left for run in runs) / count,
        sum(r.cpu for r in runs) / count,
    )


def frames(program: str, topology: Topology, size: int) -> list[bytes]:
    """Return what the first host sends to the second: :data:`FLOWS` packets, stamped if the program reads stamps."""
    source, target = topology.hosts
    if program == "l3":
        return [
            topology.switch_mac
            + source.mac
            + b"\x08\x00"
            + ip_udp_header(source.ipv4.packed, bytes((10, 7, number % ROUTES, number)), 0, size - 28, 0)
            + bytes(size - 28)
            for number in range(FLOWS)
        ]
    draw = random.Random(1)
    plain = packet(source, target, topology, size)
    result = []
    for number in range(FLOWS):
        stamp = Stamp(
            draw.choice((Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D)),
            flags=draw.choice((Flags(0), Flags.FIRST, Flags.BOUNDARY, Flags.LAST)),
            batch=number // 16 + 1,
            flow=number,
            target_layer=draw.randrange(32),
            current_layer=draw.randrange(32),
            slack_us=draw.randrange(-1000, 1_000_000),
            remaining=draw.randrange(1, 100_000),
        ).pack()
        result.append(plain[:14] + stamp + plain[14 + len(stamp) :])
        assert plain[12:14] == ETHERTYPE_MFS.to_bytes(2, "big")
    return result


def fill(address: str, program: str, topology: Topology) -> None:
    """Install the program and its entries in the switch at ``address``, over P4Runtime."""
    session = Session(address, timeout_s=60)
    if program == "mfs":
        controller = Controller(
            session, artifact.load(), topology, policies.mfs(), tune_thresholds=False, tune_bias=False
        )
        try:
            controller.start()
        finally:
            controller.stop()
        return
    session.connect()
    text = L3.with_suffix(".json").read_bytes()
    index, _ = session.ensure_pipeline(artifact.Artifact("l3", text, L3.with_suffix(".p4info.txtpb").read_text()))
    target = topology.hosts[1]
    call = ActionCall("L3Ingress.forward", (target.port, int.from_bytes(target.mac, "big")))
    routes = [(0x0A070000 + (number << 8), 24) for number in range(ROUTES)]
    entries = [TableEntry("L3Ingress.route", (("hdr.ipv4.dst_addr", Lpm(*route)),), call) for route in routes]
    session.write([Update(INSERT, entry) for entry in entries], index)
    session.close()


def alone(program: str, topology: Topology, size: int, run_as: Backend, packets: int = 50_000) -> float:
    """Return the packets per CPU second through ingress and egress of the pipeline."""
    switch = Switch()
    server = P4RuntimeServer(switch, backend=run_as)
    server.start()
    try:
        fill(server.address, program, topology)
    finally:
        server.stop(0)
    pipeline = switch.pipeline
    assert pipeline is not None
    sent = frames(program, topology, size)
    _run(pipeline, sent, len(sent), 0)
    best = min(_run(pipeline, sent, packets // 5, 1 + part) for part in range(5))
    return packets // 5 / best


def _run(pipeline: Pipeline, sent: Sequence[bytes], packets: int, second: int) -> float:
    """Return the CPU seconds that the packets take."""
    ingress, egress, count = pipeline.ingress, pipeline.egress, len(sent)
    began = time.process_time()
    for number in range(packets):
        now_ns = second * 1_000_000_000 + number * 1000
        packet = ingress(1, sent[number % count], now_ns)
        assert packet is not None
        egress(packet, now_ns, now_ns + 5000, 0, 0)
    return time.process_time() - began


def measured(
    program: str, switch: SwitchUnderTest, topology: Topology, size: int, seconds: float, core_count: int
) -> Measured:
    """Return what goes through a switch on its last ``core_count`` cores, at the best of the offered rates.

    Raises:
        TopologyError: this is not root, or a process does not start.
    """
    with contextlib.ExitStack() as stack:
        realised = stack.enter_context(namespaces.standing([topology], PREFIX))
        address = free_address()
        ports = realised.ports[0]
        if switch.run_as:
            command = [*mfs(), "switch", "--empty", "--address", address, "--pipeline", switch.run_as]
            command += realised.switch_options(topology)
            ready: Callable[[str], bool] = lambda out: "ports: " in out  # noqa: E731
        else:
            command = bmv2.command(address, ports, device_id=1, thrift_port=_THRIFT_PORT)
            ready = lambda _: listening(address)  # noqa: E731
        process = stack.enter_context(Process([*_on_cores(core_count), *command], ready))
        fill(address, program, topology)
        where = realised.namespaces[topology.hosts[0].server]
        name = realised.interfaces[topology.hosts[0].id]
        make: Callable[[], PacketSocket] = lambda: PacketSocket(name)  # noqa: E731
        sender = stack.enter_context(contextlib.closing(namespaces.inside(where, make)))
        sent = frames(program, topology, size)
        cores = os.sched_getaffinity(0)
        if len(cores) > 1:
            os.sched_setaffinity(0, {min(cores)})
            stack.callback(os.sched_setaffinity, 0, cores)
        statistics = Path(f"/sys/class/net/{ports[topology.hosts[1].port]}/statistics/tx_packets")
        runs = []
        for rate in OFFERED:
            _send(sender, sent, SETTLING_S, rate)
            before, cpu_s, began = int(statistics.read_text()), cpu_seconds(process.pid), time.monotonic()
            offered = _send(sender, sent, seconds, rate)
            passed = time.monotonic() - began
            left, used = int(statistics.read_text()) - before, cpu_seconds(process.pid) - cpu_s
            runs.append(Measured(offered / passed, left / passed, used / passed))
    return max(runs, key=lambda run: run.left)


def _on_cores(count: int) -> list[str]:
    """Return the prefix of a command that runs it on the last ``count`` cores, with precedence."""
    cores = sorted(os.sched_getaffinity(0))[-count:]
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if shutil.which("taskset") else []
    return ["nice", "-n", str(NICENESS - os.getpriority(os.PRIO_PROCESS, 0)), *pinned]


def _send(sender: PacketSocket, sent: Sequence[bytes], seconds: float, rate: float) -> int:
    """Send at most ``rate`` packets per second for ``seconds``; return how many were sent."""
    count, began = 0, time.monotonic()
    send = sender.send
    while (passed := time.monotonic() - began) < seconds:
        due = min(rate * passed - count, len(sent))
        for number in range(int(due)):
            send(sent[(count + number) % len(sent)])
        count += int(due)
        if due < len(sent):
            time.sleep(BURST_S)
    return count
