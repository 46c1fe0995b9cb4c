"""Layout of the header of the simulated TCP, in a UDP payload in network byte order.

Data segment (24 bytes): flags 8, reserved 8, payload length 16, connection 32, sequence 32, time stamp 32, reserved 64.
With IPv4 and UDP that is 52 bytes, as much as IPv4 and TCP with the time stamp option.
Acknowledgement (32 bytes): that of :mod:`mfs_eval.packet_level.hosts.segment_header`, then echo 32, duplicate 32.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mfs_eval.packet_level.hosts.frames import IP_UDP_BYTES
from topologies.topology import PAYLOAD_MTU

TCP_DATA_LAYOUT = struct.Struct("!BxHIII8x")
TCP_ACK_LAYOUT = struct.Struct("!BxxxIIIQII")
TCP_DATA_BYTES = TCP_DATA_LAYOUT.size
TCP_ACK_BYTES = TCP_ACK_LAYOUT.size
TCP_SEGMENT_BYTES = PAYLOAD_MTU - IP_UDP_BYTES - TCP_DATA_BYTES
"""Payload of a full segment."""
NO_DUPLICATE = (1 << 32) - 1
"""``duplicate`` of an acknowledgement that reports none."""


class TcpAck(NamedTuple):
    """Acknowledgement: ``flags`` to ``bitmap`` as in :class:`~mfs_eval.packet_level.hosts.segment_header.Ack`.

    ``echo`` is the time stamp that the receiver keeps (RFC 7323, section 4.3), 0 without time stamps. ``duplicate`` is
    a segment that arrived again (DSACK, RFC 2883). The bitmap stands for the blocks of SACK (RFC 2018); unlike them it
    has no limit of three, but reaches 64 segments back only.
    """

    flags: int
    connection: int
    cumulative: int
    highest: int
    bitmap: int
    echo: int = 0
    duplicate: int = NO_DUPLICATE
