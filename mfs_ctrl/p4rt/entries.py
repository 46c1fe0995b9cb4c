"""Entities of a switch as immutable values, with names from the P4Info and numbers as ints.

Entities compare by value. The ``key`` of an entity identifies the object in the switch: two entities of one state have
different keys, so that the difference of two states is a comparison of dictionaries.

The embedded switch has its own match types (``soft_switch/tables/matches.py``), because it is independent of the
controller.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exact:
    """An exact match on ``value``."""

    value: int


@dataclass(frozen=True, slots=True)
class Lpm:
    """A longest prefix match; bits of ``value`` below the prefix are zero. An empty prefix is left out instead."""

    value: int
    prefix_len: int


@dataclass(frozen=True, slots=True)
class Ternary:
    """A match on the bits of ``mask``; ``value`` is zero elsewhere. An empty mask is left out instead."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Range:
    """A match on low <= field <= high. A range of the full width is left out instead."""

    low: int
    high: int


MatchValue = Exact | Lpm | Ternary | Range
FieldMatch = tuple[str, MatchValue]
"""Name of a match field and its match; P4Runtime requires that fields which match anything are left out."""


@dataclass(frozen=True, slots=True)
class ActionCall:
    """An action by name, with its arguments in P4Info order."""

    name: str
    args: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(str(argument) for argument in self.args)})"


@dataclass(frozen=True, slots=True)
class GroupRef:
    """Target of a table entry: a group of the table's action profile."""

    group_id: int

    def __str__(self) -> str:
        return f"group {self.group_id}"


@dataclass(frozen=True, slots=True)
class MemberRef:
    """Target of a table entry: a member of the table's action profile."""

    member_id: int

    def __str__(self) -> str:
        return f"member {self.member_id}"


Target = ActionCall | GroupRef | MemberRef
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class TableEntry:
    """A row of a table. ``match`` is in P4Info order; ``priority`` is 0 in tables without priorities."""

    table: str
    match: tuple[FieldMatch, ...]
    target: Target
    priority: int = 0

    @property
    def key(self) -> Key:
        """Table, match and priority."""
        return ("entry", self.table, self.match, self.priority)

    def __str__(self) -> str:
        match = ", ".join(f"{name}={_match_text(value)}" for name, value in self.match)
        priority = f" priority {self.priority}" if self.priority else ""
        return f"{self.table}[{match}]{priority} -> {self.target}"


@dataclass(frozen=True, slots=True)
class DefaultAction:
    """The action of a table on a miss."""

    table: str
    call: ActionCall

    @property
    def key(self) -> Key:
        """The table."""
        return ("default", self.table)

    def __str__(self) -> str:
        return f"default of {self.table} -> {self.call}"


@dataclass(frozen=True, slots=True)
class ProfileMember:
    """A member of an action profile."""

    profile: str
    member_id: int
    call: ActionCall

    @property
    def key(self) -> Key:
        """Profile and member."""
        return ("member", self.profile, self.member_id)

    def __str__(self) -> str:
        return f"member {self.member_id} of {self.profile} -> {self.call}"


@dataclass(frozen=True, slots=True)
class ProfileGroup:
    """A group of an action profile: (member, weight) pairs by member. ``max_size`` bounds the sum of weights."""

    profile: str
    group_id: int
    members: tuple[tuple[int, int], ...]
    max_size: int

    @property
    def key(self) -> Key:
        """Profile and group."""
        return ("group", self.profile, self.group_id)

    def __str__(self) -> str:
        return (
            f"group {self.group_id} of {self.profile} -> members {', '.join(str(member) for member, _ in self.members)}"
        )


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """The rates of a meter cell (RFC 2698): units per second, and units of burst, of what the meter counts."""

    meter: str
    index: int
    cir: int
    cburst: int
    pir: int
    pburst: int

    @property
    def key(self) -> Key:
        """Meter and index."""
        return ("meter", self.meter, self.index)

    def __str__(self) -> str:
        rates = f"{self.cir}/s burst {self.cburst}, peak {self.pir}/s burst {self.pburst}"
        return f"meter {self.meter}[{self.index}] -> {rates}"


Entity = TableEntry | DefaultAction | ProfileMember | ProfileGroup | MeterConfig


def _match_text(value: MatchValue) -> str:
    match value:
        case Exact(number):
            return str(number)
        case Lpm(number, prefix_len):
            return f"{number:#x}/{prefix_len}"
        case Ternary(number, mask):
            return f"{number:#x}&&&{mask:#x}"
        case Range(low, high):
            return f"{low}..{high}"
