"""The MFS stamp: layout, stage numbers, and codec for both carriers, the shim header and the TCP option.

This module defines the stamp's layout. The P4 header (``p4src/shared/headers.p4``), the eBPF programs, the Scapy layer
and the Wireshark dissector are tested against it.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, replace

ETHERTYPE_MFS = 0x88B5
"""EtherType of the shim: IEEE 802 Local Experimental Ethertype 1."""

VERSION = 1
STAMP_BYTES = 24
TCP_OPTION_KIND = 253
"""Kind of the TCP option that carries a stamp: experiment 1 of RFC 4727."""
TCP_OPTION_EXPERIMENT = 0x4D46
"""Its experiment identifier (RFC 6994), which is not registered."""
TCP_OPTION_BYTES = 4 + STAMP_BYTES
TCP_OPTION_HEAD = struct.pack("!BBH", TCP_OPTION_KIND, TCP_OPTION_BYTES, TCP_OPTION_EXPERIMENT)
"""First bytes of the option, before the stamp."""
REMAINING_UNIT_BYTES = 256
"""Unit of ``remaining`` on the wire; bytes are rounded up."""

SLACK_MIN_US = -(1 << 31)
SLACK_MAX_US = (1 << 31) - 1
REMAINING_MAX_UNITS = (1 << 32) - 1

LEVELS = 8
"""Number of levels of the reverse multi-level queue (RMLQ), and of queues per port."""
TOP_LEVEL = LEVELS - 1
SCAVENGER = 0

_LAYOUT = struct.Struct("!BBHIHBBiII")
assert _LAYOUT.size == STAMP_BYTES


class StampError(ValueError):
    """A stamp that cannot be encoded or decoded; the message says why."""


class Stage(enum.IntEnum):
    """Stage of a flow in the life of a request (paper section 2); ``NONE`` marks packets that belong to no stage."""

    NONE = 0
    KV_REUSE = 1
    COLLECTIVE = 2
    P2D = 3


class Flags(enum.IntFlag):
    """Flag bits of the stamp."""

    NONE = 0
    FIRST = 0x80
    """First packet of the flow."""
    BOUNDARY = 0x40
    """A message or layer starts here, so a promotion may take effect."""
    LAST = 0x20
    """Last packet of the flow."""
    REGISTER = 0x10
    """A registration: the stamp of RoCEv2 packets that carry none (:mod:`host_agent.protocol.registration`)."""
    REVERSE = 0x08
    """With REGISTER: the flow goes the other way, from the frame's destination to its source."""
    OUT_OF_ORDER = 0x04
    """With REGISTER: the receiving NIC places data that arrives out of order."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """One stamp.

    Attributes:
        next_type: EtherType of the header that follows the shim; 0 in a TCP option.
        flow: number of the flow within its batch.
        slack_us: microseconds to the deadline, signed.
        remaining: bytes still to be sent, in units of :data:`REMAINING_UNIT_BYTES`.
        reserved: destination queue pair of a registration; 0 in all other stamps.
    """

    stage: Stage = Stage.NONE
    flags: Flags = Flags.NONE
    next_type: int = 0x0800
    batch: int = 0
    flow: int = 0
    target_layer: int = 0
    current_layer: int = 0
    slack_us: int = 0
    remaining: int = 0
    reserved: int = 0

    def pack(self) -> bytes:
        """Encode the stamp as :data:`STAMP_BYTES` bytes in network byte order.

        Raises:
            StampError: a value does not fit its field.
        """
        try:
            return _LAYOUT.pack(
                VERSION << 4 | self.stage,
                self.flags,
                self.next_type,
                self.batch,
                self.flow,
                self.target_layer,
                self.current_layer,
                self.slack_us,
                self.remaining,
                self.reserved,
            )
        except struct.error as error:
            raise StampError(f"{self} does not fit the stamp's layout: {error}") from None

    @classmethod
    def unpack(cls, data: bytes) -> Stamp:
        """Decode the first :data:`STAMP_BYTES` bytes of ``data``.

        Raises:
            StampError: too short, another version, or an unknown stage.
        """
        if len(data) < STAMP_BYTES:
            raise StampError(f"a stamp is {STAMP_BYTES} bytes long, the data only {len(data)}")
        first, *fields = _LAYOUT.unpack_from(data)
        if first >> 4 != VERSION:
            raise StampError(f"stamp version {first >> 4} is not {VERSION}")
        if first & 0xF > Stage.P2D:
            raise StampError(f"stage {first & 0xF} does not exist; stages are 0 to {int(Stage.P2D)}")
        return cls(Stage(first & 0xF), Flags(fields[0]), *fields[1:])


def tcp_option(stamp: Stamp) -> bytes:
    """Encode ``stamp`` as a TCP option of :data:`TCP_OPTION_BYTES` bytes.

    Raises:
        StampError: a value does not fit its field.
    """
    return TCP_OPTION_HEAD + replace(stamp, next_type=0).pack()


def from_tcp_option(data: bytes) -> Stamp:
    """Decode the TCP option at the start of ``data``.

    Raises:
        StampError: not an option with a stamp, or a stamp that cannot be decoded.
    """
    if data[: len(TCP_OPTION_HEAD)] != TCP_OPTION_HEAD:
        raise StampError(f"a TCP option that begins with {data[: len(TCP_OPTION_HEAD)].hex()} carries no stamp")
    return Stamp.unpack(data[len(TCP_OPTION_HEAD) :])


def units_of(byte_count: int) -> int:
    """Return ``byte_count`` in stamp units, rounded up and saturated at the field's maximum."""
    return min(-(-byte_count // REMAINING_UNIT_BYTES), REMAINING_MAX_UNITS)


def clamp_slack_us(slack_us: int) -> int:
    """Return ``slack_us`` saturated at the field's minimum and maximum."""
    return max(SLACK_MIN_US, min(SLACK_MAX_US, slack_us))
