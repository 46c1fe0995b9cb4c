"""The parser: its states unrolled into nested conditionals, with offsets that are known wherever they can be."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from soft_switch.codegen.compiler import Compiler, Scope
from soft_switch.codegen.context import Context
from soft_switch.codegen.header_primitives import emit_only_member
from soft_switch.codegen.ir import Assign, Block, Break, If, Loop, Multi, Names, Stmt, written
from soft_switch.codegen.primitives import emit_primitive
from soft_switch.codegen.values import Value, constant, fit
from soft_switch.errors import UnsupportedConstructError
from soft_switch.model.program import (
    NEXT,
    Argument,
    ElementField,
    FieldRef,
    HeaderDef,
    HeaderRef,
    LastField,
    Lookahead,
    NextElement,
    ParserOp,
    ParserState,
    Primitive,
)

MAX_WAYS = 1000
"""Ways through a parser that are written out one by one; a parser with more of them becomes a loop over its states."""
MAX_STATES = 4000
"""States of such a loop: those of the program, once for each number of elements that the parser may have filled."""
MAX_STEPS = 4096
"""States that a packet may go through in a loop; bmv2 would go on for ever."""
DATA: Names = frozenset(("data",))
SIZE: Names = frozenset(("n",))
_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}


@dataclass(frozen=True, slots=True)
class Offset:
    """A position in the packet in bytes: a number, after a variable if it depends on the packet."""

    number: int
    variable: str | None = None

    @property
    def text(self) -> str:
        """As Python."""
        if self.variable is None:
            return str(self.number)
        return f"{self.variable} + {self.number}" if self.number else self.variable

    @property
    def reads(self) -> Names:
        """What it depends on."""
        return frozenset((self.variable,)) if self.variable else frozenset()

    def plus(self, number: int) -> Offset:
        """``number`` bytes further on."""
        return Offset(self.number + number, self.variable)


def emit_parser(context: Context, scope: Scope) -> list[Stmt]:
    """Statements that take ``data`` (``n`` bytes) apart, and set ``off`` to where the payload begins.

    A parser error is noted in standard_metadata.parser_error; what was extracted by then stays valid.
    """
    return [Block(_Parser(context).emit_all(scope))]


_Here = tuple[str, tuple[int | None, ...]]
"""A state, and how many elements of each stack are filled there."""


class _CannotUnrollError(Exception):
    """The parser has a loop that no stack ends, or too many ways."""


class _Parser:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._program = context.program
        self._emitted = 0
        self._numbers: dict[_Here, int] | None = None
        self._error = self._program.intrinsic("parser_error")
        self._way: list[_Here] = []

    def emit_all(self, scope: Scope) -> list[Stmt]:
        start: list[Stmt] = []
        if self._error is not None:
            start.append(Assign(self._context.name(self._error), str(self._program.errors.get("NoError", 0))))
        for stack in self._program.stacks:
            filled = self._context.name(FieldRef(stack, NEXT))
            start.append(Assign(filled, "0"))
            scope.learn(filled, constant(0))
        first = self._program.first_state
        try:
            return start + self._state(first, Offset(0), scope.copy())
        except _CannotUnrollError:
            return start + self._loop(first, scope)

    def _loop(self, first: str | None, scope: Scope) -> list[Stmt]:
        """All states as parts of one loop, each once for each number of elements that are filled."""
        assert first is not None
        self._numbers = {self._here(first, scope): 0}
        self._state_of = {name: self._context.fresh(name) for name in ("part", "at", "steps")}
        part, at, steps = self._state_of.values()
        parts: dict[int, list[Stmt]] = {}
        while len(parts) < len(self._numbers):
            (name, filled), number = list(self._numbers.items())[len(parts)]
            if number > MAX_STATES:
                raise UnsupportedConstructError(f"parser of more than {MAX_STATES} states", f"parser state {name}")
            own, offset = Scope(), Offset(0, at)
            for stack, count in zip(self._program.stacks, filled, strict=True):
                if count is not None:
                    own.learn(self._context.name(FieldRef(stack, NEXT)), constant(count))
            step: list[Stmt] = [
                Assign(steps, f"{steps} + 1", frozenset((steps,))),
                If([(f"{steps} > {MAX_STEPS}", frozenset((steps,)), self._fail("ParserTimeout", offset))]),
            ]
            parts[number] = step + self._one(name, offset, own)
        loop = Loop(part, parts)
        scope.forget(written([loop]))
        return [Assign(part, "0"), Assign(at, "0"), Assign(steps, "0"), loop]

    def _here(self, name: str, scope: Scope) -> _Here:
        return name, tuple(self._filled(stack, scope) for stack in self._program.stacks)

    def _state(self, name: str | None, offset: Offset, scope: Scope) -> list[Stmt]:
        if name is None:
            end: list[Stmt] = [Assign("off", offset.text, offset.reads)]
            return end if self._numbers is None else [*end, Break()]
        # A loop that fills a stack ends: how far is known at every place, and a full stack is an error.
        here = self._here(name, scope)
        if self._numbers is not None:
            number = self._numbers.setdefault(here, len(self._numbers))
            part, at, _ = self._state_of.values()
            return [Assign(at, offset.text, offset.reads), Assign(part, str(number))]
        self._emitted += 1
        if here in self._way or self._emitted > MAX_WAYS:
            raise _CannotUnrollError
        self._way.append(here)
        result = self._one(name, offset, scope)
        self._way.pop()
        return result

    def _one(self, name: str, offset: Offset, scope: Scope) -> list[Stmt]:
        state = self._program.states[name]
        result: list[Stmt] = []
        for op in state.ops:
            compiler = Compiler(self._context, scope, f"parser state {name}")
            statements, offset = self._op(op, compiler, offset)
            result += statements
            if result and isinstance(result[-1], Break):
                break
        else:
            result += self._select(state, offset, scope)
        return result

    def _filled(self, stack: str, scope: Scope) -> int | None:
        known = scope.look_up(self._context.name(FieldRef(stack, NEXT)))
        return None if known is None else known.const

    def _fail(self, error: str, offset: Offset) -> list[Stmt]:
        code = self._program.errors.get(error, 1)
        return self._fail_with(str(code), frozenset(), offset)

    def _fail_with(self, code: str, reads: Names, offset: Offset) -> list[Stmt]:
        result: list[Stmt] = [Assign("off", offset.text, offset.reads)]
        if self._error is not None:
            result.append(Assign(self._context.name(self._error), code, reads))
        return [*result, Break()]

    def _need(self, size: int, offset: Offset, where: Offset) -> list[Stmt]:
        end = offset.plus(size)
        return [If([(f"n < {end.text}", SIZE | end.reads, self._fail("PacketTooShort", where))])]

    def _op(self, op: ParserOp, compiler: Compiler, offset: Offset) -> tuple[list[Stmt], Offset]:
        if op.kind == "extract":
            return self._extract(op, compiler, offset)
        if op.kind == "set":
            return self._set(op.args[0], op.args[1], compiler, offset), offset
        if op.kind == "verify":
            condition, error = compiler.truth(op.args[0]), compiler.value(op.args[1])
            body = self._fail_with(error.text, error.reads, offset)
            return [If([(f"not {condition.operand}", condition.reads, body)])], offset
        if op.kind == "advance":
            return self._advance(op.args[0], compiler, offset)
        if op.primitive is None:
            raise UnsupportedConstructError(f"parser operation {op.kind!r}", compiler.place)
        return emit_primitive(compiler, op.primitive), offset

    def _extract(self, op: ParserOp, compiler: Compiler, offset: Offset) -> tuple[list[Stmt], Offset]:
        target = op.args[0]
        if isinstance(target, HeaderRef):
            statements, offset = self._extract_header(target.name, op, compiler, offset)
            return statements, offset
        if not isinstance(target, NextElement):
            raise UnsupportedConstructError("extract into something that is computed", compiler.place)
        elements, filled = self._program.stacks[target.stack], self._filled(target.stack, compiler.scope)
        if filled is None:
            raise UnsupportedConstructError("stack that the parser shifts", compiler.place)
        if filled >= len(elements):
            return self._fail("StackOutOfBounds", offset), offset
        element = elements[filled]
        header = element if target.member is None else self._program.unions[element][target.member]
        statements, offset = self._extract_header(header, op, compiler, offset)
        name = self._context.name(FieldRef(target.stack, NEXT))
        compiler.scope.learn(name, constant(filled + 1))
        return [*statements, Assign(name, str(filled + 1))], offset

    def _extract_header(self, name: str, op: ParserOp, compiler: Compiler, offset: Offset) -> tuple[list[Stmt], Offset]:
        header = self._program.headers[name]
        size = header.width // 8
        valid = self._context.valid(name)
        if len(op.args) > 1:
            before, extract, end = self._extract_varbit(header, op.args[1], compiler, offset)
        elif header.varbit is not None:
            raise UnsupportedConstructError("extract of a varbit without a width", compiler.place)
        else:
            extract, end = Extract(self._context, header, offset).statement(), offset.plus(size)
            before = self._need(size, offset, offset)
        others = emit_only_member(self._context, name)
        compiler.scope.forget(written([extract, *others]))
        compiler.scope.learn(valid, Value("1", 1, 1, atom=True))
        return [*before, extract, Assign(valid, "1"), *others], end

    def _extract_varbit(
        self, header: HeaderDef, width: object, compiler: Compiler, offset: Offset
    ) -> tuple[list[Stmt], Multi, Offset]:
        context, varbit = self._context, header.varbit
        if varbit is None:
            raise UnsupportedConstructError(f"varbit extract of {header.name}", compiler.place)
        value = compiler.value(width)
        bits, end = context.fresh("bits"), context.fresh("at")
        this: Names = frozenset((bits,))
        begin = offset.text
        statements: list[Stmt] = [
            Assign(bits, fit(value, 32, False).text, value.reads),
            If([(f"{bits} & 7", this, self._fail("ParserInvalidArgument", offset))]),
            Assign(end, f"{offset.plus(header.width // 8).text} + ({bits} >> 3)", this | offset.reads),
            If([(f"n < {end}", SIZE | {end}, self._fail("PacketTooShort", offset))]),
            If([(f"{bits} > {varbit.most}", this, self._fail("HeaderTooShort", offset))]),
        ]
        names = {f.name: context.name(FieldRef(header.name, f.name)) for f in header.fields}

        def render(wanted: Names) -> list[str]:
            whole = context.fresh("h")
            context.limits[whole] = (0, (1 << header.width + varbit.most) - 1)
            lines = [f"{whole} = int.from_bytes(data[{begin}:{end}], 'big')"]
            shift, before = header.width, True
            for f in header.fields:
                shift -= f.width
                if f.most:
                    before = False
                    mark = f"1 << {bits}"
                    lines.append(f"{names[f.name]} = ({whole} >> {shift}) & ({mark}) - 1 | {mark}")
                elif names[f.name] in wanted:
                    by = f"({shift} + {bits})" if before else str(shift)
                    part = Value(f"({whole} >> {by}) & {(1 << f.width) - 1:#x}", 0, (1 << f.width) - 1)
                    lines.append(f"{names[f.name]} = {fit(part, f.width, f.signed).text}")
            return lines

        extract = Multi(frozenset(names.values()), DATA | this | {end} | offset.reads, render)
        return statements, extract, Offset(0, end)

    def _set(self, target: Argument, source: Argument, compiler: Compiler, offset: Offset) -> list[Stmt]:
        if isinstance(target, ElementField) and not isinstance(source, Lookahead):
            return emit_primitive(compiler, Primitive("assign", (target, source), compiler.place))
        if not isinstance(target, FieldRef):
            raise UnsupportedConstructError("target that is computed", compiler.place)
        if isinstance(source, Lookahead):
            before = self._need((source.width + 7) // 8, offset, offset)
            return before + compiler.assign(target, _peek(source, offset))
        return compiler.assign(target, compiler.value(source))

    def _advance(self, amount: object, compiler: Compiler, offset: Offset) -> tuple[list[Stmt], Offset]:
        bits = compiler.value(amount)
        if bits.const is not None:
            if bits.const % 8 or bits.const < 0:
                raise UnsupportedConstructError(f"advance by {bits.const} bits", compiler.place)
            return self._need(bits.const // 8, offset, offset), offset.plus(bits.const // 8)
        count, position = self._context.fresh("bits"), self._context.fresh("at")
        reads = frozenset((count,))
        statements: list[Stmt] = [
            Assign(count, bits.text, bits.reads),
            If([(f"{count} & 7", reads, self._fail("ParserInvalidArgument", offset))]),
            Assign(position, f"{offset.text} + ({count} >> 3)", reads | offset.reads),
            If([(f"n < {position}", SIZE | {position}, self._fail("PacketTooShort", offset))]),
        ]
        return statements, Offset(0, position)

    def _select(self, state: ParserState, offset: Offset, scope: Scope) -> list[Stmt]:
        before: list[Stmt] = []
        parts: list[Value] = []
        compiler = Compiler(self._context, scope, f"parser state {state.name}")
        for key in state.key:
            if isinstance(key, Lookahead):
                before += self._need((key.offset + key.width + 7) // 8, offset, offset)
                peek, name = _peek(key, offset), self._context.fresh("key")
                before.append(Assign(name, peek.text, peek.reads))
                parts.append(Value(name, peek.low, peek.high, frozenset((name,)), atom=True))
            else:
                parts.append(compiler.last(key) if isinstance(key, LastField) else compiler.field(key))
        branches: list[tuple[str, Names, list[Stmt]]] = []
        orelse: list[Stmt] | None = None
        for transition in state.transitions:
            if transition.value_set is not None:
                members = self._context.share(
                    f"members_{transition.value_set}", self._context.externs[f"value_set:{transition.value_set}"]
                )
                text = f"({', '.join(part.text for part in parts)},) in {members}"
                body = self._state(transition.next_state, offset, scope.copy())
                branches.append((text, frozenset().union(*(part.reads for part in parts)), body))
                continue
            tests = [_test(part, value, mask) for part, (value, mask) in zip(parts, transition.parts, strict=False)]
            text = " and ".join(test for test in tests if test)
            body = self._state(transition.next_state, offset, scope.copy())
            if not text:
                orelse = body
                break
            branches.append((text, frozenset().union(*(part.reads for part in parts)), body))
        if orelse is None:
            orelse = self._state(None, offset, scope)
        if not branches:
            return before + orelse
        return [*before, If(branches, orelse)]


def _test(part: Value, value: int, mask: int) -> str:
    if mask == 0:
        return ""
    if mask >= part.high and part.low >= 0:
        return f"{part.operand} == {value:#x}" if value > 9 else f"{part.operand} == {value}"
    return f"{part.operand} & {mask:#x} == {value:#x}"


def _peek(bits: Lookahead, offset: Offset) -> Value:
    first, last = bits.offset // 8, (bits.offset + bits.width + 7) // 8
    slack = -(bits.offset + bits.width) % 8
    begin, end = offset.plus(first), offset.plus(last)
    text = f"data[{begin.text}]" if last - first == 1 else f"int.from_bytes(data[{begin.text}:{end.text}], 'big')"
    high = (1 << bits.width) - 1
    if slack:
        text = f"{text} >> {slack}"
    if bits.width + slack < 8 * (last - first):
        text = f"{text} & {high:#x}"
    return Value(text, 0, high, DATA | offset.reads)


class Extract:
    """Extraction of one header: the fields that are needed, by one call of struct where more than a byte is."""

    def __init__(self, context: Context, header: HeaderDef, offset: Offset) -> None:
        self._context = context
        self._header = header
        self._offset = offset

    def statement(self) -> Multi:
        """The extraction as a statement that can set every field, the raw number and the bytes of the header."""
        context, name = self._context, self._header.name
        targets = {context.raw(name), context.wire(name)}
        targets |= {context.name(ref) for ref in context.fields_of(self._header)}
        return Multi(frozenset(targets), DATA | self._offset.reads, self._render)

    def _render(self, wanted: Names) -> list[str]:
        context, name, begin = self._context, self._header.name, self._offset
        end = begin.plus(self._header.width // 8)
        lines = []
        if context.wire(name) in wanted:
            lines.append(f"{context.wire(name)} = data[{begin.text}:{end.text}]")
        if context.raw(name) in wanted:
            lines.append(f"{context.raw(name)} = int.from_bytes(data[{begin.text}:{end.text}], 'big')")
        return lines + self._fields(wanted)

    def _fields(self, wanted: Names) -> list[str]:
        layout, targets, after = "!", [], []
        position = 0
        only: list[tuple[int, int]] = []
        for run in self._runs():
            size = sum(f[1] for f in run) // 8
            needed = [f for f in run if self._context.name(FieldRef(self._header.name, f[0])) in wanted]
            if needed:
                pieces, codes, lines = self._run(run, needed, size)
                layout += codes
                targets += pieces
                after += lines
                only.append((position, size))
            else:
                layout += f"{size}x"
            position += size
        if not targets:
            return []
        if len(only) == 1 and only[0][1] == 1 and "b" not in layout:
            return [f"{targets[0]} = data[{self._offset.plus(only[0][0]).text}]", *after]
        unpack = self._context.share(f"unpack_{self._header.name}", _unpacker(layout))
        left = ", ".join(targets) + ("," if len(targets) == 1 else "")
        return [f"{left} = {unpack}(data, {self._offset.text})", *after]

    def _runs(self) -> list[list[tuple[str, int, bool]]]:
        """The fields in groups that begin and end at byte boundaries."""
        runs: list[list[tuple[str, int, bool]]] = []
        run: list[tuple[str, int, bool]] = []
        for f in self._header.fields:
            run.append((f.name, f.width, f.signed))
            if sum(width for _, width, _ in run) % 8 == 0:
                runs.append(run)
                run = []
        return runs

    def _run(
        self, run: Sequence[tuple[str, int, bool]], needed: Sequence[tuple[str, int, bool]], size: int
    ) -> tuple[list[str], str, list[str]]:
        """(variables that struct sets, format codes, lines that make the fields out of them)."""
        context, header = self._context, self._header.name
        if len(run) == 1 and size in _CODES:
            name, _, signed = run[0]
            code = _CODES[size] if signed else _CODES[size].upper()
            return [context.name(FieldRef(header, name))], code, []
        pieces, codes, terms, left = [], "", [], size
        while left:
            piece = max(s for s in _CODES if s <= left)
            left -= piece
            pieces.append(context.fresh("b"))
            codes += _CODES[piece].upper()
            terms.append(f"{pieces[-1]} << {8 * left}" if left else pieces[-1])
        lines = []
        whole = pieces[0]
        if len(pieces) > 1:
            whole = context.fresh("b") if len(run) > 1 else context.name(FieldRef(header, run[0][0]))
            lines.append(f"{whole} = {' | '.join(terms)}")
        shift = 8 * size
        for name, width, signed in run:
            shift -= width
            if (name, width, signed) not in needed:
                continue
            text = f"{whole} >> {shift}" if shift else whole
            if shift + width < 8 * size:
                text = f"{text} & {(1 << width) - 1:#x}"
            variable = context.name(FieldRef(header, name))
            value = Value(text, 0, (1 << width) - 1, atom=text == whole)
            text = fit(value, width, signed).text
            if text != variable:
                lines.append(f"{variable} = {text}")
        return pieces, codes, lines


_UNPACKERS: dict[str, struct.Struct] = {}


def _unpacker(layout: str) -> object:
    known = _UNPACKERS.get(layout)
    if known is None:
        known = _UNPACKERS[layout] = struct.Struct(layout)
    return known.unpack_from
