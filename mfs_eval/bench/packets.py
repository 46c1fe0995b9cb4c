"""``make bench``: packets per second of the embedded switch with the compiled MFS program, on one core.

Three measurements, each of which holds the one before it: the program alone; with queues and links on the virtual
clock; with hosts, their transport and their acknowledgements. The entries are those that the controller writes.
"""

from __future__ import annotations

import json
import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import ETHERTYPE_MFS, Flags, Stage, units_of
from mfs_ctrl import policies
from mfs_ctrl.cli import reporting_errors
from mfs_ctrl.controller import Controller
from mfs_ctrl.p4rt.session import Session
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.hosts.segment_header import ACK_BYTES, DATA_BYTES
from mfs_eval.packet_level.hosts.stamp_template import Stamper
from mfs_eval.packet_level.hosts.virtual_host import FRAME_BYTES, SEGMENT_BYTES, ip_udp_header
from mfs_eval.packet_level.packet_network import PacketNetwork
from p4src import artifact
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.queues.traffic_manager import wire_bytes
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import Link, VirtualNetwork
from soft_switch.switch import Switch
from topologies.topology import Host, tor

TOPOLOGY = tor()
FLOWS = 256
"""Flows that are open at a time."""
BATCHES = 16
LAYERS = 32
MESSAGE_PACKETS = 16
"""After so many packets a message of a flow ends."""
LONGEST_FLOW_PACKETS = 400
PACKETS_PER_ACK = 2
FRAME_NS = wire_bytes(FRAME_BYTES) * 8 * 1_000_000_000 // TOPOLOGY.rate_bps
"""Time of a full frame on a port's link."""
LONGEST_SLACK_US = 400_000

_STAGES = (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D)
_SHIM_TYPE = ETHERTYPE_MFS.to_bytes(2, "big")

Frame = tuple[Host, bytes]
"""A frame, and the host that sends it."""


class _Flow:
    """The packets of one flow between two hosts, as its host would stamp them."""

    def __init__(self, draw: random.Random, connection: int) -> None:
        self.source, self.target = draw.sample(TOPOLOGY.hosts, 2)
        stage = draw.choice(_STAGES)
        batch = draw.randrange(1, BATCHES + 1)
        target_layer = LAYERS if stage == Stage.P2D else draw.randrange(LAYERS)
        self.left = self.total = draw.randrange(1, LONGEST_FLOW_PACKETS)
        self._deadline_us = draw.randrange(LONGEST_SLACK_US)
        self._stamper = Stamper(stage, batch, connection % (1 << 16), target_layer)
        self._ack_stamper = Stamper(Stage.NONE, batch, 0, 0)
        self._data = _headers(self.source, self.target, connection, DATA_BYTES + SEGMENT_BYTES)
        self._ack = _headers(self.target, self.source, connection, ACK_BYTES)

    def frames(self, layer: int, now_us: int) -> Iterator[Frame]:
        """The flow's next packet, and the acknowledgement that it is due."""
        sent = self.total - self.left
        flags = Flags.FIRST if sent == 0 else Flags.NONE
        flags |= Flags.BOUNDARY if sent % MESSAGE_PACKETS == 0 else Flags.NONE
        flags |= Flags.LAST if self.left == 1 else Flags.NONE
        stamp = self._stamper.stamp(int(flags), layer, self._deadline_us - now_us, units_of(self.left * SEGMENT_BYTES))
        self.left -= 1
        yield self.source, self._data[0] + stamp + self._data[1] + bytes(DATA_BYTES + SEGMENT_BYTES)
        if self.left % PACKETS_PER_ACK == 0:
            ack = self._ack_stamper.stamp(0, layer, 0, 1)
            yield self.target, self._ack[0] + ack + self._ack[1] + bytes(ACK_BYTES)


def traffic(count: int, seed: int) -> list[Frame]:
    """``count`` stamped frames of many flows of all stages and batches, interleaved, acknowledgements among them."""
    draw = random.Random(seed)
    connections = iter(range(count + FLOWS))
    flows = [_Flow(draw, next(connections)) for _ in range(FLOWS)]
    frames: list[Frame] = []
    while len(frames) < count:
        slot = draw.randrange(FLOWS)
        now_us = len(frames) * FRAME_NS // len(TOPOLOGY.hosts) // 1000
        frames += flows[slot].frames(len(frames) * LAYERS // count, now_us)
        if not flows[slot].left:
            flows[slot] = _Flow(draw, next(connections))
    return frames[:count]


def bench_pipeline(count: int, seed: int) -> float:
    """Ingress and egress of the program, nothing else; packets per second."""
    switch = Switch()
    program(switch)
    frames = [(host.port, data) for host, data in traffic(count, seed)]
    pipeline = switch.pipeline
    assert pipeline is not None
    ingress, egress = pipeline.ingress, pipeline.egress
    passed = now_ns = 0
    began = time.perf_counter()
    for port, data in frames:
        now_ns += FRAME_NS
        packet = ingress(port, data, now_ns)
        if packet is not None and egress(packet, now_ns, now_ns + FRAME_NS, 0, 0) is not None:
            passed += 1
    return _all_of(count, passed) / (time.perf_counter() - began)


class _Replay:
    """A host that sends frames made before, as fast as its link takes them, and drops what it gets."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = iter(frames)

    def pull(self, now_ns: int) -> bytes | None:  # noqa: ARG002
        """See :class:`~soft_switch.sim.network.HostPort`."""
        return next(self._frames, None)

    def receive(self, data: bytes, now_ns: int) -> None:
        """See :class:`~soft_switch.sim.network.HostPort`."""


def bench_switch(count: int, seed: int) -> float:
    """The program between eight queues a port, links on the virtual clock; packets that left per second."""
    clock, switch = VirtualClock(), Switch()
    network = VirtualNetwork(clock)
    by_host: dict[Host, list[bytes]] = {host: [] for host in TOPOLOGY.hosts}
    for host, data in traffic(count, seed):
        by_host[host].append(data)
    attachments = [
        network.attach_host(switch, host.port, _Replay(frames), Link(TOPOLOGY.rate_bps, TOPOLOGY.propagation_ns))
        for host, frames in by_host.items()
    ]
    program(switch)
    began = time.perf_counter()
    for attachment in attachments:
        attachment.wake()
    clock.run()
    return sum(port.sent_packets for port in switch.ports.values()) / (time.perf_counter() - began)


def bench_network(count: int, seed: int) -> float:
    """Hosts with windows, acknowledgements and eight levels of their own around the switch; packets per second."""
    draw = random.Random(seed)
    clock, switch = VirtualClock(), Switch()
    network = PacketNetwork(
        clock,
        switch,
        {host.id: host.port for host in TOPOLOGY.hosts},
        {host.id: (host.mac, host.ipv4.packed) for host in TOPOLOGY.hosts},
        Link(TOPOLOGY.rate_bps, TOPOLOGY.propagation_ns),
    )
    program(switch)
    network.set_policy(policies.mfs().rules)
    began = time.perf_counter()
    left = count * PACKETS_PER_ACK // (PACKETS_PER_ACK + 1)
    while left > 0:
        packets = min(left, draw.randrange(1, LONGEST_FLOW_PACKETS))
        left -= packets
        source, target = draw.sample(range(len(TOPOLOGY.hosts)), 2)
        stage = draw.choice(_STAGES)
        spec = FlowSpec(
            target,
            draw.randrange(1, BATCHES + 1),
            stage,
            draw.randrange(LONGEST_SLACK_US) * 1000,
            packets * SEGMENT_BYTES,
            LAYERS if stage == Stage.P2D else draw.randrange(LAYERS),
        )
        network.start_flow(source, spec, message_bytes=MESSAGE_PACKETS * SEGMENT_BYTES)
    clock.run()
    return sum(port.sent_packets for port in switch.ports.values()) / (time.perf_counter() - began)


BENCHES: dict[str, Callable[[int, int], float]] = {
    "pipeline": bench_pipeline,
    "switch": bench_switch,
    "network": bench_network,
}
WHAT = {
    "pipeline": "the compiled program alone: ingress and egress",
    "switch": "with queues and links on the virtual clock",
    "network": "with hosts, transport and acknowledgements",
}


def program(switch: Switch) -> None:
    """Give ``switch`` the compiled program and its entries, as the controller does over P4Runtime."""
    server = P4RuntimeServer(switch)
    server.start()
    try:
        controller = Controller(Session(server.address), artifact.load(), TOPOLOGY, policies.mfs())
        controller.start()
        controller.stop()
    finally:
        server.stop(0)


def measure(rounds: int, count: int) -> dict[str, int]:
    """Packets per second of each bench: the best of ``rounds`` with ``count`` packets each, other packets each time."""
    return {name: round(max(bench(count, seed) for seed in range(rounds))) for name, bench in BENCHES.items()}


def _all_of(count: int, passed: int) -> int:
    if passed != count:
        raise EvaluationError(f"{count - passed} of {count} packets were dropped by the program; the bench is wrong")
    return passed


def _headers(source: Host, target: Host, connection: int, payload_bytes: int) -> tuple[bytes, bytes]:
    """What stands before and after the stamp."""
    ethernet = TOPOLOGY.switch_mac + source.mac + _SHIM_TYPE
    return ethernet, ip_udp_header(source.ipv4.packed, target.ipv4.packed, connection, payload_bytes, 2)


@click.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the numbers, as JSON.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="The best of these counts.")
@click.option("--packets", type=click.IntRange(min=1), default=30_000, show_default=True, help="Packets of a round.")
def bench(out: Path | None, rounds: int, packets: int) -> None:
    """Measure how many packets a second the embedded switch handles on one core."""
    machine = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpus": os.cpu_count() or 1,
        "processor": platform.processor() or platform.machine(),
    }
    rates = measure(rounds, packets)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("packets/s", justify="right")
    table.add_column("what")
    for name, rate in rates.items():
        table.add_row(f"{rate:,}", f"{name}: {WHAT[name]}")
    console = Console()
    console.print(
        f"Packets per second on one core, {machine['python']}: the best of {rounds} rounds of {packets:,} packets, "
        "in which other work on this machine counts least",
        highlight=False,
    )
    console.print(table)
    if out is None:
        return
    numbers = {"machine": machine, "rounds": rounds, "packets_per_round": packets, "packets_per_s": rates}
    try:
        out.write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise EvaluationError(f"cannot write {out}: {error.strerror}; choose another file with --out") from None


if __name__ == "__main__":
    reporting_errors(bench)
