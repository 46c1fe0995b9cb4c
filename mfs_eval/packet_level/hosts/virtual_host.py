"""A server's network interface on the virtual clock: real packets, built and stamped at the moment of sending."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from host_agent.protocol.level import LevelRule, bias_code
from host_agent.protocol.stamp import STAMP_BYTES, Stage
from host_agent.protocol.units import ETHERNET_HEADER_BYTES, WIRE_OVERHEAD_BYTES
from mfs_eval.packet_level.hosts.agent import Agent, Flow
from mfs_eval.packet_level.hosts.frames import (
    CE,
    ECT0,
    ETHERTYPE_IPV4_BYTES,
    ETHERTYPE_SHIM_BYTES,
    IP_UDP_BYTES,
    PORT_BYTES,
    PROTOCOL_UDP,
    SEGMENT_BYTES,
    Addresses,
    ip_udp_header,
)
from mfs_eval.packet_level.hosts.incoming import Incoming, IncomingConnections
from mfs_eval.packet_level.hosts.load_meter import LoadMeter
from mfs_eval.packet_level.hosts.receiver import Receiver, ReceivingEnd
from mfs_eval.packet_level.hosts.segment_header import ACK, ACK_BYTES, ACK_LAYOUT, DATA_BYTES, DATA_LAYOUT, Ack
from mfs_eval.packet_level.hosts.send_order import NOT_WAITING, SendOrder, Waiting
from mfs_eval.packet_level.hosts.sender import Sender
from mfs_eval.packet_level.hosts.stamp_template import progress_in
from mfs_eval.packet_level.hosts.transport import DEFAULT_RTO_NS, DEFAULT_WINDOW
from mfs_eval.packet_level.stranding_meter import StrandingMeter
from soft_switch.sim.events import VirtualClock
from topologies.topology import FULL_FRAME_BYTES

CONNECTIONS_PER_HOST = 1 << 20

_P2D = int(Stage.P2D)
_ZEROS = bytes(SEGMENT_BYTES)


class Acks:
    """The waiting acknowledgements, which take turns in a ring like a flow. Each turn sends one of them."""

    __slots__ = ("pending", "ring")

    def __init__(self) -> None:
        self.ring = NOT_WAITING
        self.pending: dict[int, Incoming[ReceivingEnd]] = {}


class VirtualHost:
    """One interface with its flows: a :class:`~soft_switch.sim.network.HostPort`.

    Whenever the link is free, the host picks the flow that sends next, by the same levels and rules as the switch.

    Attributes:
        agent: opens flows and learns of progress.
        wake: set by the owner to the function that makes the network pull
            (:meth:`~soft_switch.sim.network.Attachment.wake`).
        inject: set by the owner to the function that hands a frame to the switch without the link's time.
        on_complete: called with a connection when all its bytes have arrived.
        sent_packets, received_packets: data segments.
        ignored: received frames that are not for this host's transport.
    """

    def __init__(
        self,
        identity: int,
        clock: VirtualClock,
        addresses: Addresses,
        rate_bps: int,
        window: int = DEFAULT_WINDOW,
        rto_ns: int = DEFAULT_RTO_NS,
        stale_progress: bool = False,
        rerank_interval_ns: int | None = None,
        agent_type: type[Agent] = Agent,
        meter: StrandingMeter | None = None,
    ) -> None:
        """Create a host that is not attached yet.

        Args:
            identity: identifier of the host.
            clock: the virtual clock.
            addresses: of all hosts.
            rate_bps: rate of the link. The bias follows the load by early-stage flows on it, as of the last ranking.
            window: packets that a flow may have in flight.
            rto_ns: retransmission timeout.
            stale_progress: whether stamps carry no progress, neither to the switch nor to other hosts.
            rerank_interval_ns: time between rankings of waiting flows. With None they are ranked only at their turn
                and when progress becomes known.
            agent_type: class of the agent.
            meter: measures stranding on the network's connections.
        """
        self.identity = identity
        self.agent = agent_type(SEGMENT_BYTES, window, rto_ns, identity * CONNECTIONS_PER_HOST, not stale_progress)
        self.agent.on_ready = self._ready
        self.agent.on_progress = self._progressed
        self.wake: Callable[[], None] = lambda: None
        self.inject: Callable[[bytes], None] = lambda _frame: None
        self.on_complete: Callable[[int], None] | None = None
        self.sent_packets = 0
        self.received_packets = 0
        self.ignored = 0
        self._meter = meter or StrandingMeter()
        self._clock = clock
        self._addresses = addresses
        self._mac, self._ip = addresses[identity]
        self._order: SendOrder[Waiting] = SendOrder(FULL_FRAME_BYTES)
        self._acks = Acks()
        self._headers: dict[int, dict[int, tuple[bytes, bytes]]] = {}
        self._incoming: IncomingConnections[Receiver[int]] = IncomingConnections(
            identity, addresses, lambda connection: Receiver(connection, self.agent.counters), ACK_BYTES
        )
        self._rto_ns = rto_ns
        self._timer_set = False
        self._rerank_interval_ns = rerank_interval_ns
        self._rerank_set = False
        self._rate_bps = rate_bps
        self._load = LoadMeter(rate_bps)
        self.agent.set_bias(bias_code(rate_bps))

    def set_policy(self, rules: Sequence[LevelRule]) -> None:
        """Rank flows by ``rules`` from now on."""
        self.agent.set_policy(rules)
        self.rerank(self._clock.now_ns)

    def advance(self, batch: int, layer: int) -> None:
        """Learn from the local engine that ``batch`` is at ``layer``, and tell the senders of its reused KV at once.

        They are told by an extra acknowledgement on a known connection. Otherwise a sender whose next layers all wait
        behind other traffic would get no acknowledgement, hence no news, and would keep them waiting.
        """
        self.agent.advance(batch, layer)
        for connection, incoming in self._feeders(batch):
            self._acknowledge(connection, incoming)
        if self._acks.pending:
            self.wake()

    def feeds(self, batch: int, source: int) -> None:
        """Note that host ``source`` sends reused KV of ``batch``. Here the stamps of its data say so."""

    def _feeders(self, batch: int) -> Iterable[tuple[int, Incoming[ReceivingEnd]]]:
        return self._incoming.feeders(batch)

    def prune(self, requests: Iterable[int]) -> None:
        """Give up ``requests`` and no others; see :meth:`mfs_eval.packet_level.hosts.agent.Agent.prune`."""
        self.agent.prune(requests)
        self.rerank(self._clock.now_ns)

    def rerank(self, now_ns: int) -> None:
        """Rank every flow. One that is promoted may send past segments that are stranded at its lower level."""
        if self._load.update(now_ns):
            self.agent.set_bias(bias_code(self._rate_bps, self._load.load))
        if len(self._order):
            self._order.rerank(lambda entry: self._level(entry, now_ns))
        for flow in self.agent.flows.values():
            self.agent.rescue(flow, now_ns)
        self._enter_all(self.agent.flows.values())

    def has_to_send(self, flow: Flow) -> bool:
        """Return whether ``flow`` has something to send now; otherwise it awaits acknowledgements."""
        return flow.ring != NOT_WAITING

    # --- sending -------------------------------------------------------------------------------------------------

    def pull(self, now_ns: int) -> bytes | None:
        """Return the frame that leaves now; see :class:`~soft_switch.sim.network.HostPort`."""
        order = self._order
        while (entry := order.first()) is not None:
            level = self._level(entry, now_ns)
            if level != entry.ring:
                order.remove(entry)
                order.add(entry, level, first=entry is self._acks)
                continue
            if isinstance(entry, Acks):
                frame = self._next_ack(entry)
                order.sent(entry, len(frame), bool(entry.pending), first=True)
                return frame
            assert isinstance(entry, Flow)
            data = self._next_data(entry, level, now_ns)
            if data is not None:
                return data
            order.remove(entry)
        return None

    def _next_data(self, flow: Flow, level: int, now_ns: int) -> bytes | None:
        sender = flow.sender
        if flow.level is not None and level > flow.level and sender.can_send(level):
            self._meter.promoted(flow.connection, sender, level, now_ns)
        segment = sender.next_segment(now_ns, level)
        if segment is None:
            return None
        flow.level = level
        length = segment.length
        ethernet, ip_udp = self._headers[flow.connection].get(length) or self._header(flow, length)
        frame = b"".join(
            (
                ethernet,
                self.agent.stamp(flow, segment),
                ip_udp,
                DATA_LAYOUT.pack(segment.flags, length, flow.connection, segment.sequence),
                _ZEROS if length == SEGMENT_BYTES else _ZEROS[:length],
            )
        )
        self.sent_packets += 1
        if flow.kind != _P2D:
            self._load.count(len(frame) + WIRE_OVERHEAD_BYTES)
        if not self._timer_set:
            self._set_timer(now_ns + self._rto_ns)
        self._order.sent(flow, len(frame), sender.sends_on)
        return frame

    def _header(self, flow: Flow, length: int) -> tuple[bytes, bytes]:
        mac, ip = self._addresses[flow.spec.destination]
        header = (
            mac + self._mac + ETHERTYPE_SHIM_BYTES,
            ip_udp_header(self._ip, ip, flow.connection, DATA_BYTES + length, ECT0),
        )
        self._headers[flow.connection][length] = header
        return header

    def _next_ack(self, acks: Acks) -> bytes:
        connection = next(iter(acks.pending))
        incoming = acks.pending.pop(connection)
        batch = incoming.batch
        stamp = incoming.template.stamp(0, self.agent.current_layer(batch), 0, 1)
        return b"".join((incoming.ethernet, stamp, incoming.ip_udp, incoming.receiver.packed_ack()))

    def _level(self, entry: Waiting, now_ns: int) -> int:
        if entry is self._acks:
            return self.agent.decide(0, 0, 0, 1)
        assert isinstance(entry, Flow)
        return self.agent.level(entry, now_ns)

    def _ready(self, flow: Flow) -> None:
        """Queue ``flow``, which may have something to send."""
        if flow.connection not in self._headers:
            self._headers[flow.connection] = {}
        if self._enter(flow):
            self.wake()

    def _enter(self, flow: Flow) -> bool:
        if flow.ring != NOT_WAITING:
            return False
        level = self.agent.level(flow, self._clock.now_ns)
        if not flow.sender.can_send(level):
            return False
        self._order.add(flow, level)
        self._set_rerank()
        return True

    def _rerank_due(self) -> None:
        self.rerank(self._clock.now_ns)
        self._rerank_set = False
        if len(self._order) or any(flow.sender.next_timeout_ns is not None for flow in self.agent.flows.values()):
            self._set_rerank()

    def _set_rerank(self) -> None:
        if self._rerank_interval_ns is not None and not self._rerank_set:
            self._rerank_set = True
            self._clock.call_after(self._rerank_interval_ns, self._rerank_due)

    def _enter_all(self, flows: Iterable[Flow]) -> None:
        entered = False
        for flow in flows:
            entered |= flow.ring == NOT_WAITING and self._enter(flow)
        if entered:
            self.wake()

    def _progressed(self, batch: int) -> None:
        now_ns = self._clock.now_ns
        flows = [flow for flow in self.agent.flows.values() if flow.spec.batch == batch]
        for flow in flows:
            if flow.ring != NOT_WAITING and (level := self.agent.level(flow, now_ns)) != flow.ring:
                self._order.remove(flow)
                self._order.add(flow, level)
        self._enter_all(flows)

    def _set_timer(self, time_ns: int) -> None:
        self._timer_set = True
        self._clock.call_at(time_ns, self._timer_due)

    def _timer_due(self) -> None:
        now_ns = self._clock.now_ns
        self._timer_set = False
        woken = False
        earliest: int | None = None
        for flow in self.agent.flows.values():
            if flow.sender.on_timeout(now_ns):
                woken |= self._enter(flow)
            due_ns = flow.sender.next_timeout_ns
            if due_ns is not None and (earliest is None or due_ns < earliest):
                earliest = due_ns
        if earliest is not None:
            # One timer serves all flows, up to a quarter of the timeout late, which keeps the number of timers low.
            self._set_timer(max(earliest, now_ns + self._rto_ns // 4))
        if woken:
            self.wake()

    # --- receiving -----------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now_ns: int) -> None:  # noqa: ARG002
        """Process a received frame; see :class:`~soft_switch.sim.network.HostPort`."""
        ether_type = data[12:14]
        batch = stage = 0
        ip = ETHERNET_HEADER_BYTES
        if ether_type == ETHERTYPE_SHIM_BYTES and len(data) >= ETHERNET_HEADER_BYTES + STAMP_BYTES:
            stage, batch, layer = progress_in(data, ETHERNET_HEADER_BYTES)
            self.agent.learn(batch, layer)
            ip += STAMP_BYTES
            ether_type = data[16:18]
        header = ip + IP_UDP_BYTES
        if (
            ether_type != ETHERTYPE_IPV4_BYTES
            or len(data) < header + DATA_BYTES
            or data[ip + 9] != PROTOCOL_UDP
            or data[ip + 22 : ip + 24] != PORT_BYTES
            or data[ip + 16 : ip + 20] != self._ip
        ):
            self.ignored += 1
        elif data[header] & ACK:
            self._receive_ack(data, header)
        else:
            self._receive_data(data, ip, batch, stage)

    def _receive_ack(self, data: bytes, header: int) -> None:
        if len(data) < header + ACK_BYTES:
            return
        ack = Ack._make(ACK_LAYOUT.unpack_from(data, header))
        flow = self.agent.flows.get(ack.connection)
        if flow is None:
            return
        sender = flow.sender
        assert isinstance(sender, Sender)
        sender.on_ack(ack)
        self._meter.acknowledged(ack.connection, sender, self._clock.now_ns)
        if sender.done:
            self._order.remove(flow)
            self.agent.forget(flow)
            del self._headers[flow.connection]
        elif flow.ring == NOT_WAITING and self._enter(flow):
            self.wake()

    def _receive_data(self, data: bytes, ip: int, batch: int, stage: int) -> None:
        flags, length, connection, sequence = DATA_LAYOUT.unpack_from(data, ip + IP_UDP_BYTES)
        self.received_packets += 1
        incoming = self._incoming.get(connection)
        if incoming is None:
            incoming = self._incoming.accept(connection, data[6:12], data[ip + 12 : ip + 16], batch, stage)
        receiver = incoming.receiver
        was_complete = receiver.complete
        if not receiver.has(sequence):
            self._meter.arrived(connection, sequence, flags)
        receiver.on_segment(sequence, flags, length, data[ip + 1] & CE == CE)
        if receiver.ack_due:
            self._acknowledge(connection, incoming)
        if receiver.complete and not was_complete:
            self._incoming.finish(connection)
            self._meter.completed(connection)
            if self.on_complete is not None:
                self.on_complete(connection)
        if self._acks.pending:
            self.wake()

    def _acknowledge(self, connection: int, incoming: Incoming[ReceivingEnd]) -> None:
        self._acks.pending[connection] = incoming
        if self._acks.ring == NOT_WAITING:
            # Before the data of its level: waiting behind it would only delay the acknowledgement.
            self._order.add(self._acks, self._level(self._acks, 0), first=True)
