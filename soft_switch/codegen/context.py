"""State that all parts of code generation share: variables, objects of the run, and how each header is used."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir.arithmetic import limits
from soft_switch.ir.expressions import Interval, Number, Var
from soft_switch.ir.statements import Assign
from soft_switch.ir.variables import RESERVED_NAMES, Types
from soft_switch.model.program import (
    VALID,
    ElementField,
    ElementRef,
    Expr,
    FieldRef,
    HeaderDef,
    HeaderRef,
    ObjectRef,
    Primitive,
    Program,
    StackRef,
    UnionRef,
)
from soft_switch.tables.table import Table


@dataclass(slots=True)
class Context:
    """State of the generation of one program.

    Attributes:
        program: the program to compile.
        externs: counters, meters, registers and tables by "kind:name", and the functions that generated code calls.
        objects: what the generated code uses: tables' results, counters, hash memos and the like, by name.
        types: the types of variables.
    """

    program: Program
    externs: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    types: Types = field(default_factory=Types)
    _names: dict[FieldRef, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _count: int = 0
    _written: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._written = _written_fields(self.program)

    def name(self, ref: FieldRef) -> str:
        """Return the variable of a field."""
        known = self._names.get(ref)
        if known is None:
            suffix = "valid" if ref.name == VALID else ref.name
            known = self.unique(f"{ref.header}__{suffix}")
            self._names[ref] = known
            if ref.name == _WIRE:
                self.types.octets[known] = self.program.headers[ref.header].width // 8
            else:
                self.types.numbers[known] = self._interval(ref)
        return known

    def _interval(self, ref: FieldRef) -> Interval:
        if ref.name == _RAW:
            return limits(self.program.headers[ref.header].width, False)
        definition = self.program.field_def(ref)
        # A field of variable width holds its value after a one.
        return limits(definition.width + (definition.most and definition.most + 1), definition.signed)

    def variable(self, ref: FieldRef) -> Var:
        """Return a field, with all the values that it may have."""
        name = self.name(ref)
        return Var(*self.types.numbers[name], name)

    def valid(self, header: str) -> Var:
        """Return the variable that is 1 while ``header`` is valid, else 0."""
        return self.variable(FieldRef(header, VALID))

    def raw(self, header: str) -> Var:
        """Return the variable that holds the header as one number, as it was extracted."""
        return self.variable(FieldRef(header, _RAW))

    def wire(self, header: str) -> str:
        """Return the variable that holds the header's bytes, as they were extracted."""
        return self.name(FieldRef(header, _WIRE))

    def intrinsic(self, name: str) -> Var | None:
        """Return the variable of a field of standard or intrinsic metadata; None if the program does not have it."""
        ref = self.program.intrinsic(name)
        return None if ref is None else self.variable(ref)

    def unique(self, wish: str) -> str:
        """Return a name for a variable or object that nothing else has."""
        base = re.sub(r"\W+", "_", wish).strip("_") or "x"
        if base[0].isdigit():
            base = f"x{base}"
        name, number = base, 0
        while name in self._taken or name in _RESERVED:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name

    def fresh(self, prefix: str, interval: Interval) -> Var:
        """Return a new variable for numbers of an interval."""
        self._count += 1
        name = self.unique(f"{prefix}{self._count}")
        self.types.numbers[name] = interval
        return Var(*interval, name)

    def fresh_octets(self, prefix: str, most: int) -> str:
        """Return the name of a new variable for ``most`` bytes or fewer."""
        self._count += 1
        name = self.unique(f"{prefix}{self._count}")
        self.types.octets[name] = most
        return name

    def fresh_record(self, table: Table) -> str:
        """Return the name of a new variable for a result of ``table``."""
        self._count += 1
        name = self.unique(f"r{self._count}")
        self.types.records[name] = table
        return name

    def hold(self, prefix: str, value: Number) -> tuple[Assign, Var]:
        """Return a new variable for a value that is used more than once, and the statement that sets it."""
        variable = self.fresh(prefix, (value.low, value.high))
        return Assign(variable.name, value), variable

    def share(self, wish: str, thing: Any) -> str:
        """Return the name under which the generated code finds ``thing``."""
        for name, known in self.objects.items():
            if known is thing:
                return name
        name = self.unique(wish)
        self.objects[name] = thing
        return name

    def share_extern(self, name: str, wish: str | None = None) -> str:
        """Return the name under which the generated code finds an extern."""
        return self.share(wish or name, self.externs[name])

    def written_fields(self, header: str) -> set[str]:
        """Return the fields of the header that are set other than by extraction."""
        return self._written.get(header, set())

    def is_rewritten(self, header: str) -> bool:
        """Return whether the header may leave with other bytes than were extracted."""
        return header in self._written

    def fields_of(self, header: HeaderDef) -> list[FieldRef]:
        """Return all fields of a header, in wire order."""
        return [FieldRef(header.name, f.name) for f in header.fields]


_RAW, _WIRE = "$raw", "$wire"
_RESERVED = frozenset(keyword.kwlist) | RESERVED_NAMES


def all_primitives(program: Program) -> Iterator[Primitive]:
    """Yield every primitive of actions, parser and deparser."""
    for action in program.actions.values():
        yield from action.primitives
    for state in program.states.values():
        for op in state.ops:
            if op.primitive is not None:
                yield op.primitive
    yield from program.deparser_primitives


def _written_fields(program: Program) -> dict[str, set[str]]:
    written: dict[str, set[str]] = {}
    copies: list[tuple[str, str]] = []

    def note(target: object) -> None:
        if isinstance(target, FieldRef) and target.name != VALID:
            written.setdefault(target.header, set()).add(target.name)
        elif isinstance(target, ElementField):
            for header in program.stacks[target.element.stack]:
                written.setdefault(header, set()).add(target.name)

    for header in program.headers.values():
        # Headers of unions and headers whose width varies are always composed.
        if header.varbit is not None or program.siblings(header.name):
            written.setdefault(header.name, set()).update(f.name for f in header.fields)

    for state in program.states.values():
        for op in state.ops:
            if op.kind == "set":
                note(op.args[0])
    for primitive in all_primitives(program):
        if primitive.op == "assign_header":
            for target_name in _headers_named(program, primitive.args[0]):
                written.setdefault(target_name, set())
                copies += [(target_name, source) for source in _headers_named(program, primitive.args[1])]
        elif primitive.op in ("assign_header_stack", "assign_union", "assign_union_stack"):
            names = (_headers_named(program, argument) for argument in primitive.args[:2])
            for target_name, source in zip(*names, strict=True):
                written.setdefault(target_name, set())
                copies.append((target_name, source))
        elif primitive.op in ("push", "pop"):
            elements = _headers_named(program, primitive.args[0])
            for target_name in elements:
                written.setdefault(target_name, set())
                copies += [(target_name, source) for source in elements if source != target_name]
        elif primitive.op == "add_header":
            for target_name in _headers_named(program, primitive.args[0]):
                written.setdefault(target_name, set())
        elif primitive.op == "execute_meter":
            note(primitive.args[2])
        elif primitive.args:
            note(primitive.args[0])
    for checksum in program.checksums:
        if checksum.update:
            note(checksum.target)
    for meter in program.meters.values():
        note(meter.result)
    changed = True
    while changed:
        changed = False
        for target_name, source_name in copies:
            missing = written.get(source_name, set()) - written[target_name]
            if missing:
                written[target_name] |= missing
                changed = True
    return written


def _headers_named(program: Program, argument: object) -> list[str]:
    if isinstance(argument, HeaderRef):
        return [argument.name]
    if isinstance(argument, ElementRef):
        return list(program.stacks[argument.stack])
    if isinstance(argument, StackRef | UnionRef):
        return program.headers_of(argument.name)
    return []


def header_name(argument: Expr | ObjectRef | str | tuple[Expr, ...], place: str) -> str:
    """Return the header that a primitive's argument names."""
    if not isinstance(argument, HeaderRef):
        raise UnsupportedConstructError("header that is computed", place)
    return argument.name
