"""Layout of the transport header, which is carried in a UDP payload in network byte order.

Data segment (12 bytes): flags 8, reserved 8, payload length 16, connection 32, sequence 32.
Acknowledgement (24 bytes): flags 8, reserved 24, connection 32, cumulative 32, highest 32, bitmap 64.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

PORT = 35253
"""UDP destination port of the transport."""

DATA_LAYOUT = struct.Struct("!BxHII")
ACK_LAYOUT = struct.Struct("!BxxxIIIQ")
DATA_BYTES = DATA_LAYOUT.size
ACK_BYTES = ACK_LAYOUT.size

BITMAP_BITS = 64
_BITMAP_MASK = (1 << BITMAP_BITS) - 1
"""Number of latest segments that an acknowledgement reports one by one."""
SEQUENCE_MAX = (1 << 32) - 1


class SegmentHeaderError(ValueError):
    """Bytes are not a transport header; the message says why."""


class Bits(enum.IntFlag):
    """Flags of the transport header."""

    ACK = 0x80
    """An acknowledgement; otherwise a data segment."""
    ACK_REQUEST = 0x01
    """The sender requests an acknowledgement of this segment."""
    FIN = 0x02
    """The last segment of the connection."""
    RETRANSMISSION = 0x04
    """The segment was sent before and is believed lost."""
    CE_ECHO = 0x08
    """A segment with a congestion mark has arrived since the last acknowledgement."""


# Plain integers for the packet path, where an IntFlag costs a microsecond per operation.
ACK = int(Bits.ACK)
ACK_REQUEST = int(Bits.ACK_REQUEST)
FIN = int(Bits.FIN)
RETRANSMISSION = int(Bits.RETRANSMISSION)
CE_ECHO = int(Bits.CE_ECHO)


class DataHeader(NamedTuple):
    """Header of a data segment. Segments are numbered consecutively from 0; ``length`` is in bytes."""

    flags: int
    length: int
    connection: int
    sequence: int

    def pack(self) -> bytes:
        """Return the header as :data:`DATA_BYTES` bytes."""
        return DATA_LAYOUT.pack(*self)


class Ack(NamedTuple):
    """Acknowledgement: all segments below ``cumulative``, and those of the 64 up to ``highest`` whose bit is set.

    Bit ``i`` of ``bitmap`` stands for segment ``highest - i``. Reporting the latest segments instead of those after the
    gap lets a promoted flow continue however long its earlier segments are held up at a lower level.
    """

    flags: int
    connection: int
    cumulative: int
    highest: int
    bitmap: int

    def pack(self) -> bytes:
        """Return the acknowledgement as :data:`ACK_BYTES` bytes."""
        return ACK_LAYOUT.pack(*self)


def with_arrival(bitmap: int, ahead: int) -> int:
    """Return the bitmap of an :class:`Ack` after a segment arrived that is ``ahead`` of the highest, or behind it."""
    if ahead <= 0:
        return bitmap | 1 << -ahead & _BITMAP_MASK
    return (bitmap << ahead & _BITMAP_MASK | 1) if ahead < BITMAP_BITS else 1


def unpack(data: bytes, offset: int = 0) -> DataHeader | Ack:
    """Read the header at ``offset`` of ``data``.

    Raises:
        SegmentHeaderError: the bytes are shorter than the header.
    """
    try:
        if data[offset] & ACK:
            return Ack._make(ACK_LAYOUT.unpack_from(data, offset))
        return DataHeader._make(DATA_LAYOUT.unpack_from(data, offset))
    except (IndexError, struct.error):
        raise SegmentHeaderError(
            f"a transport header does not fit into the remaining {max(len(data) - offset, 0)} bytes"
        ) from None
