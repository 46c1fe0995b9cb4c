"""Layout of simulated RoCEv2 packets behind UDP: BTH, then RETH, immediate data or AETH, payload, ICRC (zero here).

InfiniBand Architecture Specification, volume 1, chapter 9. A path MTU is a power of two; 1,280 is none, but fits the
frames of the other transports, and is a multiple of 256 as all path MTUs are.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mfs_eval.packet_level.hosts.frames import IP_UDP_BYTES

SEGMENT_BYTES = 1280
"""Payload of a full packet."""
BTH = struct.Struct("!BBHII")
RETH = struct.Struct("!QII")
IMMEDIATE = struct.Struct("!I")
AETH = struct.Struct("!I")
ICRC = bytes(4)
ACK_PAYLOAD_BYTES = BTH.size + AETH.size + len(ICRC)
SEQUENCES = 1 << 24
QUEUE_PAIRS = 1 << 24

WRITE_FIRST, WRITE_MIDDLE, WRITE_LAST, WRITE_LAST_IMMEDIATE, WRITE_ONLY, WRITE_ONLY_IMMEDIATE = range(0x06, 0x0C)
ACKNOWLEDGE = 0x11
_ACK_REQUEST = 1 << 31
_NAK_SEQUENCE = 0x60 << 24
"""AETH syndrome: a sequence error."""


class Packet(NamedTuple):
    """What a receiver reads of a packet; ``immediate`` is None without immediate data."""

    opcode: int
    queue_pair: int
    sequence: int
    ack_request: bool
    negative: bool
    immediate: int | None


def data_headers(
    queue_pair: int, sequence: int, starts: bool, ends: bool, message: int, immediate: int | None, ack_request: bool
) -> bytes:
    """Return the headers of a WRITE packet: a message's first has its length, a flow's last immediate data."""
    if starts:
        opcode = (WRITE_ONLY if immediate is None else WRITE_ONLY_IMMEDIATE) if ends else WRITE_FIRST
    else:
        opcode = (WRITE_LAST if immediate is None else WRITE_LAST_IMMEDIATE) if ends else WRITE_MIDDLE
    request = _ACK_REQUEST if ack_request else 0
    headers = BTH.pack(opcode, 0, 0xFFFF, queue_pair, request | sequence)
    if starts:
        headers += RETH.pack(0, 0, message)
    return headers if immediate is None else headers + IMMEDIATE.pack(immediate)


def acknowledgement(queue_pair: int, sequence: int, negative: bool) -> bytes:
    """Return an acknowledgement up to ``sequence``, or a negative one, which asks for ``sequence`` and what follows."""
    return BTH.pack(ACKNOWLEDGE, 0, 0xFFFF, queue_pair, sequence) + AETH.pack(_NAK_SEQUENCE if negative else 0) + ICRC


def parse(data: bytes, network: int) -> Packet | None:
    """Read the packet whose IPv4 header is at ``network`` of ``data``; None if it is too short."""
    at = network + IP_UDP_BYTES
    if len(data) < at + BTH.size + len(ICRC):
        return None
    opcode, _, _, queue_pair, last = BTH.unpack_from(data, at)
    at += BTH.size
    negative, immediate = False, None
    try:
        if opcode == ACKNOWLEDGE:
            negative = AETH.unpack_from(data, at)[0] >> 29 == 3
        elif opcode in (WRITE_LAST_IMMEDIATE, WRITE_ONLY_IMMEDIATE):
            (immediate,) = IMMEDIATE.unpack_from(data, at + (RETH.size if opcode == WRITE_ONLY_IMMEDIATE else 0))
    except struct.error:
        return None
    return Packet(opcode, queue_pair % QUEUE_PAIRS, last % SEQUENCES, last >= _ACK_REQUEST, negative, immediate)


def ahead(sequence: int, other: int) -> int:
    """Return by how much a sequence number is ahead of another, negative if behind."""
    return (sequence - other + SEQUENCES // 2) % SEQUENCES - SEQUENCES // 2
