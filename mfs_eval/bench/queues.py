"""``mfs bench queues``: how two flows of different levels share one port. Needs root.

Two hosts send to a third, one at a high and one at a low level, together more than its port can carry. On a link with
strict priority the high flow gets all it asks for and the low one the rest. Measured are the embedded switch, and bmv2
(``simple_switch_grpc`` on the PATH) by itself, with its own rate limit, and with a link behind its port.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

import click
from rich.console import Console
from rich.table import Table

from host_agent.command_line import BitRate, Positive
from host_agent.protocol.stamp import Stage
from mfs_eval.bench.interfaces import SLEEP_S, packet
from mfs_eval.errors import EvaluationError
from soft_switch.queues.traffic_manager import wire_bytes
from soft_switch.realtime.packet_socket import PacketSocket
from topologies import bmv2, namespaces, port_classes
from topologies.processes import Process, free_address, listening, mfs, unwinding_on_sigterm
from topologies.topology import Topology, tor

PREFIX = "mfsqueue"
SETTLING_S = 1.0
BYTES = 1500
HIGH, LOW = Stage.COLLECTIVE, Stage.P2D
"""Levels 6 and 2 under the policy ``static``."""
SENDERS, RECEIVER = (0, 1), 2
ONE_QUEUE_BYTES = 256 * 1024
"""More than the buffer of bmv2's socket, so that bmv2 itself drops, by level."""
_THRIFT_PORT = 9290
_TIME = struct.Struct("!Q")

Loads = tuple[float, float]
"""Of the high flow and of the low one, as shares of the port's rate."""


@dataclass(frozen=True, slots=True)
class SwitchUnderTest:
    """A switch, and the link at its port.

    Attributes:
        name: label of the row.
        bmv2: whether it is bmv2; otherwise it is the embedded switch.
        own_limit: whether bmv2's own queues are limited to the rate, in packets per second.
        link: queueing discipline behind the port: none, ``fifo`` or ``levels``.
    """

    name: str
    bmv2: bool
    own_limit: bool = False
    link: str = ""


SWITCHES = (
    SwitchUnderTest("embedded switch", False),
    SwitchUnderTest("bmv2, no limit", True),
    SwitchUnderTest("bmv2, set_queue_rate", True, own_limit=True),
    SwitchUnderTest("bmv2, HTB with one queue", True, link="fifo"),
    SwitchUnderTest("bmv2, HTB with a class for each level", True, link="levels"),
)


@click.command(short_help="How two levels share a port (root).")
@click.option("--rate", type=BitRate(), default="20M", show_default=True, help="Rate of each port, e.g. 20M.")
@click.option(
    "--high", type=Positive(0.01, 2), default=0.75, show_default=True, help="Load of the high flow over the rate."
)
@click.option(
    "--low", type=Positive(0.01, 2), default=0.75, show_default=True, help="Load of the low flow over the rate."
)
@click.option("--seconds", type=Positive(0.2, 600), default=5.0, show_default=True, help="Duration.")
def queues(rate: int, high: float, low: float, seconds: float) -> None:
    """Show how two flows of different levels share one port, on the embedded switch and on bmv2."""
    switches = [one for one in SWITCHES if not one.bmv2 or shutil.which(bmv2.PROGRAM)]
    if len(switches) < len(SWITCHES):
        click.echo(f"{bmv2.PROGRAM} is not on the PATH: only the embedded switch is measured", err=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("high, Mb/s", "low, Mb/s", "both", "high lost", "low lost", "high p50, ms", "p99, ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    with unwinding_on_sigterm():
        for one in switches:
            click.echo(f"measuring: {one.name}", err=True)
            flows = measured(one, tor(3, 1, rate), (high, low), seconds)
            rates = [flow.rate_bps / 1e6 for flow in flows]
            cells = [f"{value:.2f}" for value in (*rates, sum(rates))] + [f"{flow.lost:.1%}" for flow in flows]
            waits = [flows[0].delay_ns(share) / 1e6 for share in (0.5, 0.99)]
            table.add_row(one.name, *cells, *(f"{wait:.1f}" for wait in waits))
    offered = [f"{load * rate / 1e6:g}" for load in (high, low)]
    click.echo(f"offered: {offered[0]} (high) and {offered[1]} Mb/s (low), to a port of {rate / 1e6:g} Mb/s")
    Console(width=120).print(table)


@dataclass(frozen=True, slots=True)
class Flow:
    """Result of one flow: bits per second on the wire that arrived, share that was lost, delays in ascending order."""

    rate_bps: float
    lost: float
    delays_ns: tuple[int, ...]

    def delay_ns(self, share: float) -> int:
        """Return the quantile ``share`` of the time from sending to arrival; 0 if nothing arrived."""
        return self.delays_ns[min(len(self.delays_ns) - 1, int(share * len(self.delays_ns)))] if self.delays_ns else 0


def measured(switch: SwitchUnderTest, topology: Topology, loads: Loads, seconds: float) -> tuple[Flow, Flow]:
    """Measure the high flow and the low one.

    Raises:
        TopologyError: this is not root, or a process does not start.
    """
    with contextlib.ExitStack() as stack:
        realised = stack.enter_context(namespaces.standing([topology], PREFIX))
        address = free_address()
        ports = realised.ports[0]
        if switch.bmv2:
            stack.enter_context(_bmv2(address, ports))
        else:
            options = ("--address", address, *realised.switch_options(topology))
            stack.enter_context(Process([*mfs(), "switch", *options], lambda out: "ports: " in out))
        shape = ["--servers", "3", "--nics", "1", "--rate", str(topology.rate_bps)]
        controller = [*mfs(), "ctrl", "--address", address, "--policy", "static", *shape]
        controller += ["--dscp"] if switch.link == "levels" else []
        stack.enter_context(Process(controller, lambda out: "in force" in out))
        target = topology.hosts[RECEIVER].port
        if switch.own_limit:
            packets_per_s = topology.rate_bps // (8 * wire_bytes(_frame_bytes(topology)))
            _limit_queues(target, packets_per_s)
        if switch.link:
            if switch.link == "levels":
                port_classes.add_link(ports[target], topology.rate_bps)
            else:
                port_classes.add_link(ports[target], topology.rate_bps, ONE_QUEUE_BYTES, by_level=False)
        return _played(realised, topology, loads, seconds)


@contextlib.contextmanager
def _bmv2(address: str, ports: Mapping[int, str]) -> Iterator[Process]:
    command = bmv2.command(address, ports, device_id=1, thrift_port=_THRIFT_PORT)
    with Process(command, lambda _: listening(address)) as process:
        yield process


def _limit_queues(port: int, packets_per_s: int) -> None:
    command = ["simple_switch_CLI", "--thrift-port", str(_THRIFT_PORT)]
    words = f"set_queue_rate {packets_per_s} {port}\n"
    done = subprocess.run(command, input=words, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode or "rror" in done.stdout:
        raise EvaluationError(f"simple_switch_CLI did not set the rate: {done.stderr or done.stdout}")


def _frame_bytes(topology: Topology) -> int:
    return len(packet(topology.hosts[0], topology.hosts[1], topology, BYTES))


def _played(realised: namespaces.Realised, topology: Topology, loads: Loads, seconds: float) -> tuple[Flow, Flow]:
    with contextlib.ExitStack() as stack:

        def opened(index: int) -> PacketSocket:
            host = topology.hosts[index]
            make: Callable[[], PacketSocket] = lambda: PacketSocket(realised.interfaces[host.id], 8192)  # noqa: E731
            return stack.enter_context(contextlib.closing(namespaces.inside(realised.namespaces[host.server], make)))

        senders = [opened(index) for index in SENDERS]
        receiver = opened(RECEIVER)
        hosts = topology.hosts
        frames = [
            bytearray(packet(hosts[index], hosts[RECEIVER], topology, BYTES, stage))
            for index, stage in zip(SENDERS, (HIGH, LOW), strict=True)
        ]
        wire_bits = wire_bytes(len(frames[0])) * 8
        intervals_ns = [wire_bits * 1e9 / (topology.rate_bps * load) for load in loads]
        arrivals: dict[bytes, list[tuple[int, int]]] = {hosts[index].ipv4.packed: [] for index in SENDERS}
        sent = [0] * len(senders)
        chance = Random(1)
        start_ns = time.time_ns()
        from_ns, to_ns = (start_ns + round(after_s * 1e9) for after_s in (SETTLING_S, SETTLING_S + seconds))
        while (now_ns := time.time_ns()) < to_ns:
            # In random order, packet by packet: the first to reach a full queue gets the free place.
            while late := [
                index for index in range(len(senders)) if sent[index] * intervals_ns[index] < now_ns - start_ns
            ]:
                index = chance.choice(late)
                _TIME.pack_into(frames[index], len(frames[index]) - _TIME.size, time.time_ns())
                senders[index].send(bytes(frames[index]))
                sent[index] += 1
            _collect(receiver, arrivals)
            time.sleep(SLEEP_S)
        for _ in range(20):
            time.sleep(SETTLING_S / 20)
            _collect(receiver, arrivals)
        flows = []
        for count, found in zip(sent, arrivals.values(), strict=True):
            inside = [(arrived_ns, delay_ns) for arrived_ns, delay_ns in found if from_ns <= arrived_ns < to_ns]
            delays = tuple(sorted(delay_ns for _, delay_ns in inside))
            flows.append(Flow(len(inside) * wire_bits / seconds, 1 - len(found) / count, delays))
        return flows[0], flows[1]


def _collect(receiver: PacketSocket, arrivals: dict[bytes, list[tuple[int, int]]]) -> None:
    while (frame := receiver.take()) is not None:
        for source, found in arrivals.items():
            if source in frame[14:80]:
                (sent_ns,) = _TIME.unpack_from(frame, len(frame) - _TIME.size)
                found.append((receiver.arrival_ns, receiver.arrival_ns - sent_ns))
