"""A loaded program: the parts of the bmv2 JSON (format 2.x) as typed, immutable objects. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field

VALID = "$valid$"
"""Name of the hidden one-bit field of a header that says whether the header is valid."""
NEXT = "$next$"
"""Name of the hidden field of a header stack: how many elements the parser has filled."""


@dataclass(frozen=True, slots=True)
class FieldDef:
    """A field of a header type; signed fields hold two's complement numbers.

    Attributes:
        width: in bits; 0 for a field of variable width (varbit).
        most: the largest width of a field of variable width, in bits.
    """

    name: str
    width: int
    signed: bool
    most: int = 0


@dataclass(frozen=True, slots=True)
class HeaderDef:
    """A header instance (or metadata instance) with its fields in wire order."""

    name: str
    type_name: str
    fields: tuple[FieldDef, ...]
    is_metadata: bool

    @property
    def width(self) -> int:
        """Width of the header in bits, without a field of variable width."""
        return sum(f.width for f in self.fields)

    @property
    def varbit(self) -> FieldDef | None:
        """The field of variable width, if the header has one."""
        return next((f for f in self.fields if f.most), None)

    def shift(self, name: str) -> int:
        """Return the position of a field's lowest bit in the header read as one big-endian number."""
        position = self.width
        for candidate in self.fields:
            position -= candidate.width
            if candidate.name == name:
                return position
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Const:
    """A number in the program. ``width`` is 0 if the JSON does not state one."""

    value: int
    width: int = 0


@dataclass(frozen=True, slots=True)
class BoolConst:
    """A boolean in the program."""

    value: bool


@dataclass(frozen=True, slots=True)
class FieldRef:
    """A field of a header; :data:`VALID` for the header's validity."""

    header: str
    name: str


@dataclass(frozen=True, slots=True)
class HeaderRef:
    """A whole header."""

    name: str


@dataclass(frozen=True, slots=True)
class StackRef:
    """A whole stack of headers or of header unions."""

    name: str


@dataclass(frozen=True, slots=True)
class UnionRef:
    """A whole header union."""

    name: str


@dataclass(frozen=True, slots=True)
class ElementRef:
    """The element of a header stack at a computed index."""

    stack: str
    index: Expr


@dataclass(frozen=True, slots=True)
class ElementField:
    """A field of an element of a header stack at a computed index."""

    element: ElementRef
    name: str


@dataclass(frozen=True, slots=True)
class LastField:
    """A field of the element of a header stack that the parser extracted last."""

    stack: str
    name: str


@dataclass(frozen=True, slots=True)
class NextElement:
    """The element of a stack into which the parser extracts next; ``member`` is an index for stacks of unions."""

    stack: str
    member: int | None


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of the enclosing action, by position."""

    index: int


@dataclass(frozen=True, slots=True)
class Lookahead:
    """Bits of the packet that are not extracted yet: offset from the current position and width, in bits."""

    offset: int
    width: int


@dataclass(frozen=True, slots=True)
class Op:
    """An operation; ``left`` is None for unary operations, ``cond`` is set for the ternary ``?``."""

    op: str
    left: Expr | None
    right: Expr
    cond: Expr | None = None


Expr = (
    Const
    | BoolConst
    | FieldRef
    | HeaderRef
    | StackRef
    | UnionRef
    | ElementRef
    | ElementField
    | LastField
    | NextElement
    | Param
    | Lookahead
    | Op
)


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A counter, meter, register array or calculation that a primitive names."""

    kind: str
    name: str


Argument = Expr | ObjectRef | str | tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Primitive:
    """A step of an action. ``place`` is its source location."""

    op: str
    args: tuple[Argument, ...]
    place: str


@dataclass(frozen=True, slots=True)
class Action:
    """An action. Names repeat in the JSON, one copy for each use; ids are unique."""

    id: int
    name: str
    params: tuple[tuple[str, int], ...]
    primitives: tuple[Primitive, ...]


@dataclass(frozen=True, slots=True)
class ParserOp:
    """A step of a parser state: extract (a second argument: bits of the varbit), set, verify, advance or primitive."""

    kind: str
    args: tuple[Argument, ...]
    primitive: Primitive | None = None


@dataclass(slots=True)
class ValueSetDef:
    """A parser value set: most members (0: not stated), and widths of the values in bits (() if it is unused)."""

    name: str
    size: int
    widths: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Transition:
    """A transition to ``next_state`` (None: accept) if each part of the key equals its value under its mask.

    Without parts it always matches. With a ``value_set`` it matches if the parts of the key are a member.
    """

    parts: tuple[tuple[int, int], ...]
    next_state: str | None
    value_set: str | None = None


@dataclass(frozen=True, slots=True)
class ParserState:
    """A parser state: its steps, the key it selects on, and the transitions in order."""

    name: str
    ops: tuple[ParserOp, ...]
    key: tuple[FieldRef | LastField | Lookahead, ...]
    transitions: tuple[Transition, ...]


@dataclass(frozen=True, slots=True)
class KeyField:
    """A field of a table key. ``mask`` is the program's mask on it, or None."""

    kind: str
    name: str
    target: FieldRef
    width: int
    mask: int | None


@dataclass(frozen=True, slots=True)
class ConstEntry:
    """An entry that the program fixes; each key field as (value,), (value, mask), (value, prefix) or (low, high)."""

    match: tuple[tuple[int, ...], ...]
    priority: int
    action_id: int
    args: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TableDef:
    """A match-action table, and where control goes after it (by action id, or by hit and miss)."""

    name: str
    kind: str
    keys: tuple[KeyField, ...]
    size: int
    has_counter: bool
    ages: bool
    meter: str | None
    profile: str | None
    action_ids: tuple[int, ...]
    default: tuple[int, tuple[int, ...]] | None
    default_is_const: bool
    entries: tuple[ConstEntry, ...] | None
    next_by_action: dict[int, str | None]
    next_default: str | None
    hit_miss: tuple[str | None, str | None] | None
    place: str


@dataclass(frozen=True, slots=True)
class ConditionalDef:
    """An ``if`` of a control block."""

    name: str
    condition: Expr
    true_next: str | None
    false_next: str | None
    place: str


@dataclass(frozen=True, slots=True)
class ProfileDef:
    """An action profile; with ``algorithm``, an action selector."""

    name: str
    size: int
    algorithm: str | None
    inputs: tuple[FieldRef, ...]
    place: str


@dataclass(frozen=True, slots=True)
class ControlDef:
    """Ingress or egress: a graph of tables and conditionals by name."""

    name: str
    first: str | None
    nodes: dict[str, TableDef | ConditionalDef]
    profiles: dict[str, ProfileDef]


@dataclass(frozen=True, slots=True)
class Calculation:
    """A hash or checksum over fields, constants (with width), headers and optionally the payload."""

    name: str
    algorithm: str
    inputs: tuple[FieldRef | Const | HeaderRef, ...]
    with_payload: bool
    place: str


@dataclass(frozen=True, slots=True)
class ChecksumDef:
    """A checksum that is verified after parsing, or updated before deparsing."""

    name: str
    target: FieldRef
    calculation: str
    verify: bool
    update: bool
    condition: Expr | None
    place: str


@dataclass(frozen=True, slots=True)
class ArrayDef:
    """A counter, meter or register array. ``table`` is set for direct counters and meters."""

    name: str
    size: int
    width: int = 0
    unit: str = "both"
    table: str | None = None
    result: FieldRef | None = None


@dataclass(frozen=True, slots=True)
class DigestDef:
    """The values that a digest reports."""

    name: str
    inputs: tuple[FieldRef | Const, ...]


@dataclass(slots=True)
class Program:
    """The program of the JSON, resolved by name."""

    headers: dict[str, HeaderDef] = field(default_factory=dict)
    stacks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    value_sets: dict[str, ValueSetDef] = field(default_factory=dict)
    field_lists: dict[int, tuple[FieldRef, ...]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    states: dict[str, ParserState] = field(default_factory=dict)
    first_state: str | None = None
    deparser_order: tuple[str, ...] = ()
    deparser_primitives: tuple[Primitive, ...] = ()
    actions: dict[int, Action] = field(default_factory=dict)
    ingress: ControlDef = field(default_factory=lambda: ControlDef("ingress", None, {}, {}))
    egress: ControlDef = field(default_factory=lambda: ControlDef("egress", None, {}, {}))
    calculations: dict[str, Calculation] = field(default_factory=dict)
    checksums: tuple[ChecksumDef, ...] = ()
    counters: dict[str, ArrayDef] = field(default_factory=dict)
    meters: dict[str, ArrayDef] = field(default_factory=dict)
    registers: dict[str, ArrayDef] = field(default_factory=dict)
    digests: dict[int, DigestDef] = field(default_factory=dict)
    aliases: dict[str, FieldRef] = field(default_factory=dict)

    def field_def(self, ref: FieldRef) -> FieldDef:
        """Return the definition of a field; validity is an unsigned field of one bit."""
        if ref.name == VALID:
            return FieldDef(VALID, 1, False)
        if ref.name == NEXT:
            return FieldDef(NEXT, 32, False)
        for candidate in self.headers[ref.header].fields:
            if candidate.name == ref.name:
                return candidate
        raise KeyError(f"{ref.header}.{ref.name}")

    def siblings(self, header: str) -> tuple[str, ...]:
        """Return the other members of the header union that a header belongs to."""
        for members in self.unions.values():
            if header in members:
                return tuple(member for member in members if member != header)
        return ()

    def headers_of(self, name: str) -> list[str]:
        """Return the headers of a stack or union, in order."""
        result = []
        for element in self.stacks.get(name) or self.unions[name]:
            result += self.headers_of(element) if element in self.unions else [element]
        return result

    def intrinsic(self, name: str) -> FieldRef | None:
        """Return the field with a piece of v1model's standard metadata, through the aliases of the JSON, if any."""
        for group in ("standard_metadata", "intrinsic_metadata", "queueing_metadata"):
            alias = self.aliases.get(f"{group}.{name}")
            if alias is not None:
                return alias
            header = self.headers.get(group)
            if header is not None and any(f.name == name for f in header.fields):
                return FieldRef(group, name)
        return None
