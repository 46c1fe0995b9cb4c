"""Registrations: stamps of RoCEv2 flows, sent ahead in frames of their own.

RDMA bypasses the kernel, so its packets carry no stamp. A host tells the switches on a flow's path what the stamps
would say, in a frame with the flag REGISTER whose ``reserved`` word is the flow's destination queue pair. Switches keep
it for :data:`LIFETIME_US`, and treat the flow's packets as if stamped (``p4src/shared/rdma.p4``).

The frame has the addresses and ports of the flow's packets, so that it takes their path, and a Base Transport Header,
because some switches spread RoCEv2 by its queue pair. It has no valid checksum (ICRC): a NIC that gets it without its
stamp drops it.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from host_agent.protocol.address import Address, address
from host_agent.protocol.errors import RequestError
from host_agent.protocol.stamp import ETHERTYPE_MFS, Flags, Stamp
from host_agent.protocol.units import ETHERTYPE_IPV4, ETHERTYPE_IPV6

ROCEV2_PORT = 4791
"""UDP port that IANA assigned to RoCEv2."""
LIFETIME_US = 1 << 20
"""A switch forgets a registration that is not repeated within this time; ``p4src/v1model/registration.p4`` has it."""
QUEUE_PAIR_MAX = (1 << 24) - 1
LOWEST_SOURCE_PORT = 0xC000
"""RoCEv2 takes its UDP source ports from here up."""
_UDP = 17
_TTL = 64
_OPCODE_SEND_ONLY = 0x04
_PARTITION_KEY = 0xFFFF
_UDP_HEADER = struct.Struct("!HHHH")
_BTH = struct.Struct("!BBHII")
_ICRC_BYTES = 4


@dataclass(frozen=True, slots=True)
class QueuePair:
    """A flow of RoCEv2: what its packets have in common.

    Attributes:
        source, destination: IP addresses of the packets, both IPv4 or both IPv6.
        queue_pair: destination queue pair of the packets, 24 bits. For READ responses it is that of the reader.
        out_of_order: whether the receiving NIC places data that arrives out of order, so that packets may overtake
            each other.
        source_port: UDP source port of the packets, from which switches choose among equal paths.
    """

    source: str
    destination: str
    queue_pair: int
    out_of_order: bool = False
    source_port: int = LOWEST_SOURCE_PORT

    def __post_init__(self) -> None:
        if address("source", self.source).version != address("destination", self.destination).version:
            raise RequestError(f"{self}: one address is IPv4, the other IPv6")
        for name, highest in (("queue_pair", QUEUE_PAIR_MAX), ("source_port", 0xFFFF)):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= highest:
                raise RequestError(f"{name} {value!r} is not an integer in 0..{highest}")
        if type(self.out_of_order) is not bool:
            raise RequestError(f"out_of_order is true or false, not {self.out_of_order!r}")

    def __str__(self) -> str:
        return f"rdma {self.source} > {self.destination} queue pair {self.queue_pair:#x}"

    @property
    def key(self) -> tuple[Address, Address, int]:
        """What tells one flow from another in a switch."""
        return ipaddress.ip_address(self.source), ipaddress.ip_address(self.destination), self.queue_pair


def registration(flow: QueuePair, stamp: Stamp, source_mac: bytes, next_hop_mac: bytes, reverse: bool = False) -> bytes:
    """Return the frame that registers ``flow``, without the Ethernet check sequence.

    Args:
        flow: packets that the registration is for.
        stamp: what the flow's packets would carry. FIRST: another flow begins, and nothing of the queue pair is on its
            way. BOUNDARY: another flow begins. LAST: the flow has ended. REGISTER and what ``flow`` says are added.
        source_mac, next_hop_mac: Ethernet addresses of the interface and of the next hop.
        reverse: the frame travels from the flow's destination to its source, for a host that reads.

    Raises:
        StampError: a value does not fit the stamp.
    """
    source, destination, _ = flow.key
    if reverse:
        source, destination = destination, source
    flags = stamp.flags | Flags.REGISTER
    if reverse:
        flags |= Flags.REVERSE
    if flow.out_of_order:
        flags |= Flags.OUT_OF_ORDER
    payload = _BTH.pack(_OPCODE_SEND_ONLY, 0, _PARTITION_KEY, flow.queue_pair, 0) + bytes(_ICRC_BYTES)
    # RoCEv2 leaves the UDP checksum out in IPv4, and its receivers ignore it in IPv6.
    udp = _UDP_HEADER.pack(flow.source_port, ROCEV2_PORT, _UDP_HEADER.size + len(payload), 0) + payload
    network = _ipv4(source, destination, udp) if source.version == 4 else _ipv6(source, destination, udp)
    shim = Stamp(
        stamp.stage,
        flags,
        ETHERTYPE_IPV4 if source.version == 4 else ETHERTYPE_IPV6,
        stamp.batch,
        stamp.flow,
        stamp.target_layer,
        stamp.current_layer,
        stamp.slack_us,
        stamp.remaining,
        flow.queue_pair,
    ).pack()
    return next_hop_mac + source_mac + ETHERTYPE_MFS.to_bytes(2, "big") + shim + network


def _ipv4(source: Address, destination: Address, payload: bytes) -> bytes:
    """RFC 791, without options and not to be fragmented."""
    words: bytes = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 0, 0x4000, _TTL, _UDP)
    addresses = source.packed + destination.packed
    total: int = sum(struct.unpack("!8H", words[:8] + addresses)) + int.from_bytes(words[8:], "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return words + (~total & 0xFFFF).to_bytes(2, "big") + addresses + payload


def _ipv6(source: Address, destination: Address, payload: bytes) -> bytes:
    """RFC 8200, without extension headers."""
    header: bytes = struct.pack("!IHBB", 6 << 28, len(payload), _UDP, _TTL)
    return header + source.packed + destination.packed + payload
