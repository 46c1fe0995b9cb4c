"""Expressions: numbers with the interval of their values, conditions, and bytes.

The classes are plain data. :mod:`soft_switch.ir.arithmetic` builds numbers and conditions and infers the intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from soft_switch.model.externs import DirectMeter, MeterArray
from soft_switch.model.hashes import HashMemo, PackedHash

Names: TypeAlias = frozenset[str]
Interval: TypeAlias = tuple[int, int]
EMPTY: Names = frozenset()
PACKET = "data"
"""Variable that holds the bytes of the packet as it came in."""
ACTION, HIT, PARAMETERS = 0, 1, 3
"""Positions in the result of a table: id of the action, whether an entry was hit, the action's parameters."""


class Node:
    """Part of an expression, or a statement: a dataclass of other nodes, tuples of them, names and numbers.

    Attributes:
        uses: variables that every node of the class reads.
        named: fields that name variables which it reads.
    """

    __slots__ = ()
    uses: ClassVar[tuple[str, ...]] = ()
    named: ClassVar[tuple[str, ...]] = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()

    @property
    def reads(self) -> Names:
        """Variables whose value it needs."""
        own = frozenset((*self.uses, *(getattr(self, name) for name in self.named)))
        return own.union(*[part.reads for name in self.__match_args__ for part in _nodes(getattr(self, name))])


def _nodes(value: object) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _nodes(item)


@dataclass(frozen=True, slots=True)
class Number(Node):
    """An integer with ``low`` <= value <= ``high``."""

    low: int
    high: int
    is_atom: ClassVar[bool] = False
    """Whether computing it twice costs nothing."""

    @property
    def const(self) -> int | None:
        """The value if it is known."""
        return self.low if self.low == self.high else None


@dataclass(frozen=True, slots=True)
class Literal(Number):
    """A known number."""

    is_atom: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Var(Number):
    """A variable. At this place its interval may be narrower than its type."""

    name: str
    named: ClassVar = ("name",)
    is_atom: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Binary(Number):
    """``left sign right``; the signs are ``+ - * // % << >> & | ^`` with their meaning in Python."""

    sign: str
    left: Number
    right: Number


@dataclass(frozen=True, slots=True)
class Unary(Number):
    """``-operand`` or ``~operand``."""

    sign: str
    operand: Number


@dataclass(frozen=True, slots=True)
class Choice(Number):
    """``yes`` where the condition holds, else ``no``. Only the chosen one is computed."""

    condition: Condition
    yes: Number
    no: Number


@dataclass(frozen=True, slots=True)
class Bind(Number):
    """A value that is also put into a variable which nothing outside of the expression uses."""

    name: str
    value: Number


@dataclass(frozen=True, slots=True)
class Bound(Number):
    """The variable of a :class:`Bind` that was computed before in the same expression."""

    name: str
    is_atom: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Pick(Number):
    """The item at ``index``, which is in range."""

    items: tuple[Number, ...]
    index: Number


@dataclass(frozen=True, slots=True)
class BitLength(Number):
    """Bit length of a number that is not negative."""

    operand: Number


@dataclass(frozen=True, slots=True)
class Load(Number):
    """Bytes ``begin`` to ``end`` of the packet, most significant first. ``size`` is None where it varies."""

    begin: Number
    end: Number
    size: int | None
    uses: ClassVar = (PACKET,)


@dataclass(frozen=True, slots=True)
class Length(Number):
    """The number of bytes in a variable."""

    name: str
    named: ClassVar = ("name",)


@dataclass(frozen=True, slots=True)
class EgressPort(Number):
    """The port that ingress chose, as egress gets it."""


@dataclass(frozen=True, slots=True)
class Kept(Number):
    """The field at ``position`` of those that a copy keeps."""

    position: int
    uses: ClassVar = ("kept",)


@dataclass(frozen=True, slots=True)
class ResultField(Number):
    """A part of the result of a table: :data:`ACTION`, :data:`HIT`, or a parameter, from :data:`PARAMETERS` on."""

    record: str
    position: int
    named: ClassVar = ("record",)
    is_atom: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Cell(Number):
    """The cell at ``index``, which is within the array, of the object ``cells``."""

    cells: str
    index: Number
    is_atom: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class MemoHash(Number):
    """A hash by the object ``name``. ``key`` is the validity of each header, then the value of each field."""

    name: str
    memo: HashMemo
    key: tuple[Number, ...]
    is_atom: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class FieldsHash(Number):
    """A hash by the object ``name`` over pairs (validity, value), then ``payload`` if there is one."""

    name: str
    function: PackedHash
    fields: tuple[tuple[Number, Number], ...]
    payload: Frame | NoBytes
    is_atom: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Meter(Number):
    """The colour of the packet by the meter at ``index``. ``name`` is the object that executes the meters."""

    name: str
    meter: MeterArray
    index: Number
    uses: ClassVar = ("n", "now_ns")


@dataclass(frozen=True, slots=True)
class EntryMeter(Number):
    """The colour of the packet by the direct meter of the entry that was hit."""

    name: str
    meter: DirectMeter
    record: str
    uses: ClassVar = ("n", "now_ns")
    named: ClassVar = ("record",)


@dataclass(frozen=True, slots=True)
class Random(Number):
    """A random number from ``least`` to ``most``, drawn by the object ``name``."""

    name: str
    least: Number
    most: Number


class Condition(Node):
    """Something that holds or does not."""

    __slots__ = ()

    @property
    def known(self) -> bool | None:
        """Whether it holds, if that is known."""
        return self.value if isinstance(self, Known) else None


@dataclass(frozen=True, slots=True)
class Known(Condition):
    """A condition that is known to hold or not to hold."""

    value: bool


@dataclass(frozen=True, slots=True)
class NotZero(Condition):
    """The number is not 0."""

    number: Number


@dataclass(frozen=True, slots=True)
class Compare(Condition):
    """``left sign right``, where the sign is one of ``== != < <= > >=``."""

    sign: str
    left: Number
    right: Number


@dataclass(frozen=True, slots=True)
class Not(Condition):
    """The operand does not hold."""

    operand: Condition


@dataclass(frozen=True, slots=True)
class Junction(Condition):
    """``left and right`` or ``left or right``. The right one is evaluated only if the left one does not decide."""

    word: str
    left: Condition
    right: Condition


@dataclass(frozen=True, slots=True)
class Either(Condition):
    """``yes`` where the condition holds, else ``no``."""

    condition: Condition
    yes: Condition
    no: Condition


@dataclass(frozen=True, slots=True)
class Member(Condition):
    """The values are in the parser value set that is the object ``name``."""

    name: str
    values: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class IsNew(Condition):
    """The packet enters for the first time."""

    uses: ClassVar = ("again",)


class Bytes(Node):
    """Some bytes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class NoBytes(Bytes):
    """No bytes at all."""


@dataclass(frozen=True, slots=True)
class BytesVar(Bytes):
    """A variable that holds bytes."""

    name: str
    named: ClassVar = ("name",)


@dataclass(frozen=True, slots=True)
class Slice(Bytes):
    """``size`` bytes of the packet, from ``begin`` to ``end``."""

    begin: Number
    end: Number
    size: int
    uses: ClassVar = (PACKET,)


@dataclass(frozen=True, slots=True)
class ToBytes(Bytes):
    """A number as ``length`` bytes, most significant first."""

    number: Number
    length: Number


@dataclass(frozen=True, slots=True)
class Frame(Bytes):
    """The variables ``headers`` one after the other, then the payload; cut where ``limit`` - 1 is not negative."""

    headers: tuple[BytesVar, ...]
    limit: Var | None
    uses: ClassVar = (PACKET, "off")


State: TypeAlias = tuple[Number | BytesVar, ...]
"""State that a packet carries from ingress to egress, in the order of the carried variables."""
