"""Layout of the frames that simulated hosts exchange: Ethernet, MFS shim, IPv4, UDP, transport header, payload."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from host_agent.protocol.stamp import ETHERTYPE_MFS
from mfs_eval.packet_level.hosts.segment_header import DATA_BYTES, PORT
from topologies.topology import PAYLOAD_MTU

Addresses = Mapping[int, tuple[bytes, bytes]]
"""MAC address (6 bytes) and IPv4 address (4 bytes) of each host, by its identifier."""

IP_UDP_BYTES = 28
SEGMENT_BYTES = PAYLOAD_MTU - IP_UDP_BYTES - DATA_BYTES
"""Payload of a full segment."""
ETHERTYPE_IPV4_BYTES = b"\x08\x00"
ETHERTYPE_SHIM_BYTES = ETHERTYPE_MFS.to_bytes(2, "big")
PROTOCOL_UDP = 17
PORT_BYTES = PORT.to_bytes(2, "big")
ECT0 = 2
"""ECN-capable transport (RFC 3168)."""
CE = 3
"""Congestion experienced (RFC 3168)."""

_IP_UDP = struct.Struct("!BBHHHBBH4s4sHHHH")
_IP_CHECKSUM_OFFSET = 10
_DONT_FRAGMENT = 0x4000
_FIRST_EPHEMERAL_PORT = 49_152
_EPHEMERAL_PORTS = 16_384


def ip_udp_header(
    source: bytes, destination: bytes, connection: int, payload_bytes: int, ecn: int, port: int = PORT
) -> bytes:
    """Return IPv4 (RFC 791) and UDP (RFC 768) headers, 28 bytes, without a UDP checksum.

    The source port depends on ``connection``, so that equal-cost paths are spread over connections.
    """
    header = bytearray(
        _IP_UDP.pack(
            0x45,
            ecn,
            IP_UDP_BYTES + payload_bytes,
            0,
            _DONT_FRAGMENT,
            64,
            PROTOCOL_UDP,
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
