"""A recorder of one run: when each flow left its sender, waited in which queue at which level, and why it rose.

It observes and changes nothing: a run gives the same results with it and without. It keeps a few numbers for each
packet and hop, so it is meant for single runs.
"""

from __future__ import annotations

import struct
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import LEVELS, REMAINING_UNIT_BYTES, SCAVENGER, STAMP_BYTES
from host_agent.protocol.units import ETHERNET_HEADER_BYTES
from mfs_eval.packet_level.hosts.agent import Agent, Flow
from mfs_eval.packet_level.hosts.frames import ETHERTYPE_SHIM_BYTES, IP_UDP_BYTES
from mfs_eval.packet_level.hosts.segment_header import ACK, DATA_LAYOUT
from mfs_eval.packet_level.hosts.virtual_host import VirtualHost
from mfs_eval.packet_level.packet_network import PacketNetwork
from mfs_eval.serving.metrics import RequestRecord
from mfs_eval.serving.network_interface import Network, PassingNetwork
from mfs_eval.serving.prefill_batch import BatchRecord
from soft_switch.queues.traffic_manager import Dequeued, NewPort, Port, QueueConfig, wire_bytes
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import HostPort

T = TypeVar("T")

_NS_BITS = 8 * 1_000_000_000
_TRANSPORT = ETHERNET_HEADER_BYTES + STAMP_BYTES + IP_UDP_BYTES
_STAMP = struct.Struct("!10xBBiI4x")


class Place(NamedTuple):
    """A queueing place: a NIC (``switch`` is None, ``number`` is the host) or a port of a switch."""

    switch: int | None
    number: int


class Inputs(NamedTuple):
    """The fields of a stamp that decide a level: relative layer index, slack (µs), and remaining bytes."""

    rli: int
    slack_us: int
    remaining_bytes: int


class LevelChange(NamedTuple):
    """A flow's level at a place changed with a packet that left (NIC) or arrived (switch) at ``time_ns``.

    ``before`` and ``earlier`` (the inputs when the former level began) are None at the flow's first packet there.
    ``reason`` is one of the keys of :data:`REASONS`.
    """

    time_ns: int
    place: Place
    before: int | None
    after: int
    reason: str
    earlier: Inputs | None
    inputs: Inputs


REASONS = {
    "first": "its first packet",
    "layer": "the batch came closer to the layer that needs it",
    "time": "its slack ran down against what it has left to send",
    "layer and time": "the batch came closer to its layer, and its slack ran down",
    "late": "its deadline passed",
    "load or thresholds": "the load of the link or the thresholds changed",
    "seen": "as its host's agent had it",
}


class Transmission(NamedTuple):
    """A packet on a link: of which flow (None for other packets), its level, and when it waited and left.

    ``queued_ns`` is the time at which it entered the queue of a switch port; at a NIC, where packets are made when the
    link is free, it is ``start_ns``.
    """

    queued_ns: int
    start_ns: int
    end_ns: int
    flow: RecordedFlow | None
    sequence: int
    level: int


@dataclass(slots=True, eq=False)
class RecordedFlow:
    """A flow and what became of it.

    Attributes:
        index: number in the order of opening, from 0.
        source: host that sends it.
        spec: its purpose.
        opened_ns, completed_ns: when it was opened, and when all its bytes had arrived.
        last_sequence: the segment that arrived last.
        resent: segments sent more than once.
        dropped: packets dropped in queues.
        blocked: intervals in which it had nothing to send but awaited acknowledgements.
        changes: changes of its level, in order of time.
        sent: its data packets on the NIC's link.
        passages: its data packets on links of switch ports, in order of time.
    """

    index: int
    source: int
    spec: FlowSpec
    opened_ns: int
    completed_ns: int = -1
    last_sequence: int = -1
    resent: int = 0
    dropped: int = 0
    blocked: list[tuple[int, int]] = field(default_factory=list)
    changes: list[LevelChange] = field(default_factory=list)
    sent: list[Transmission] = field(default_factory=list)
    passages: list[tuple[Place, Transmission]] = field(default_factory=list)


@dataclass(slots=True)
class _Open:
    """State of a flow that is not complete."""

    record: RecordedFlow
    flow: Flow
    agent: Agent
    blocked_ns: int | None = None
    # By place: the level of the latest packet, and the inputs with which the level began.
    levels: dict[Place, tuple[int, Inputs]] = field(default_factory=dict)
    sequences: set[int] = field(default_factory=set)


class FlightRecorder:
    """Records one run; pass it to :func:`mfs_eval.packet_level.experiment.run`.

    Attributes:
        clock: the clock of the run.
        flows: all flows between hosts, in the order of opening.
        links: transmissions by place, in order of time.
        advances: by batch, when each step ended, and the layers done by then.
        requests: outcome of each request, by index.
        batches: history of each batch, by number.
    """

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.flows: list[RecordedFlow] = []
        self.links: defaultdict[Place, list[Transmission]] = defaultdict(list)
        self.advances: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self.requests: dict[int, RequestRecord] = {}
        self.batches: dict[int, BatchRecord] = {}
        self._open: dict[int, _Open] = {}
        self._network: PacketNetwork | None = None
        self._opened: RecordedFlow | None = None
        # The packet that a switch processes now: its flow's connection, sequence, and inputs of the level.
        self._arriving: tuple[_Open | None, int, Inputs] = (None, 0, Inputs(0, 0, 0))
        self._delivered = 0

    # --- where it is attached ------------------------------------------------------------------------------------

    def attach(self, network: PacketNetwork) -> None:
        """Observe ``network``, whose ports and interfaces are those of :meth:`new_port` and :meth:`interface`."""
        self._network = network
        network.on_open = self._flow_opened
        network.network.trace = self._frame_moved

    def new_port(self, switch: int) -> NewPort:
        """Return what makes the ports of the switch with this index."""
        return lambda number, rate_bps, queues: _RecordingPort(rate_bps, queues, self, Place(switch, number))

    def interface(self, host: VirtualHost, rate_bps: int) -> HostPort:
        """Return what is attached to the network for ``host``, whose link has ``rate_bps``."""
        return _RecordingInterface(self, host, rate_bps)

    def serving_network(self, network: Network) -> Network:
        """Return ``network`` as the serving model is to see it."""
        return _RecordingNetwork(network, self)

    def finish(self, requests: Iterable[RequestRecord], batches: Iterable[BatchRecord]) -> None:
        """Take what the serving model recorded."""
        self.requests = {record.index: record for record in requests}
        self.batches = {record.batch: record for record in batches}

    # --- events --------------------------------------------------------------------------------------------------

    def _flow_opened(self, source: int, flow: Flow) -> None:
        assert self._network is not None
        record = RecordedFlow(len(self.flows), source, flow.spec, self.clock.now_ns)
        self.flows.append(record)
        self._open[flow.connection] = _Open(record, flow, self._network.hosts[source].agent)
        self._opened = record

    def _frame_moved(self, _time_ns: int, place: str, frame: bytes) -> None:
        if place.startswith("port") and place.endswith("in"):
            is_data, connection, sequence = _segment(frame)
            target, current, slack_us, remaining = (
                _STAMP.unpack_from(frame, ETHERNET_HEADER_BYTES) if is_data else (0, 0, 0, 0)
            )
            inputs = Inputs(max(0, target - current), slack_us, remaining * REMAINING_UNIT_BYTES)
            self._arriving = self._open.get(connection) if is_data else None, sequence, inputs

    def _enqueued(self, place: Place, level: int, accepted: bool) -> tuple[RecordedFlow | None, int]:
        opened, sequence, inputs = self._arriving
        if opened is None:
            return None, sequence
        if not accepted:
            opened.record.dropped += 1
        self._ranked(opened, place, level, inputs)
        return opened.record, sequence

    def _sent(self, host: VirtualHost, frame: bytes, place: Place, duration_ns: int) -> None:
        now_ns = self.clock.now_ns
        is_data, connection, sequence = _segment(frame)
        opened = self._open.get(connection) if is_data else None
        level = 0
        if opened is not None:
            flow, record = opened.flow, opened.record
            level = flow.level if flow.level is not None else 0
            rli = max(0, flow.spec.target_layer - host.agent.current_layer(flow.spec.batch))
            self._ranked(opened, place, level, Inputs(rli, flow.slack_us, flow.remaining * REMAINING_UNIT_BYTES))
            self._unblock(opened)
            record.resent += sequence in opened.sequences
            opened.sequences.add(sequence)
            if not host.has_to_send(flow):
                opened.blocked_ns = now_ns
        sent = Transmission(
            now_ns, now_ns, now_ns + duration_ns, opened.record if opened is not None else None, sequence, level
        )
        self.links[place].append(sent)
        if opened is not None:
            opened.record.sent.append(sent)

    def _received(self, host: VirtualHost, frame: bytes) -> None:
        """Note that ``host`` has processed a frame, perhaps an acknowledgement that lets a flow go on."""
        is_data, connection, _ = _segment(frame)
        opened = None if is_data else self._open.get(connection)
        if opened is not None and opened.blocked_ns is not None and host.has_to_send(opened.flow):
            self._unblock(opened)

    def _unblock(self, opened: _Open) -> None:
        if opened.blocked_ns is not None:
            opened.record.blocked.append((opened.blocked_ns, self.clock.now_ns))
            opened.blocked_ns = None

    def _completed(self, record: RecordedFlow, now_ns: int) -> None:
        record.completed_ns = now_ns
        record.last_sequence = self._delivered

    def _ranked(self, opened: _Open, place: Place, level: int, inputs: Inputs) -> None:
        known = opened.levels.get(place)
        if known is not None and known[0] == level:
            return
        before, earlier = known if known is not None else (None, None)
        reason = _reason(opened.agent, opened.flow.kind, earlier, inputs, level)
        opened.record.changes.append(LevelChange(self.clock.now_ns, place, before, level, reason, earlier, inputs))
        opened.levels[place] = level, inputs


def _reason(agent: Agent, stage: int, earlier: Inputs | None, now: Inputs, level: int) -> str:
    """Return which change of the inputs alone gives ``level`` by the rules in force; a key of :data:`REASONS`."""
    if earlier is None:
        return "first"
    if level == SCAVENGER and now.slack_us <= 0:
        return "late"

    def decided(rli: int, other: Inputs) -> bool:
        return agent.decide(stage, rli, other.slack_us, other.remaining_bytes // REMAINING_UNIT_BYTES) == level

    if now.rli != earlier.rli and decided(now.rli, earlier):
        return "layer"
    if not decided(earlier.rli, earlier):
        if decided(earlier.rli, now):
            return "time"
        if now.rli != earlier.rli and decided(now.rli, now):
            return "layer and time"
    return "load or thresholds"


def _segment(frame: bytes) -> tuple[bool, int, int]:
    """Return whether a frame carries data of a flow, its connection (-1 if it has none), and its sequence number."""
    if frame[12:14] != ETHERTYPE_SHIM_BYTES or len(frame) < _TRANSPORT + DATA_LAYOUT.size:
        return False, -1, 0
    flags, _, connection, sequence = DATA_LAYOUT.unpack_from(frame, _TRANSPORT)
    return not flags & ACK, connection, sequence


class _RecordingNetwork(PassingNetwork):
    """Tells the recorder of the completion of flows and of the progress of batches."""

    def __init__(self, network: Network, recorder: FlightRecorder) -> None:
        super().__init__(network)
        self._recorder = recorder

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        recorder = self._recorder
        recorder._opened = None

        def completed(now_ns: int) -> None:
            if record is not None:
                recorder._completed(record, now_ns)
            on_complete(now_ns)

        super().start_flow(source_host, spec, completed)
        # None for data of a host for itself.
        record = recorder._opened

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        self._recorder.advances[batch].append((self.now_ns, layer))
        super().advance(hosts, batch, layer)


class _RecordingInterface:
    """A host's interface that tells the recorder of each frame."""

    def __init__(self, recorder: FlightRecorder, host: VirtualHost, rate_bps: int) -> None:
        self._recorder = recorder
        self._host = host
        self._rate_bps = rate_bps
        self._place = Place(None, host.identity)

    def pull(self, now_ns: int) -> bytes | None:
        frame = self._host.pull(now_ns)
        if frame is not None:
            duration_ns = wire_bytes(len(frame)) * _NS_BITS // self._rate_bps
            self._recorder._sent(self._host, frame, self._place, duration_ns)
        return frame

    def receive(self, data: bytes, now_ns: int) -> None:
        self._recorder._delivered = _segment(data)[2]
        self._host.receive(data, now_ns)
        self._recorder._received(self._host, data)


class _RecordingPort(Port[T]):
    """A port that tells the recorder what waits in its queues, and for how long."""

    __slots__ = ("_place", "_recorder", "_waiting")

    def __init__(
        self, rate_bps: int, queues: Sequence[QueueConfig] | None, recorder: FlightRecorder, place: Place
    ) -> None:
        super().__init__(rate_bps, queues)
        self._recorder = recorder
        self._place = place
        self._waiting: tuple[deque[tuple[RecordedFlow | None, int, int]], ...] = tuple(deque() for _ in range(LEVELS))

    def enqueue(self, item: T, length: int, priority: int, now_ns: int) -> bool:
        accepted = super().enqueue(item, length, priority, now_ns)
        flow, sequence = self._recorder._enqueued(self._place, priority, accepted)
        if accepted:
            self._waiting[priority].append((flow, sequence, length))
        return accepted

    def next(self) -> Dequeued[T] | None:
        dequeued: Dequeued[Any] | None = super().next()
        if dequeued is not None:
            flow, sequence, length = self._waiting[dequeued.queue].popleft()
            now_ns = self._recorder.clock.now_ns
            end_ns = now_ns + wire_bytes(length) * _NS_BITS // self.rate_bps
            passed = Transmission(dequeued.enqueued_ns, now_ns, end_ns, flow, sequence, dequeued.queue)
            self._recorder.links[self._place].append(passed)
            if flow is not None:
                flow.passages.append((self._place, passed))
        return dequeued
