"""Variables that every generated function may use, and the types of all variables."""

from __future__ import annotations

from dataclasses import dataclass, field

from soft_switch.ir.expressions import Interval, Var
from soft_switch.ports import DROP_PORT
from soft_switch.tables.table import Table

COUNTS: Interval = (0, (1 << 32) - 1)
"""Lengths, ports, depths of queues, and numbers that the program gives to primitives."""
TIMES: Interval = (0, (1 << 63) - 1)
"""Nanoseconds."""

_RESERVED: dict[str, Interval] = {}


def _reserved(interval: Interval, name: str) -> Var:
    _RESERVED[name] = interval
    return Var(*interval, name)


LENGTH = _reserved(COUNTS, "n")
"""Length of the packet as it came in, in bytes."""
CLOCK = _reserved(TIMES, "now_ns")
"""Time of the block that runs."""
PAYLOAD = _reserved(COUNTS, "off")
"""Offset of the payload in the packet."""
PORT = _reserved((0, DROP_PORT), "port")
"""Port at which the packet came in."""
ENQUEUED, DEQUEUED = _reserved(TIMES, "enqueued_ns"), _reserved(TIMES, "dequeued_ns")
ENQ_DEPTH, DEQ_DEPTH = _reserved(COUNTS, "enq_qdepth"), _reserved(COUNTS, "deq_qdepth")
LENGTH_NOW = Var(*COUNTS, "packet_length_now")
"""Length of the packet after headers were added and removed, as bmv2 counts it."""
CLONE, CLONE_LIST = _reserved((0, 0xFFFF), "clone_session"), _reserved(COUNTS, "clone_list")
RESUBMIT, RECIRCULATE = _reserved(COUNTS, "resubmit_list"), _reserved(COUNTS, "recirculate_list")
TRUNCATE = _reserved((0, 1 << 32), "truncate_to")
"""Length to which the packet is truncated, plus 1; 0 if it is not truncated."""
ROUNDS = _reserved(COUNTS, "rounds")
"""Number of times that the packet has re-entered."""
DIGEST = _reserved(COUNTS, "digest_list")
"""Id of the digest that ingress requested last; 0 for none."""
INSTANCE_TYPE = _reserved(COUNTS, "instance_type_now")
"""Replaces instance_type in a program without it."""
CUT, CUT_LENGTH = "cut_data", _reserved(COUNTS, "cut_length")
"""The part of a packet that a clone session keeps."""
FRAME = "frame"
"""The packet as it leaves, in programs where it may re-enter."""
# A program may remove headers that it never had: the length is then less than 0.
_RESERVED[LENGTH_NOW.name] = (-(1 << 62), 1 << 62)

_OTHERS = ("data", "packet", "again", "kept", CUT, FRAME, "ingress", "egress", "parse_again", "int", "len")
RESERVED_NAMES = frozenset((*_RESERVED, *_OTHERS))
"""Names that no field may take."""


@dataclass(slots=True)
class Types:
    """Types of variables by name.

    Attributes:
        numbers: the interval of each number.
        octets: how many bytes each variable of bytes holds at most.
        records: the table whose result each variable holds.
    """

    numbers: dict[str, Interval] = field(default_factory=_RESERVED.copy)
    octets: dict[str, int] = field(default_factory=lambda: {CUT: 0, FRAME: 0})
    records: dict[str, Table] = field(default_factory=dict)
