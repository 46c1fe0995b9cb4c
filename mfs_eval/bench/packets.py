"""``mfs bench packets``: packets per second of the embedded switch with the compiled MFS program, on one core.

Three measurements, each of which includes the previous one: the program alone; with queues and links on the virtual
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
from mfs_ctrl.controller import Controller
from mfs_ctrl.p4rt.session import Session
from mfs_eval import options
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES, ip_udp_header
from mfs_eval.packet_level.hosts.segment_header import ACK_BYTES, DATA_BYTES
from mfs_eval.packet_level.hosts.stamp_template import StampTemplate
from mfs_eval.packet_level.packet_network import PacketNetwork
from mfs_eval.results.output import write_atomically, writing
from p4src import artifact
from soft_switch.backend import backend_of_environment
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.queues.traffic_manager import wire_bytes
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import Link, VirtualNetwork
from soft_switch.switch import Switch
from topologies.topology import FULL_FRAME_BYTES, Host, tor

TOPOLOGY = tor()
FLOWS = 256
"""Flows that are open at the same time."""
BATCHES = 16
LAYERS = 32
MESSAGE_PACKETS = 16
"""Packets in a message of a flow."""
LONGEST_FLOW_PACKETS = 400
PACKETS_PER_ACK = 2
FRAME_NS = wire_bytes(FULL_FRAME_BYTES) * 8 * 1_000_000_000 // TOPOLOGY.rate_bps
"""Transmission time of a full frame on a port's link."""
LONGEST_SLACK_US = 400_000

_STAGES = (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D)
_SHIM_TYPE = ETHERTYPE_MFS.to_bytes(2, "big")

Frame = tuple[Host, bytes]
"""A frame and the host that sends it."""


class _Flow:
    """The packets of one flow between two hosts, stamped as its host would stamp them."""

    def __init__(self, draw: random.Random, connection: int) -> None:
        self.source, self.target = draw.sample(TOPOLOGY.hosts, 2)
        stage = draw.choice(_STAGES)
        batch = draw.randrange(1, BATCHES + 1)
        target_layer = LAYERS if stage == Stage.P2D else draw.randrange(LAYERS)
        self.left = self.total = draw.randrange(1, LONGEST_FLOW_PACKETS)
        self._deadline_us = draw.randrange(LONGEST_SLACK_US)
        self._template = StampTemplate(stage, batch, connection % (1 << 16), target_layer)
        self._ack_template = StampTemplate(Stage.NONE, batch, 0, 0)
        self._data = _headers(self.source, self.target, connection, DATA_BYTES + SEGMENT_BYTES)
        self._ack = _headers(self.target, self.source, connection, ACK_BYTES)

    def frames(self, layer: int, now_us: int) -> Iterator[Frame]:
        """Yield the flow's next packet, and the acknowledgement if one is due."""
        sent = self.total - self.left
        flags = Flags.FIRST if sent == 0 else Flags.NONE
        flags |= Flags.BOUNDARY if sent % MESSAGE_PACKETS == 0 else Flags.NONE
        flags |= Flags.LAST if self.left == 1 else Flags.NONE
        stamp = self._template.stamp(int(flags), layer, self._deadline_us - now_us, units_of(self.left * SEGMENT_BYTES))
        self.left -= 1
        yield self.source, self._data[0] + stamp + self._data[1] + bytes(DATA_BYTES + SEGMENT_BYTES)
        if self.left % PACKETS_PER_ACK == 0:
            ack = self._ack_template.stamp(0, layer, 0, 1)
            yield self.target, self._ack[0] + ack + self._ack[1] + bytes(ACK_BYTES)


def traffic(count: int, seed: int) -> list[Frame]:
    """Return ``count`` stamped frames of many flows of all stages and batches, interleaved, with acknowledgements."""
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
    """Measure ingress and egress of the program alone, in packets per second."""
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
    """A host that sends prepared frames as fast as its link takes them, and drops what it receives."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = iter(frames)

    def pull(self, now_ns: int) -> bytes | None:  # noqa: ARG002
        """See :class:`~soft_switch.sim.network.HostPort`."""
        return next(self._frames, None)

    def receive(self, data: bytes, now_ns: int) -> None:
        """See :class:`~soft_switch.sim.network.HostPort`."""


def bench_switch(count: int, seed: int) -> float:
    """Measure the program with eight queues per port and links on the virtual clock, in packets sent per second."""
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
    """Measure the switch with hosts that have windows, acknowledgements and eight levels, in packets per second."""
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
        size = min(left, draw.randrange(1, LONGEST_FLOW_PACKETS))
        left -= size
        source, target = draw.sample(range(len(TOPOLOGY.hosts)), 2)
        stage = draw.choice(_STAGES)
        spec = FlowSpec(
            target,
            draw.randrange(1, BATCHES + 1),
            stage,
            draw.randrange(LONGEST_SLACK_US) * 1000,
            size * SEGMENT_BYTES,
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
    """Install the compiled program and its entries in ``switch``, as the controller does over P4Runtime."""
    server = P4RuntimeServer(switch, backend=backend_of_environment())
    server.start()
    try:
        controller = Controller(Session(server.address), artifact.load(), TOPOLOGY, policies.mfs())
        controller.start()
        controller.stop()
    finally:
        server.stop(0)


def measure(rounds: int, count: int) -> dict[str, int]:
    """Return the packets per second of each benchmark: the best of ``rounds`` of ``count`` different packets."""
    return {name: round(max(bench(count, seed) for seed in range(rounds))) for name, bench in BENCHES.items()}


def _all_of(count: int, passed: int) -> int:
    if passed != count:
        raise EvaluationError(f"the program dropped {count - passed} of {count} packets; the benchmark is wrong")
    return passed


def _headers(source: Host, target: Host, connection: int, payload_bytes: int) -> tuple[bytes, bytes]:
    """Return the headers before and after the stamp."""
    ethernet = TOPOLOGY.switch_mac + source.mac + _SHIM_TYPE
    return ethernet, ip_udp_header(source.ipv4.packed, target.ipv4.packed, connection, payload_bytes, 2)


@click.command(short_help="Packets per second of the embedded switch.")
@options.out_file()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds; the best counts.")
@click.option(
    "--packets", "count", type=click.IntRange(min=1), default=30_000, show_default=True, help="Packets per round."
)
def packets(out: Path | None, rounds: int, count: int) -> None:
    """Measure how many packets per second the embedded switch handles on one core."""
    machine = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpus": os.cpu_count() or 1,
        "processor": platform.processor() or platform.machine(),
    }
    rates = measure(rounds, count)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("packets/s", justify="right")
    table.add_column("what")
    for name, rate in rates.items():
        table.add_row(f"{rate:,}", f"{name}: {WHAT[name]}")
    console = Console()
    console.print(
        f"Packets per second on one core, {machine['python']}: the best of {rounds} rounds of {count:,} packets, "
        "the one least disturbed by other work on this machine",
        highlight=False,
    )
    console.print(table)
    if out is None:
        return
    numbers = {"machine": machine, "rounds": rounds, "packets_per_round": count, "packets_per_s": rates}
    with writing(out):
        write_atomically(out, json.dumps(numbers, indent=1) + "\n")
