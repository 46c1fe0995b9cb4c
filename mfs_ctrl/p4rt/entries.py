"""What a switch can hold, as immutable values: entries by P4Info names, numbers as ints.

Every kind has a ``key`` (which object it is: equal keys cannot be held twice) and compares by value, so that a
difference between two states is a comparison of dictionaries.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exact:
    """An exact match on ``value``."""

    value: int


@dataclass(frozen=True, slots=True)
class Lpm:
    """A longest prefix match; bits of ``value`` below the prefix are zero. A prefix of no bits is left out instead."""

    value: int
    prefix_len: int


@dataclass(frozen=True, slots=True)
class Ternary:
    """A match on the bits of ``mask``; ``value`` is zero elsewhere. A mask of no bits is left out instead."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Range:
    """A match on low <= field <= high. A range of the whole width is left out instead."""

    low: int
    high: int


MatchValue = Exact | Lpm | Ternary | Range
FieldMatch = tuple[str, MatchValue]
"""Name of a match field and what it must be; fields that do not matter are left out, as P4Runtime demands."""


@dataclass(frozen=True, slots=True)
class ActionCall:
    """An action by name, with its arguments in the order of the P4Info."""

    name: str
    args: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(str(argument) for argument in self.args)})"


@dataclass(frozen=True, slots=True)
class GroupRef:
    """A table entry's target: a group of the table's action profile."""

    group_id: int

    def __str__(self) -> str:
        return f"group {self.group_id}"


@dataclass(frozen=True, slots=True)
class MemberRef:
    """A table entry's target: a member of the table's action profile."""

    member_id: int

    def __str__(self) -> str:
        return f"member {self.member_id}"


Target = ActionCall | GroupRef | MemberRef
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One row of a table. ``match`` is in the order of the P4Info's fields; ``priority`` is 0 where none is allowed."""

    table: str
    match: tuple[FieldMatch, ...]
    target: Target
    priority: int = 0

    @property
    def key(self) -> Key:
        """Table, match and priority."""
        return ("entry", self.table, self.match, self.priority)

    def __str__(self) -> str:
        match = ", ".join(f"{name}={_in_words(value)}" for name, value in self.match)
        priority = f" priority {self.priority}" if self.priority else ""
        return f"{self.table}[{match}]{priority} -> {self.target}"


@dataclass(frozen=True, slots=True)
class DefaultAction:
    """What a table does on a miss."""

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
    """One member of an action profile."""

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
    """One group of an action profile: (member, weight) pairs by rising member. ``max_size`` is a sum of weights."""

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
    """The rates of one meter cell: units per second and units, of what the meter counts (RFC 2698)."""

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


def _in_words(value: MatchValue) -> str:
    match value:
        case Exact(number):
            return str(number)
        case Lpm(number, prefix_len):
            return f"{number:#x}/{prefix_len}"
        case Ternary(number, mask):
            return f"{number:#x}&&&{mask:#x}"
        case Range(low, high):
            return f"{low}..{high}"
