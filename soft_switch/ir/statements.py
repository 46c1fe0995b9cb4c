"""Statements of the generated functions.

Those without a body say what they read and write; :mod:`soft_switch.ir.liveness` drops the ones without other effect
whose variables are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

from soft_switch.ir import expressions as ex
from soft_switch.ir.arithmetic import constant, fit, masked, shift_right


class Step(ex.Node):
    """A statement without a body.

    Attributes:
        sets: fields that name variables which it sets.
        sets_always: variables that every statement of the class sets.
    """

    __slots__ = ()
    sets: ClassVar[tuple[str, ...]] = ()
    sets_always: ClassVar[tuple[str, ...]] = ()

    @property
    def writes(self) -> ex.Names:
        """Variables that it sets."""
        return frozenset((*self.sets_always, *(getattr(self, name) for name in self.sets)))


class Setting(Step):
    """A step that does nothing but set variables."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Assign(Setting):
    """Assignment of a number."""

    target: str
    value: ex.Number
    sets: ClassVar = ("target",)


@dataclass(frozen=True, slots=True)
class Perform(Step):
    """Assignment of a number whose computation has an effect: it runs a meter or draws a random number."""

    target: str
    value: ex.Number
    sets: ClassVar = ("target",)


@dataclass(frozen=True, slots=True)
class SetBytes(Setting):
    """Assignment to a variable that holds bytes."""

    target: str
    value: ex.Bytes
    sets: ClassVar = ("target",)


@dataclass(frozen=True, slots=True)
class Extracted:
    """A field of a header, and the variable that takes it."""

    variable: str
    width: int
    signed: bool


@dataclass(frozen=True, slots=True)
class Run:
    """Fields that begin and end together at bytes: ``size`` bytes from byte ``at`` of the header on."""

    at: int
    size: int
    fields: tuple[Extracted, ...]

    def values(self, whole: ex.Number) -> Iterator[tuple[Extracted, ex.Number]]:
        """Yield the fields with their values, cut out of the run as one number."""
        shift = 8 * self.size
        for one in self.fields:
            shift -= one.width
            part = masked(shift_right(whole, constant(shift)), (1 << one.width) - 1)
            yield one, fit(part, one.width, one.signed)


@dataclass(frozen=True, slots=True)
class Extract(Setting):
    """Extraction of the fields of a header that begins at byte ``begin`` of the packet into variables.

    ``fields`` are all fields in the order of the header; only those in ``wanted`` are set.
    """

    begin: ex.Number
    fields: tuple[Extracted, ...]
    wanted: ex.Names
    uses: ClassVar = ("data",)

    @property
    def writes(self) -> ex.Names:
        """Variables that it sets."""
        return self.wanted

    def narrowed(self, live: ex.Names) -> Extract:
        """Return the same step for those variables that are read."""
        return replace(self, wanted=self.wanted & live)

    def runs(self) -> Iterator[Run]:
        """Yield the fields by runs of bytes, including runs without a wanted field."""
        at = bits = 0
        fields: list[Extracted] = []
        for one in self.fields:
            fields.append(one)
            bits += one.width
            if bits % 8 == 0:
                yield Run(at, bits // 8, tuple(fields))
                at, bits, fields = at + bits // 8, 0, []


@dataclass(frozen=True, slots=True)
class LookUp(Setting):
    """Lookup of ``keys`` in the table whose results are the object ``results``."""

    record: str
    results: str
    keys: tuple[ex.Number, ...]
    sets: ClassVar = ("record",)


@dataclass(frozen=True, slots=True)
class ChooseMember(Setting):
    """Replacement of a table result that is a group by the member that a hash chooses."""

    record: str
    hash: ex.Number
    named: ClassVar = ("record",)
    sets: ClassVar = ("record",)


@dataclass(frozen=True, slots=True)
class Count(Step):
    """Addition of ``amount`` to a cell of the object ``cells``; the index is within the array."""

    cells: str
    index: ex.Number
    amount: ex.Number


@dataclass(frozen=True, slots=True)
class CountHit(Step):
    """Count of the packet in the direct counter of the entry that was hit."""

    record: str
    uses: ClassVar = ("n",)
    named: ClassVar = ("record",)


@dataclass(frozen=True, slots=True)
class NoteHit(Step):
    """Note of the time in the entry that was hit."""

    record: str
    uses: ClassVar = ("now_ns",)
    named: ClassVar = ("record",)


@dataclass(frozen=True, slots=True)
class WriteCell(Step):
    """Assignment to a cell of the object ``cells``; the index is within the array."""

    cells: str
    index: ex.Number
    value: ex.Number


@dataclass(frozen=True, slots=True)
class Report(Step):
    """Report to the switch by the object ``function``: a ``digest``, a ``log`` message, or ``fail``.

    ``fixed`` are the name of the digest, the text of the message, or the failed assertion and its place.
    """

    kind: str
    function: str
    fixed: tuple[str, ...]
    values: tuple[ex.Number, ...]


@dataclass(frozen=True, slots=True)
class Keep(Setting):
    """Note of the fields that a copy keeps."""

    values: tuple[ex.Number, ...]
    sets_always: ClassVar = ("kept",)


@dataclass(frozen=True, slots=True)
class TakeAlong(Step):
    """Assignment of the fields that a re-entering packet has kept."""

    targets: tuple[str, ...]

    @property
    def writes(self) -> ex.Names:
        """Variables that it sets."""
        return frozenset(self.targets)

    uses: ClassVar = ("again",)


@dataclass(frozen=True, slots=True)
class CloneIngress(Step):
    """Clone of the packet as it arrived. ``cut`` and ``clone`` are objects."""

    cut: str
    clone: str
    session: ex.Number
    priority: ex.Number
    uses: ClassVar = ("kept", "port", "data", "now_ns")
    sets_always: ClassVar = ("cut_data",)


@dataclass(frozen=True, slots=True)
class CloneEgress(Step):
    """Clone of the packet as egress made it. ``length`` is its length before it is cut."""

    cut: str
    clone: str
    session: ex.Number
    priority: ex.Number
    length: ex.Number
    state: ex.State
    sets_always: ClassVar = ("cut_data", "cut_length")

    @property
    def reads(self) -> ex.Names:
        """Variables whose value it needs."""
        parts = (self.session, self.priority, self.length, *self.state)
        return frozenset(("data", "off")).union(*[part.reads for part in parts]) - self.writes


@dataclass(frozen=True, slots=True)
class Multicast(Step):
    """Copies to a multicast group, by the object ``function``."""

    function: str
    group: ex.Number
    priority: ex.Number
    state: ex.State
    uses: ClassVar = ("n",)


@dataclass(frozen=True, slots=True)
class ComeAgain(Step):
    """Re-entry of the packet in the variable ``packet``, by the object ``function``."""

    function: str
    port: ex.Number
    packet: str
    kind: int
    rounds: ex.Number
    uses: ClassVar = ("kept",)
    named: ClassVar = ("packet",)


@dataclass(frozen=True, slots=True)
class Drop(Step):
    """Exit from the function that drops the packet."""


@dataclass(frozen=True, slots=True)
class PassOn(Step):
    """Exit from ingress with a packet for the queues. ``make`` and ``kind`` are objects."""

    make: str
    kind: str
    port: ex.Number
    priority: ex.Number
    state: ex.State
    uses: ClassVar = ("n",)


@dataclass(frozen=True, slots=True)
class ReturnState(Step):
    """Exit from the function with the state of a packet."""

    state: ex.State


@dataclass(frozen=True, slots=True)
class Send(Step):
    """Exit from egress with the packet to send."""

    frame: ex.Frame | ex.BytesVar


LEAVING = (Drop, PassOn, ReturnState, Send)
"""Statements that leave the function."""


@dataclass(slots=True)
class Branch:
    """A body, and the condition under which it runs."""

    condition: ex.Condition
    body: list[Stmt]


@dataclass(slots=True)
class If:
    """Conditional: the first branch whose condition holds, or ``orelse``."""

    branches: list[Branch]
    orelse: list[Stmt] = field(default_factory=list)


@dataclass(slots=True)
class Block:
    """A body that :class:`Break` leaves."""

    body: list[Stmt]


@dataclass(frozen=True, slots=True)
class Break:
    """Exit from the enclosing :class:`Block` or :class:`Loop`."""


@dataclass(slots=True)
class Loop:
    """Parts by number. Each sets ``variable`` to the number of the next one, or to -1, which ends the loop."""

    variable: str
    parts: dict[int, list[Stmt]]


Stmt: TypeAlias = Step | If | Block | Break | Loop


def when(condition: ex.Condition, body: list[Stmt], orelse: list[Stmt] | None = None) -> If:
    """Return ``body`` where the condition holds, else ``orelse``."""
    return If([Branch(condition, body)], orelse or [])
