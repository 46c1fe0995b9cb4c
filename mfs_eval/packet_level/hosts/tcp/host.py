"""A virtual host whose transport is the simulated TCP, with a queue of its own as Linux has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import bias_code
from host_agent.protocol.stamp import Stage
from host_agent.protocol.units import WIRE_OVERHEAD_BYTES
from mfs_eval.packet_level.hosts.agent import Flow
from mfs_eval.packet_level.hosts.frames import ETHERTYPE_SHIM_BYTES, IP_UDP_BYTES, ip_udp_header
from mfs_eval.packet_level.hosts.incoming import Incoming, IncomingConnections
from mfs_eval.packet_level.hosts.receiver import ReceivingEnd
from mfs_eval.packet_level.hosts.send_order import NOT_WAITING
from mfs_eval.packet_level.hosts.tcp.header import (
    TCP_ACK_BYTES,
    TCP_ACK_LAYOUT,
    TCP_DATA_BYTES,
    TCP_DATA_LAYOUT,
    TCP_SEGMENT_BYTES,
    TcpAck,
)
from mfs_eval.packet_level.hosts.tcp.receiver import TcpReceiver
from mfs_eval.packet_level.hosts.tcp.sender import Connection, TcpSender
from mfs_eval.packet_level.hosts.virtual_host import Acks, VirtualHost
from mfs_eval.setup.run_settings import TcpSettings

QUEUED_SEGMENTS = 2
"""Segments that a flow may have in the host's own queue (Linux's TCP small queues)."""
_P2D = int(Stage.P2D)
_ZEROS = bytes(TCP_SEGMENT_BYTES)
_NEVER = 1 << 62


class _Queued:
    """A segment in the host's queue. It keeps the level and the stamp with which it entered."""

    __slots__ = ("flow", "frame", "ring", "sequence")

    def __init__(self, flow: Flow, sequence: int, frame: bytes) -> None:
        self.flow = flow
        self.sequence = sequence
        self.frame = frame
        self.ring = NOT_WAITING


class TcpHost(VirtualHost):
    """One interface with its flows as TCP connections.

    Unlike a :class:`VirtualHost`, which picks a flow whenever the link is free, it ranks a segment when it enters the
    host's queue, as HTB below TCP does: a promotion does not move what waits there. Each flow has at most
    :data:`QUEUED_SEGMENTS` in it. Acknowledgements still wait in one place, one per connection, with the news of the
    moment at which they leave.

    A flow takes the connection to its destination that became free last, with its window and round trips, as between
    serving engines that keep connections. Sequence numbers start anew, and a handshake is not simulated.
    """

    def __init__(self, *arguments: Any, tcp: TcpSettings, **options: Any) -> None:
        """Create a host. All arguments but ``tcp`` are those of :class:`VirtualHost`; its ``window`` has no effect."""
        super().__init__(*arguments, **options)
        self._tcp = tcp
        self.agent.new_sender = self._new_sender
        self._idle: defaultdict[int, list[Connection]] = defaultdict(list)
        self._tcp_incoming: IncomingConnections[TcpReceiver] = IncomingConnections(
            self.identity,
            self._addresses,
            lambda connection: TcpReceiver(connection, tcp, self.agent.counters),
            TCP_ACK_BYTES,
        )
        self._timer_ns = _NEVER

    def rerank(self, now_ns: int) -> None:
        """Follow the load. What waits in the queue stays at its level, and other flows are ranked when they send."""
        if self._load.update(now_ns):
            self.agent.set_bias(bias_code(self._rate_bps, self._load.load))

    def has_to_send(self, flow: Flow) -> bool:
        """See :meth:`VirtualHost.has_to_send`."""
        return _sender(flow).queued > 0

    def pull(self, now_ns: int) -> bytes | None:  # noqa: ARG002
        """Return the frame that leaves now; see :class:`~soft_switch.sim.network.HostPort`."""
        order = self._order
        entry = order.first()
        if entry is None:
            return None
        if isinstance(entry, Acks):
            frame = self._next_ack(entry)
            order.sent(entry, len(frame), bool(entry.pending), first=True)
            return frame
        assert isinstance(entry, _Queued)
        order.sent(entry, len(entry.frame), False)
        flow = entry.flow
        self.sent_packets += 1
        if flow.kind != _P2D:
            self._load.count(len(entry.frame) + WIRE_OVERHEAD_BYTES)
        _sender(flow).left(entry.sequence)
        if flow.connection in self._headers:
            self._enter(flow)
        return entry.frame

    # --- sending -------------------------------------------------------------------------------------------------

    def _new_sender(self, spec: FlowSpec) -> TcpSender:
        idle = self._idle[spec.destination]
        return TcpSender(self._tcp, self.agent.counters, idle.pop() if idle else None)

    def _feeders(self, batch: int) -> Iterable[tuple[int, Incoming[ReceivingEnd]]]:
        return self._tcp_incoming.feeders(batch)

    def _progressed(self, batch: int) -> None:
        """Do nothing: a flow learns of it with its next segment."""

    def _enter(self, flow: Flow) -> bool:
        """Fill the flow's part of the queue; return whether something was added."""
        sender = _sender(flow)
        now_ns = self._clock.now_ns
        entered = False
        while sender.queued < QUEUED_SEGMENTS and sender.can_send(0):
            level = self.agent.level(flow, now_ns)
            if flow.level is not None and level > flow.level:
                self._meter.promoted(flow.connection, sender, level, now_ns)
            segment = sender.next_segment(now_ns, level)
            assert segment is not None
            flow.level = level
            length = segment.length
            ethernet, ip_udp = self._headers[flow.connection].get(length) or self._header(flow, length)
            header = TCP_DATA_LAYOUT.pack(
                segment.flags, length, flow.connection, segment.sequence, sender.stamp(now_ns) & 0xFFFFFFFF
            )
            payload = _ZEROS if length == TCP_SEGMENT_BYTES else _ZEROS[:length]
            frame = b"".join((ethernet, self.agent.stamp(flow, segment), ip_udp, header, payload))
            self._order.add(_Queued(flow, segment.sequence, frame), level)
            entered = True
        if entered:
            self._set_rerank()
        self._arm(sender)
        return entered

    def _header(self, flow: Flow, length: int) -> tuple[bytes, bytes]:
        mac, ip = self._addresses[flow.spec.destination]
        header = (
            mac + self._mac + ETHERTYPE_SHIM_BYTES,
            ip_udp_header(self._ip, ip, flow.connection, TCP_DATA_BYTES + length, 0),
        )
        self._headers[flow.connection][length] = header
        return header

    def _arm(self, sender: TcpSender) -> None:
        due_ns = sender.next_timeout_ns
        if due_ns is not None and due_ns < self._timer_ns:
            self._timer_ns = due_ns
            self._clock.call_at(max(due_ns, self._clock.now_ns), self._tcp_timer_due, due_ns)

    def _tcp_timer_due(self, set_ns: int) -> None:
        if set_ns != self._timer_ns:
            return  # an earlier one replaced it
        self._timer_ns = _NEVER
        now_ns = self._clock.now_ns
        woken = False
        for flow in list(self.agent.flows.values()):
            sender = _sender(flow)
            if sender.on_timeout(now_ns):
                woken |= self._enter(flow)
            self._arm(sender)
        if woken:
            self.wake()

    # --- receiving -----------------------------------------------------------------------------------------------

    def _receive_ack(self, data: bytes, header: int) -> None:
        if len(data) < header + TCP_ACK_BYTES:
            return
        ack = TcpAck._make(TCP_ACK_LAYOUT.unpack_from(data, header))
        flow = self.agent.flows.get(ack.connection)
        if flow is None:
            return
        sender = _sender(flow)
        sender.on_ack(ack, self._clock.now_ns)
        self._meter.acknowledged(ack.connection, sender, self._clock.now_ns)
        if sender.done:
            self.agent.forget(flow)
            del self._headers[flow.connection]
            self._idle[flow.spec.destination].append(sender.connection)
        elif self._enter(flow):
            self.wake()

    def _receive_data(self, data: bytes, ip: int, batch: int, stage: int) -> None:
        if len(data) < ip + IP_UDP_BYTES + TCP_DATA_BYTES:
            self.ignored += 1
            return
        flags, _, connection, sequence, stamp = TCP_DATA_LAYOUT.unpack_from(data, ip + IP_UDP_BYTES)
        self.received_packets += 1
        incoming = self._tcp_incoming.get(connection)
        if incoming is None:
            incoming = self._tcp_incoming.accept(connection, data[6:12], data[ip + 12 : ip + 16], batch, stage)
        receiver = incoming.receiver
        was_complete = receiver.complete
        delayed = receiver.ack_by_ns is not None
        if receiver.on_segment(sequence, flags, stamp, self._clock.now_ns):
            self._meter.arrived(connection, sequence, flags)
        if receiver.ack_due:
            self._acknowledge(connection, incoming)
        elif receiver.ack_by_ns is not None and not delayed:
            self._clock.call_at(receiver.ack_by_ns, self._delayed_ack_due, connection, incoming)
        if receiver.complete and not was_complete:
            self._tcp_incoming.finish(connection)
            self._meter.completed(connection)
            if self.on_complete is not None:
                self.on_complete(connection)
        if self._acks.pending:
            self.wake()

    def _delayed_ack_due(self, connection: int, incoming: Incoming[TcpReceiver]) -> None:
        due_ns = incoming.receiver.ack_by_ns
        if due_ns is not None and due_ns <= self._clock.now_ns:
            self._acknowledge(connection, incoming)
            self.wake()


def _sender(flow: Flow) -> TcpSender:
    assert isinstance(flow.sender, TcpSender)
    return flow.sender
