"""A server's network interface on the virtual clock: real packets, made and stamped at the moment of sending.

Frames are Ethernet, MFS shim, IPv4, UDP, transport header, and zeros for the payload.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

from host_agent.protocol.level import LevelRule, bias_code
from host_agent.protocol.stamp import ETHERTYPE_MFS, STAMP_BYTES, Stage
from host_agent.protocol.units import WIRE_OVERHEAD_BYTES
from mfs_eval.packet_level.hosts.agent import Agent, Flow
from mfs_eval.packet_level.hosts.load_meter import LoadMeter
from mfs_eval.packet_level.hosts.segment_header import ACK, ACK_BYTES, ACK_LAYOUT, DATA_BYTES, DATA_LAYOUT, PORT, Ack
from mfs_eval.packet_level.hosts.send_order import NOT_WAITING, SendOrder
from mfs_eval.packet_level.hosts.stamp_template import Stamper, progress_in
from mfs_eval.packet_level.hosts.transport import DEFAULT_RTO_NS, DEFAULT_WINDOW, Receiver
from mfs_eval.packet_level.stranding_meter import StrandingMeter
from soft_switch.sim.events import VirtualClock

Addresses = Mapping[int, tuple[bytes, bytes]]
"""MAC (6 bytes) and IPv4 address (4 bytes) of each host, by its identifier."""

ETHERNET_BYTES = 14
IP_UDP_BYTES = 28
IP_PACKET_BYTES = 1500
SEGMENT_BYTES = IP_PACKET_BYTES - IP_UDP_BYTES - DATA_BYTES
"""Payload of a full segment."""
FRAME_BYTES = ETHERNET_BYTES + STAMP_BYTES + IP_PACKET_BYTES
CONNECTIONS_PER_HOST = 1 << 20
FINISHED_KEPT = 65_536
"""Connections whose end a receiver remembers, to acknowledge what is sent twice."""
FED_BATCHES = 64
"""Batches for which a receiver remembers who sends it reused KV; the oldest is forgotten first."""

_IP_UDP = struct.Struct("!BBHHHBBH4s4sHHHH")
_IP_CHECKSUM_OFFSET = 10
_ETHERTYPE_IPV4 = b"\x08\x00"
_ETHERTYPE_SHIM = ETHERTYPE_MFS.to_bytes(2, "big")
_PROTOCOL_UDP = 17
_PORT = PORT.to_bytes(2, "big")
_DONT_FRAGMENT = 0x4000
_ECT0 = 2
_CE = 3
_ZEROS = bytes(SEGMENT_BYTES)
_KV_REUSE = int(Stage.KV_REUSE)
_FIRST_EPHEMERAL_PORT = 49_152
_EPHEMERAL_PORTS = 16_384


def ip_udp_header(
    source: bytes, destination: bytes, connection: int, payload_bytes: int, ecn: int, port: int = PORT
) -> bytes:
    """IPv4 (RFC 791) and UDP (RFC 768) headers, 28 bytes, without UDP checksum. The source port spreads connections."""
    header = bytearray(
        _IP_UDP.pack(
            0x45,
            ecn,
            IP_UDP_BYTES + payload_bytes,
            0,
            _DONT_FRAGMENT,
            64,
            _PROTOCOL_UDP,
            0,
            source,
            destination,
            _FIRST_EPHEMERAL_PORT + connection % _EPHEMERAL_PORTS,
            port,
            8 + payload_bytes,
            0,
        )
    )
    total = sum(struct.unpack_from("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", header, _IP_CHECKSUM_OFFSET, ~total & 0xFFFF)
    return bytes(header)


class _Acks:
    """The acknowledgements that wait; one turn of it sends one. Stands in a ring like a flow."""

    __slots__ = ("pending", "ring")

    def __init__(self) -> None:
        self.ring = NOT_WAITING
        self.pending: dict[int, _Incoming] = {}


class _Incoming:
    """The receiving end of a connection, and how to answer it."""

    __slots__ = ("batch", "ethernet", "ip_udp", "receiver", "stamper")

    def __init__(self, receiver: Receiver[int], ethernet: bytes, ip_udp: bytes, batch: int) -> None:
        self.receiver = receiver
        self.ethernet = ethernet
        self.ip_udp = ip_udp
        self.batch = batch
        self.stamper = Stamper(Stage.NONE, batch, 0, 0)


class VirtualHost:
    """One interface with its flows: a :class:`~soft_switch.sim.network.HostPort`.

    Which flow sends is decided when the link is free, by the same levels and rules as in the switch.

    Attributes:
        agent: opens flows, and is told of progress.
        wake: to be set to what makes the network pull (:meth:`~soft_switch.sim.network.Attachment.wake`).
        on_complete: called with a connection of which all bytes have come in.
        sent_packets, received_packets: data segments.
        ignored: frames that are not for this host's transport.
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
        """``rate_bps``: of the link. The bias follows the load of early-stage flows on it, as of the last ranking.

        ``stale_progress``: stamps carry no progress, neither to the switch nor to other hosts.

        ``rerank_interval_ns``: how often flows are ranked also while they wait; None leaves it to their turn and to
        news of progress.

        ``meter``: of the network's connections.
        """
        self.identity = identity
        self.agent = agent_type(SEGMENT_BYTES, window, rto_ns, identity * CONNECTIONS_PER_HOST, not stale_progress)
        self.agent.on_ready = self._ready
        self.agent.on_progress = self._progressed
        self.wake: Callable[[], None] = lambda: None
        self.on_complete: Callable[[int], None] | None = None
        self.sent_packets = 0
        self.received_packets = 0
        self.ignored = 0
        self._meter = meter or StrandingMeter()
        self._clock = clock
        self._addresses = addresses
        self._mac, self._ip = addresses[identity]
        self._by_ip = {ip: host for host, (_, ip) in addresses.items()}
        self._order: SendOrder[Flow | _Acks] = SendOrder(FRAME_BYTES)
        self._acks = _Acks()
        self._headers: dict[int, dict[int, tuple[bytes, bytes]]] = {}
        self._incoming: dict[int, _Incoming] = {}
        self._finished: dict[int, _Incoming] = {}
        # By batch and sender's address: a connection that brought reused KV from there.
        self._feeders: dict[int, dict[bytes, tuple[int, _Incoming]]] = {}
        self._rto_ns = rto_ns
        self._timer_set = False
        self._rerank_interval_ns = rerank_interval_ns
        self._rerank_set = False
        self._rate_bps = rate_bps
        self._load = LoadMeter(rate_bps)
        self.agent.set_bias(bias_code(rate_bps))

    def set_policy(self, rules: Sequence[LevelRule]) -> None:
        """Rank by these rules from now on."""
        self.agent.set_policy(rules)
        self.rerank(self._clock.now_ns)

    def advance(self, batch: int, layer: int) -> None:
        """The engine here says that ``batch`` is at ``layer``; those who send it reused KV hear of it at once.

        They hear by an acknowledgement more on a connection that they know. Else a sender whose next layers all wait
        behind other traffic would get no acknowledgement, so no news, and would let them wait on.
        """
        self.agent.advance(batch, layer)
        for connection, incoming in self._feeders.get(batch, {}).values():
            self._acknowledge(connection, incoming)
        if self._acks.pending:
            self.wake()

    def prune(self, requests: Iterable[int]) -> None:
        """Give up these requests and no others from now on; see :meth:`host_agent.protocol.flow_spec.Agent.prune`."""
        self.agent.prune(requests)
        self.rerank(self._clock.now_ns)

    def rerank(self, now_ns: int) -> None:
        """Put every flow where it belongs now; one that rises may send past what is stranded at its lower level."""
        if self._load.update(now_ns):
            self.agent.set_bias(bias_code(self._rate_bps, self._load.load))
        if len(self._order):
            self._order.rerank(lambda entry: self._level(entry, now_ns))
        for flow in self.agent.flows.values():
            self.agent.rescue(flow, now_ns)
        self._enter_all(self.agent.flows.values())

    # --- sending -------------------------------------------------------------------------------------------------

    def pull(self, now_ns: int) -> bytes | None:
        """The frame that leaves now; see :class:`~soft_switch.sim.network.HostPort`."""
        order = self._order
        while (entry := order.first()) is not None:
            level = self._level(entry, now_ns)
            if level != entry.ring:
                order.remove(entry)
                order.add(entry, level, first=entry is self._acks)
                continue
            if isinstance(entry, _Acks):
                frame = self._next_ack(entry)
                order.sent(entry, len(frame), bool(entry.pending), first=True)
                return frame
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
        if flow.kind != Stage.P2D:
            self._load.count(len(frame) + WIRE_OVERHEAD_BYTES)
        if not self._timer_set:
            self._set_timer(now_ns + self._rto_ns)
        self._order.sent(flow, len(frame), sender.sends_on)
        return frame

    def _header(self, flow: Flow, length: int) -> tuple[bytes, bytes]:
        mac, ip = self._addresses[flow.spec.destination]
        header = (
            mac + self._mac + _ETHERTYPE_SHIM,
            ip_udp_header(self._ip, ip, flow.connection, DATA_BYTES + length, _ECT0),
        )
        self._headers[flow.connection][length] = header
        return header

    def _next_ack(self, acks: _Acks) -> bytes:
        connection = next(iter(acks.pending))
        incoming = acks.pending.pop(connection)
        batch = incoming.batch
        stamp = incoming.stamper.stamp(0, self.agent.current_layer(batch), 0, 1)
        return b"".join((incoming.ethernet, stamp, incoming.ip_udp, ACK_LAYOUT.pack(*incoming.receiver.ack())))

    def _level(self, entry: Flow | _Acks, now_ns: int) -> int:
        if entry is self._acks:
            return self.agent.decide(0, 0, 0, 1)
        assert isinstance(entry, Flow)
        return self.agent.level(entry, now_ns)

    def _ready(self, flow: Flow) -> None:
        """``flow`` may have something to send."""
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
            # One timer for all flows, at most a quarter late, so that many flows do not make many timers.
            self._set_timer(max(earliest, now_ns + self._rto_ns // 4))
        if woken:
            self.wake()

    # --- receiving -----------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now_ns: int) -> None:  # noqa: ARG002
        """A frame came in; see :class:`~soft_switch.sim.network.HostPort`."""
        ether_type = data[12:14]
        batch = stage = 0
        ip = ETHERNET_BYTES
        if ether_type == _ETHERTYPE_SHIM and len(data) >= ETHERNET_BYTES + STAMP_BYTES:
            stage, batch, layer = progress_in(data, ETHERNET_BYTES)
            self.agent.learn(batch, layer)
            ip += STAMP_BYTES
            ether_type = data[16:18]
        header = ip + IP_UDP_BYTES
        if (
            ether_type != _ETHERTYPE_IPV4
            or len(data) < header + DATA_BYTES
            or data[ip + 9] != _PROTOCOL_UDP
            or data[ip + 22 : ip + 24] != _PORT
            or data[ip + 16 : ip + 20] != self._ip
        ):
            self.ignored += 1
        elif data[header] & ACK:
            if len(data) >= header + ACK_BYTES:
                self._receive_ack(Ack._make(ACK_LAYOUT.unpack_from(data, header)))
        else:
            self._receive_data(data, ip, batch, stage)

    def _receive_ack(self, ack: Ack) -> None:
        flow = self.agent.flows.get(ack.connection)
        if flow is None:
            return
        sender = flow.sender
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
        incoming = self._incoming.get(connection) or self._finished.get(connection)
        if incoming is None:
            source = data[ip + 12 : ip + 16]
            incoming = self._accept(connection, data[6:12], source, batch)
            if batch and stage == _KV_REUSE:
                self._note_feeder(batch, source, connection, incoming)
        receiver = incoming.receiver
        was_complete = receiver.complete
        if not receiver.has(sequence):
            self._meter.arrived(connection, sequence, flags)
        receiver.on_segment(sequence, flags, length, data[ip + 1] & _CE == _CE)
        if receiver.ack_due:
            self._acknowledge(connection, incoming)
        if receiver.complete and not was_complete:
            self._finish(connection, incoming)
        if self._acks.pending:
            self.wake()

    def _acknowledge(self, connection: int, incoming: _Incoming) -> None:
        self._acks.pending[connection] = incoming
        if self._acks.ring == NOT_WAITING:
            # In front of the data of its level: a queue of its own would hold it up, not order it.
            self._order.add(self._acks, self._level(self._acks, 0), first=True)

    def _note_feeder(self, batch: int, source: bytes, connection: int, incoming: _Incoming) -> None:
        feeders = self._feeders.get(batch)
        if feeders is None:
            feeders = self._feeders[batch] = {}
            if len(self._feeders) > FED_BATCHES:
                del self._feeders[next(iter(self._feeders))]
        feeders[source] = connection, incoming

    def _accept(self, connection: int, mac: bytes, ip: bytes, batch: int) -> _Incoming:
        ethernet = mac + self._mac + _ETHERTYPE_SHIM
        if (source := self._by_ip.get(ip)) is not None:
            ethernet = self._addresses[source][0] + ethernet[6:]  # a router in between put its own address there
        ip_udp = ip_udp_header(self._ip, ip, connection, ACK_BYTES, 0)
        self._incoming[connection] = incoming = _Incoming(
            Receiver(connection, self.agent.counters), ethernet, ip_udp, batch
        )
        return incoming

    def _finish(self, connection: int, incoming: _Incoming) -> None:
        del self._incoming[connection]
        self._finished[connection] = incoming
        if len(self._finished) > FINISHED_KEPT:
            del self._finished[next(iter(self._finished))]
        self._meter.completed(connection)
        if self.on_complete is not None:
            self.on_complete(connection)
