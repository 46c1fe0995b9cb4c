"""A virtual host whose NIC sends RoCEv2: stamped, registered, or with one DSCP per stage."""

from __future__ import annotations

from collections import defaultdict
from ipaddress import IPv4Address
from typing import Any

from host_agent.protocol.flow_spec import LAYER_MAX, FlowSpec
from host_agent.protocol.registration import LIFETIME_US, ROCEV2_PORT, QueuePair, registration
from host_agent.protocol.stamp import SCAVENGER, STAMP_BYTES, Flags, Stage, Stamp
from host_agent.protocol.units import ETHERNET_HEADER_BYTES, WIRE_OVERHEAD_BYTES
from mfs_eval.packet_level.hosts.agent import Flow
from mfs_eval.packet_level.hosts.frames import (
    ETHERTYPE_IPV4_BYTES,
    ETHERTYPE_SHIM_BYTES,
    IP_UDP_BYTES,
    PROTOCOL_UDP,
    ip_udp_header,
)
from mfs_eval.packet_level.hosts.incoming import Incoming
from mfs_eval.packet_level.hosts.rocev2.ends import QueuePairEnd, RdmaReceiver, RdmaSender
from mfs_eval.packet_level.hosts.rocev2.header import (
    ACK_PAYLOAD_BYTES,
    ACKNOWLEDGE,
    ICRC,
    SEGMENT_BYTES,
    Packet,
    data_headers,
    parse,
)
from mfs_eval.packet_level.hosts.segment_header import ACK_REQUEST
from mfs_eval.packet_level.hosts.send_order import NOT_WAITING
from mfs_eval.packet_level.hosts.stamp_template import StampTemplate, progress_in
from mfs_eval.packet_level.hosts.transport import DEFAULT_WINDOW
from mfs_eval.packet_level.hosts.virtual_host import Acks, VirtualHost
from mfs_eval.setup.run_settings import RdmaSettings

RENEW_NS = LIFETIME_US * 1000 // 3
_P2D = int(Stage.P2D)
_ZEROS = bytes(SEGMENT_BYTES)
_PORT = ROCEV2_PORT.to_bytes(2, "big")
_NEWS_PORT = 9


class RdmaHost(VirtualHost):
    """One interface with its flows as RDMA WRITEs.

    Each flow has a queue pair to its destination for itself while it lasts, the one that became free last; so nothing
    of a queue pair is on its way when a flow begins. The host orders queue pairs by level packet by packet, as the gate
    of an agent would by message. A flow rises within the host's own order at once, for its packets leave in their order
    anyway; what rises in the switch depends on :class:`~mfs_eval.setup.run_settings.RdmaSettings`.

    With registrations, the host of a batch tells the senders of its reused KV of progress by a stamped frame without
    data. Frames of agents take no time on the host's own link: in a scaled run they would take that of megabytes.
    """

    def __init__(self, *arguments: Any, rdma: RdmaSettings, **options: Any) -> None:
        """Create a host. All arguments but ``rdma`` are those of :class:`VirtualHost`."""
        super().__init__(*arguments, **options)
        self._rdma = rdma
        self._window: int = options.get("window", DEFAULT_WINDOW)
        self.agent.new_sender = self._new_sender
        self._idle: defaultdict[int, list[QueuePairEnd]] = defaultdict(list)
        self._next_queue_pair = self.identity << 12
        self._by_queue_pair: dict[tuple[bytes, int], Flow] = {}
        self._ends: dict[int, Incoming[RdmaReceiver]] = {}
        # By connection: the level up to which the switches may have the flow rise.
        self._told: dict[int, int] = {}
        self._news: dict[int, set[bytes]] = defaultdict(set)
        self._renewing = False
        self._macs = {ip: mac for mac, ip in self._addresses.values()}

    # --- sending -------------------------------------------------------------------------------------------------

    def feeds(self, batch: int, source: int) -> None:
        """Note that host ``source`` sends reused KV of ``batch``, as the engine that reads it knows."""
        self._news[batch].add(self._addresses[source][1])

    def advance(self, batch: int, layer: int) -> None:
        """Learn from the local engine that ``batch`` is at ``layer``, and tell the senders of its reused KV at once."""
        self.agent.advance(batch, layer)
        if self._rdma.carrier == "dscp" or not batch:
            return
        for address in sorted(self._news.get(batch, ())):
            ethernet = self._macs[address] + self._mac + ETHERTYPE_SHIM_BYTES
            stamp = StampTemplate(Stage.NONE, batch, 0, 0).stamp(0, self.agent.current_layer(batch), 0, 1)
            self.inject(ethernet + stamp + ip_udp_header(self._ip, address, 0, 0, 0, _NEWS_PORT))
        self._tell(batch)

    def _new_sender(self, spec: FlowSpec) -> RdmaSender:
        idle = self._idle[spec.destination]
        if idle:
            pair = idle.pop()
        else:
            pair = QueuePairEnd(self._next_queue_pair)
            self._next_queue_pair += 1
        return RdmaSender(self._window, self._rto_ns, self.agent.counters, pair)

    def _ready(self, flow: Flow) -> None:
        if flow.connection not in self._headers:
            self._by_queue_pair[self._key(flow)] = flow
            if self._rdma.carrier == "registration":
                if self._rdma.registration_delay_ns:
                    self._clock.call_after(self._rdma.registration_delay_ns, self._register_open, flow)
                else:
                    self._register_open(flow)
                self._set_renewal()
        super()._ready(flow)

    def _register_open(self, flow: Flow) -> None:
        if flow.connection in self.agent.flows:
            late = _sender(flow).in_flight > 0
            self._register(flow, Flags.NONE if late else Flags.FIRST)
            self._told[flow.connection] = SCAVENGER if late else self.agent.level(flow, self._clock.now_ns)

    def _register(self, flow: Flow, flags: Flags) -> None:
        """Send the registration of a flow with what is known now."""
        self.agent.level(flow, self._clock.now_ns)  # takes slack and remaining
        spec = flow.spec
        layer = min(LAYER_MAX, self.agent.current_layer(spec.batch))
        stamp = Stamp(
            spec.stage,
            flags,
            batch=spec.batch,
            flow=flow.number,
            target_layer=spec.target_layer,
            current_layer=layer,
            slack_us=flow.slack_us,
            remaining=flow.remaining,
        )
        mac, ip = self._addresses[spec.destination]
        pair = _sender(flow).pair
        ends = str(IPv4Address(self._ip)), str(IPv4Address(ip))
        described = QueuePair(*ends, pair.number, out_of_order=self._rdma.rise == "at once")
        self.inject(registration(described, stamp, self._mac, mac))

    def _tell(self, batch: int) -> None:
        """Register one flow of ``batch`` over each way again."""
        if self._rdma.carrier != "registration":
            return
        ways = {flow.spec.destination: flow for flow in self.agent.flows.values() if flow.spec.batch == batch}
        for flow in ways.values():
            self._register(flow, Flags.NONE)

    def _progressed(self, batch: int) -> None:
        self._tell(batch)
        super()._progressed(batch)

    def _set_renewal(self) -> None:
        if not self._renewing:
            self._renewing = True
            self._clock.call_after(RENEW_NS, self._renew)

    def _renew(self) -> None:
        self._renewing = False
        for flow in self.agent.flows.values():
            if flow.connection in self._headers:
                self._register(flow, Flags.NONE)
        if self.agent.flows:
            self._set_renewal()

    def _next_data(self, flow: Flow, level: int, now_ns: int) -> bytes | None:
        sender = _sender(flow)
        if self._rdma.carrier == "registration" and level > self._told.get(flow.connection, level):
            if not sender.in_flight:
                # Nothing is on its way, so it may rise.
                self._told[flow.connection] = level
                self._register(flow, Flags.FIRST)
            elif self._rdma.rise == "paused":
                return None
        segment = sender.next_segment(now_ns, level)
        if segment is None:
            return None
        flow.level = level
        packet = sender.last
        assert packet is not None
        headers = data_headers(
            sender.pair.number,
            packet.sequence,
            packet.starts,
            packet.ends,
            packet.message,
            flow.connection if packet.fin else None,
            bool(segment.flags & ACK_REQUEST),
        )
        payload = _ZEROS if packet.length == SEGMENT_BYTES else _ZEROS[: packet.length]
        mac, ip = self._addresses[flow.spec.destination]
        udp_bytes = len(headers) + len(payload) + len(ICRC)
        ip_udp = self._ip_udp(flow, ip, udp_bytes)
        if self._rdma.carrier == "stamp":
            front = mac + self._mac + ETHERTYPE_SHIM_BYTES + self.agent.stamp(flow, segment)
        else:
            front = mac + self._mac + ETHERTYPE_IPV4_BYTES
        frame = b"".join((front, ip_udp, headers, payload, ICRC))
        self.sent_packets += 1
        if flow.kind != _P2D:
            self._load.count(len(frame) + WIRE_OVERHEAD_BYTES)
        if not self._timer_set:
            self._set_timer(now_ns + self._rto_ns)
        self._order.sent(flow, len(frame), sender.sends_on)
        return frame

    def _ip_udp(self, flow: Flow, ip: bytes, udp_bytes: int) -> bytes:
        known = self._headers[flow.connection].get(udp_bytes)
        if known is None:
            dscp = self._rdma.stage_dscp.get(flow.spec.stage, 0) if self._rdma.carrier == "dscp" else 0
            number = _sender(flow).pair.number
            known = b"", ip_udp_header(self._ip, ip, number, udp_bytes, dscp << 2, ROCEV2_PORT)
            self._headers[flow.connection][udp_bytes] = known
        return known[1]

    def _key(self, flow: Flow) -> tuple[bytes, int]:
        return self._addresses[flow.spec.destination][1], _sender(flow).pair.number

    def _next_ack(self, acks: Acks) -> bytes:
        incoming = acks.pending.pop(next(iter(acks.pending)))
        stamp = b""
        if self._rdma.carrier == "stamp":
            stamp = incoming.template.stamp(0, self.agent.current_layer(incoming.batch), 0, 1)
        return b"".join((incoming.ethernet, stamp, incoming.ip_udp, incoming.receiver.packed_ack()))

    # --- receiving -----------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now_ns: int) -> None:  # noqa: ARG002
        """Process a received frame; see :class:`~soft_switch.sim.network.HostPort`."""
        ether_type, ip, batch = data[12:14], ETHERNET_HEADER_BYTES, 0
        if ether_type == ETHERTYPE_SHIM_BYTES and len(data) >= ETHERNET_HEADER_BYTES + STAMP_BYTES + IP_UDP_BYTES:
            _, batch, layer = progress_in(data, ETHERNET_HEADER_BYTES)
            self.agent.learn(batch, layer)
            ip += STAMP_BYTES
            ether_type = data[16:18]
        packet = parse(data, ip)
        if (
            packet is None
            or ether_type != ETHERTYPE_IPV4_BYTES
            or data[ip + 9] != PROTOCOL_UDP
            or data[ip + 22 : ip + 24] != _PORT
            or data[ip + 16 : ip + 20] != self._ip
        ):
            self.ignored += 1
            return
        source = data[ip + 12 : ip + 16]
        if packet.opcode == ACKNOWLEDGE:
            self._acknowledged(source, packet)
        else:
            self._arrived(source, packet, batch)

    def _acknowledged(self, source: bytes, packet: Packet) -> None:
        flow = self._by_queue_pair.get((source, packet.queue_pair))
        if flow is None:
            return
        sender = _sender(flow)
        sender.acknowledged(packet.sequence, packet.negative)
        if sender.done:
            self._order.remove(flow)
            if self._rdma.carrier == "registration":
                self._register(flow, Flags.LAST)
            self.agent.forget(flow)
            del self._headers[flow.connection], self._by_queue_pair[source, packet.queue_pair]
            self._told.pop(flow.connection, None)
            self._idle[flow.spec.destination].append(sender.pair)
        elif flow.ring == NOT_WAITING and self._enter(flow):
            self.wake()

    def _arrived(self, source: bytes, packet: Packet, batch: int) -> None:
        self.received_packets += 1
        key = int.from_bytes(source, "big") << 24 | packet.queue_pair
        incoming = self._ends.get(key)
        if incoming is None or incoming.batch != batch:
            receiver = RdmaReceiver(packet.queue_pair, self.agent.counters) if incoming is None else incoming.receiver
            kind = ETHERTYPE_SHIM_BYTES if self._rdma.carrier == "stamp" else ETHERTYPE_IPV4_BYTES
            ip_udp = ip_udp_header(self._ip, source, packet.queue_pair, ACK_PAYLOAD_BYTES, 0, ROCEV2_PORT)
            incoming = self._ends[key] = Incoming(receiver, self._macs[source] + self._mac + kind, ip_udp, batch)
        receiver = incoming.receiver
        accepted = receiver.on_packet(packet.sequence, packet.ack_request)
        if receiver.ack_due:
            self._acknowledge(key, incoming)
        if accepted and packet.immediate is not None and self.on_complete is not None:
            self.on_complete(packet.immediate)
        if self._acks.pending:
            self.wake()


def _sender(flow: Flow) -> RdmaSender:
    assert isinstance(flow.sender, RdmaSender)
    return flow.sender
