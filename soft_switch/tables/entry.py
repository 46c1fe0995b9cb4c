"""An entry of a match-action table, and the memory that packets write: its counter, its meter, its last hit."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Final

from soft_switch.model.externs import METER_WORDS, MeterBuckets, MeterConfig, describe_meter
from soft_switch.tables.matches import Match, Target

METER_AT: Final = 2
"""Index in an entry's cells where its direct meter begins, after the packets and bytes of its direct counter."""
LAST_HIT_AT: Final = METER_AT + METER_WORDS
"""Index in an entry's cells of the time of its last hit."""


class Entry:
    """A table entry.

    ``cells`` is the memory of its direct counter, its direct meter and the time of its last hit, shared with machine
    code. The fields of idle timeouts are those of :class:`~soft_switch.tables.idle.IdleWatch`.

    Attributes:
        metadata: what the control plane attached; packets never see it.
        idle_timeout_ns: 0 for none.
        notified_ns: when the control plane was last told that the entry is idle.
        looked_at_ns: when the entry is next checked; None if no check is scheduled.
        buckets: the token buckets of the direct meter.
    """

    __slots__ = (
        "_meter",
        "buckets",
        "cells",
        "idle_timeout_ns",
        "is_const",
        "looked_at_ns",
        "match",
        "metadata",
        "notified_ns",
        "priority",
        "target",
    )

    def __init__(self, match: tuple[Match, ...], priority: int, target: Target, is_const: bool = False) -> None:
        self.match = match
        self.priority = priority
        self.target = target
        self.is_const = is_const
        self.metadata = b""
        self.cells: array[int] = array("Q", bytes(8 * (LAST_HIT_AT + 1)))
        self.idle_timeout_ns = 0
        self.notified_ns = 0
        self.looked_at_ns: int | None = None
        self.buckets: MeterBuckets | None = None
        self._meter: MeterConfig | None = None

    @property
    def packets(self) -> int:
        """Packets that the direct counter has counted."""
        return self.cells[0]

    @packets.setter
    def packets(self, value: int) -> None:
        self.cells[0] = value

    @property
    def bytes(self) -> int:
        """Bytes that the direct counter has counted."""
        return self.cells[1]

    @bytes.setter
    def bytes(self, value: int) -> None:
        self.cells[1] = value

    @property
    def last_hit_ns(self) -> int:
        """When a packet last hit the entry or, before any did, when it was written; in a table with idle timeouts."""
        return self.cells[LAST_HIT_AT]

    @last_hit_ns.setter
    def last_hit_ns(self, time_ns: int) -> None:
        self.cells[LAST_HIT_AT] = time_ns

    @property
    def meter(self) -> MeterConfig | None:
        """Configuration of the direct meter; setting it fills the buckets."""
        return self._meter

    @meter.setter
    def meter(self, config: MeterConfig | None) -> None:
        self._meter = config
        describe_meter(self.cells, METER_AT, config)

    def save(self) -> Callable[[], None]:
        """Save all that the control plane can change; the function returned restores it."""
        cells = self.cells[:]
        kept = [(name, getattr(self, name)) for name in _CHANGING]

        def restore() -> None:
            self.cells[:] = cells
            for name, value in kept:
                setattr(self, name, value)

        return restore


_CHANGING = ("target", "_meter", "metadata", "buckets", "idle_timeout_ns", "notified_ns")
