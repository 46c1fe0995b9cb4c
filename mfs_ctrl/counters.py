"""The counters of the MFS program: what each index means, and what was counted between two reads.

The layouts are those of ``p4src/v1model/observe.p4``; this is their only copy in Python.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from host_agent.protocol.level import CODE_STEPS
from host_agent.protocol.stamp import LEVELS, Stage

PORT_LEVEL = "port_level"
LAXITY = "laxity"
COMPLETION = "completion"
DISCARDED = "discarded"
DISCARD_REASONS = ("no route", "malformed", "time to live expired")
"""By index of ``discarded``; as in ``p4src/shared/constants.p4``."""
REGISTRATION = "registration"
REGISTRATION_REFUSALS: Mapping[int, str] = {
    3: "registration from an untrusted port",
    4: "registration whose source address is not of its port",
    5: "registration beyond the port's rate",
    6: "registration of a flow whose cell another flow has",
    7: "registration without a stage",
}
"""By index of ``registration``; as in ``p4src/shared/constants.p4``. What is below was accepted."""

EXPORTED = (PORT_LEVEL, LAXITY, COMPLETION, DISCARDED, REGISTRATION)
"""The counters that metrics export."""

LAXITY_BUCKETS = 16
LATE_BUCKET = LAXITY_BUCKETS - 1
"""The bucket of late packets, whose urgency has no bound."""
OCTAVES = 32


@dataclass(frozen=True, slots=True)
class Count:
    """Count of one cell; bytes are 0 if the counter counts packets only."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, order=True)
class PortLevel:
    """Index of ``port_level``: what left through egress port ``port`` at ``level``."""

    port: int
    level: int

    @property
    def index(self) -> int:
        """Number of the cell."""
        return self.port << 3 | self.level

    @classmethod
    def of(cls, index: int) -> PortLevel:
        """Return the meaning of cell ``index``."""
        return cls(index >> 3, index & 7)


@dataclass(frozen=True, slots=True, order=True)
class LaxityCell:
    """Index of ``laxity``: stamped packets that left, by stage, level and urgency / 16.

    A bucket is a factor of 4 of MLU (minimal link utilisation).
    """

    stage: Stage
    level: int
    bucket: int

    @property
    def index(self) -> int:
        """Number of the cell."""
        return self.stage << 7 | self.level << 4 | self.bucket

    @classmethod
    def of(cls, index: int) -> LaxityCell:
        """Return the meaning of cell ``index``."""
        return cls(Stage(index >> 7), index >> 4 & 7, index & 15)


@dataclass(frozen=True, slots=True, order=True)
class CompletionCell:
    """Index of ``completion``: final packets of flows, by stage, level, lateness and octave of the slack.

    Octave o is 2^o to 2^(o+1) microseconds of slack left, or past the deadline if ``late``.
    """

    stage: Stage
    level: int
    late: bool
    octave: int

    @property
    def index(self) -> int:
        """Number of the cell."""
        return self.stage << 9 | self.level << 6 | self.late << 5 | self.octave

    @classmethod
    def of(cls, index: int) -> CompletionCell:
        """Return the meaning of cell ``index``."""
        return cls(Stage(index >> 9), index >> 6 & 7, bool(index >> 5 & 1), index & 31)

    @property
    def slack_code(self) -> int:
        """The slack code in the middle of the octave."""
        return self.octave * CODE_STEPS + CODE_STEPS // 2


def meaning(name: str, index: int) -> str:
    """Return what cell ``index`` of the counter ``name`` counts, as text; empty if this module does not know it."""
    # Another program may have a counter of the same name, with more cells.
    with contextlib.suppress(ValueError):
        if name == PORT_LEVEL:
            sent = PortLevel.of(index)
            return f"port {sent.port}, level {sent.level}"
        if name == LAXITY:
            laxity = LaxityCell.of(index)
            return f"{laxity.stage.name}, level {laxity.level}, MLU bucket {laxity.bucket}"
        if name == COMPLETION:
            done = CompletionCell.of(index)
            return f"{done.stage.name}, level {done.level}, 2^{done.octave} us {'late' if done.late else 'left'}"
        if name == DISCARDED and index < len(DISCARD_REASONS):
            return DISCARD_REASONS[index]
        if name == REGISTRATION:
            return REGISTRATION_REFUSALS.get(index, "accepted")
    return ""


def cells_of_ports(ports: Iterable[int]) -> list[int]:
    """Return the cells of ``port_level`` that belong to ``ports``."""
    return [PortLevel(port, level).index for port in ports for level in range(LEVELS)]


Cells = Mapping[str, Mapping[int, Count]]
"""Counts by counter name and index, as read."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Counts over ``interval_ns`` (0: unknown); cells that did not change are left out."""

    interval_ns: int = 0
    port_level: Mapping[PortLevel, Count] = field(default_factory=dict)
    laxity: Mapping[LaxityCell, Count] = field(default_factory=dict)
    completion: Mapping[CompletionCell, int] = field(default_factory=dict)
    discarded: Mapping[str, int] = field(default_factory=dict)

    def late_share(self, *stages: Stage) -> float | None:
        """Return the share of the finished flows of ``stages`` that were late; None if none finished."""
        completed = self.completed(*stages)
        if not completed:
            return None
        late = sum(flows for cell, flows in self.completion.items() if cell.stage in stages and cell.late)
        return late / completed

    def completed(self, *stages: Stage) -> int:
        """Return the number of flows of ``stages`` that finished."""
        return sum(flows for cell, flows in self.completion.items() if cell.stage in stages)

    def slack_code_at(self, share: float, *stages: Stage) -> int | None:
        """Return the slack code, to an octave, that ``share`` of the flows of ``stages`` in time do not exceed."""
        in_time = sorted(
            (cell.slack_code, flows)
            for cell, flows in self.completion.items()
            if cell.stage in stages and not cell.late
        )
        total = sum(flows for _, flows in in_time)
        seen = 0
        for code, flows in in_time:
            seen += flows
            if seen and seen >= share * total:
                return code
        return None


def observe(before: Cells, after: Cells, interval_ns: int = 0) -> Observation:
    """Return what was counted between two reads.

    A cell below its old count was reset in between and counts from 0. A counter that is missing in ``after`` was not
    read and counts nothing.
    """
    return Observation(
        interval_ns,
        {PortLevel.of(index): count for index, count in _moved(before, after, PORT_LEVEL)},
        {LaxityCell.of(index): count for index, count in _moved(before, after, LAXITY)},
        {CompletionCell.of(index): count.packets for index, count in _moved(before, after, COMPLETION)},
        {
            **{DISCARD_REASONS[index]: count.packets for index, count in _moved(before, after, DISCARDED)},
            **{REGISTRATION_REFUSALS[index]: count.packets for index, count in _moved(before, after, REGISTRATION)},
        },
    )


def _moved(before: Cells, after: Cells, name: str) -> list[tuple[int, Count]]:
    old = before.get(name, {})
    moved = []
    for index, count in after.get(name, {}).items():
        base = old.get(index, Count(0, 0))
        if count.packets < base.packets:
            base = Count(0, 0)
        if count.packets > base.packets:
            moved.append((index, Count(count.packets - base.packets, count.bytes - base.bytes)))
    return moved
