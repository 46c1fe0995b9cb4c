"""Compiles the parser: its states become nested conditionals, with offsets that are known wherever possible."""

from __future__ import annotations

from soft_switch.codegen.compiler import Compiler, Scope
from soft_switch.codegen.context import Context
from soft_switch.codegen.header_primitives import emit_only_member
from soft_switch.codegen.primitives import emit_primitive
from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir import arithmetic as ar
from soft_switch.ir import statements as st
from soft_switch.ir.expressions import Condition, Load, Member, Number, Var
from soft_switch.ir.liveness import written
from soft_switch.ir.variables import COUNTS, LENGTH, PAYLOAD
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
"""Paths through a parser that are written out one by one; a parser with more becomes a loop over its states."""
MAX_STATES = 4000
"""States of such a loop: one for each state of the program and number of elements that are filled."""
MAX_STEPS = 4096
"""States that a packet may pass in such a loop; bmv2 has no limit."""
_START = ar.constant(0)


def emit_parser(context: Context, scope: Scope) -> list[st.Stmt]:
    """Return the statements that parse the packet and set ``off`` to the beginning of the payload.

    standard_metadata.parser_error gets the error, if there is one; headers extracted before it stay valid.
    """
    return [st.Block(_Parser(context).emit_all(scope))]


_Here = tuple[str, tuple[int | None, ...]]
"""A state, and how many elements of each stack are filled in it."""


class _CannotUnrollError(Exception):
    """The parser has a loop that no stack ends, or too many paths."""


class _Parser:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._program = context.program
        self._emitted = 0
        self._numbers: dict[_Here, int] | None = None
        self._error = context.intrinsic("parser_error")
        self._way: list[_Here] = []

    def emit_all(self, scope: Scope) -> list[st.Stmt]:
        start: list[st.Stmt] = []
        if self._error is not None:
            start.append(st.Assign(self._error.name, ar.constant(self._program.errors.get("NoError", 0))))
        for stack in self._program.stacks:
            filled = self._context.name(FieldRef(stack, NEXT))
            start.append(st.Assign(filled, ar.constant(0)))
            scope.learn(filled, ar.constant(0))
        first = self._program.first_state
        try:
            return start + self._state(first, _START, scope.copy())
        except _CannotUnrollError:
            return start + self._loop(first, scope)

    def _loop(self, first: str | None, scope: Scope) -> list[st.Stmt]:
        """Compile all states as parts of a loop."""
        assert first is not None
        self._numbers = {self._here(first, scope): 0}
        part, at = self._context.fresh("part", (-1, MAX_STATES)), self._context.fresh("at", COUNTS)
        steps = self._context.fresh("steps", (0, 2 * MAX_STEPS))
        self._next = part.name, at.name
        parts: dict[int, list[st.Stmt]] = {}
        while len(parts) < len(self._numbers):
            (name, filled), number = list(self._numbers.items())[len(parts)]
            if number > MAX_STATES:
                raise UnsupportedConstructError(f"parser of more than {MAX_STATES} states", f"parser state {name}")
            own = Scope()
            for stack, count in zip(self._program.stacks, filled, strict=True):
                if count is not None:
                    own.learn(self._context.name(FieldRef(stack, NEXT)), ar.constant(count))
            step: list[st.Stmt] = [
                st.Assign(steps.name, ar.add(steps, ar.constant(1))),
                st.when(ar.compare(">", steps, ar.constant(MAX_STEPS)), self._fail("ParserTimeout", at)),
            ]
            parts[number] = step + self._one(name, at, own)
        loop = st.Loop(part.name, parts)
        scope.forget(written([loop]))
        return [*(st.Assign(variable.name, ar.constant(0)) for variable in (part, at, steps)), loop]

    def _here(self, name: str, scope: Scope) -> _Here:
        return name, tuple(self._filled(stack, scope) for stack in self._program.stacks)

    def _state(self, name: str | None, offset: Number, scope: Scope) -> list[st.Stmt]:
        if name is None:
            end: list[st.Stmt] = [st.Assign(PAYLOAD.name, offset)]
            return end if self._numbers is None else [*end, st.Break()]
        # A loop that fills a stack ends: the number of filled elements is known, and a full stack is an error.
        here = self._here(name, scope)
        if self._numbers is not None:
            number = self._numbers.setdefault(here, len(self._numbers))
            part, at = self._next
            return [st.Assign(at, offset), st.Assign(part, ar.constant(number))]
        self._emitted += 1
        if here in self._way or self._emitted > MAX_WAYS:
            raise _CannotUnrollError
        self._way.append(here)
        result = self._one(name, offset, scope)
        self._way.pop()
        return result

    def _one(self, name: str, offset: Number, scope: Scope) -> list[st.Stmt]:
        state = self._program.states[name]
        result: list[st.Stmt] = []
        for op in state.ops:
            compiler = Compiler(self._context, scope, f"parser state {name}")
            statements, offset = self._op(op, compiler, offset)
            result += statements
            if result and isinstance(result[-1], st.Break):
                break
        else:
            result += self._select(state, offset, scope)
        return result

    def _filled(self, stack: str, scope: Scope) -> int | None:
        known = scope.look_up(self._context.name(FieldRef(stack, NEXT)))
        return None if known is None else known.const

    def _fail(self, error: str, offset: Number) -> list[st.Stmt]:
        return self._fail_with(ar.constant(self._program.errors.get(error, 1)), offset)

    def _fail_with(self, code: Number, offset: Number) -> list[st.Stmt]:
        result: list[st.Stmt] = [st.Assign(PAYLOAD.name, offset)]
        if self._error is not None:
            result.append(st.Assign(self._error.name, code))
        return [*result, st.Break()]

    def _need(self, end: Number, where: Number) -> st.Stmt:
        """Return the statement that reports an error at ``where`` if the packet ends before ``end``."""
        return st.when(ar.compare("<", LENGTH, end), self._fail("PacketTooShort", where))

    def _op(self, op: ParserOp, compiler: Compiler, offset: Number) -> tuple[list[st.Stmt], Number]:
        if op.kind == "extract":
            return self._extract(op, compiler, offset)
        if op.kind == "set":
            return self._set(op.args[0], op.args[1], compiler, offset), offset
        if op.kind == "verify":
            condition, error = compiler.truth(op.args[0]), compiler.value(op.args[1])
            return [st.when(ar.negation(condition), self._fail_with(error, offset))], offset
        if op.kind == "advance":
            return self._advance(op.args[0], compiler, offset)
        if op.primitive is None:
            raise UnsupportedConstructError(f"parser operation {op.kind!r}", compiler.place)
        return emit_primitive(compiler, op.primitive), offset

    def _extract(self, op: ParserOp, compiler: Compiler, offset: Number) -> tuple[list[st.Stmt], Number]:
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
        compiler.scope.learn(name, ar.constant(filled + 1))
        return [*statements, st.Assign(name, ar.constant(filled + 1))], offset

    def _extract_header(
        self, name: str, op: ParserOp, compiler: Compiler, offset: Number
    ) -> tuple[list[st.Stmt], Number]:
        header = self._program.headers[name]
        valid = self._context.valid(name).name
        extract: list[st.Stmt]
        if len(op.args) > 1:
            before, extract, end = self._extract_varbit(header, op.args[1], compiler, offset)
        elif header.varbit is not None:
            raise UnsupportedConstructError("extract of a varbit without a width", compiler.place)
        else:
            end = ar.add(offset, ar.constant(header.width // 8))
            before, extract = [self._need(end, offset)], self._extract_fixed(header, offset)
        others = emit_only_member(self._context, name)
        compiler.scope.forget(written([*extract, *others]))
        compiler.scope.learn(valid, ar.constant(1))
        return [*before, *extract, st.Assign(valid, ar.constant(1)), *others], end

    def _extract_fixed(self, header: HeaderDef, offset: Number) -> list[st.Stmt]:
        """Set the fields of a header, its bytes, and the header as one number."""
        context, size = self._context, header.width // 8
        fields = tuple(
            st.Extracted(context.name(FieldRef(header.name, f.name)), f.width, f.signed) for f in header.fields
        )
        return [
            st.SetBytes(context.wire(header.name), ar.octets(offset, size)),
            st.Assign(context.raw(header.name).name, ar.load(offset, size)),
            st.Extract(offset, fields, frozenset(one.variable for one in fields)),
        ]

    def _extract_varbit(
        self, header: HeaderDef, width: object, compiler: Compiler, offset: Number
    ) -> tuple[list[st.Stmt], list[st.Stmt], Number]:
        """Return (checks, what sets the fields, where the header ends)."""
        context, varbit = self._context, header.varbit
        if varbit is None:
            raise UnsupportedConstructError(f"varbit extract of {header.name}", compiler.place)
        count, given = context.hold("bits", ar.fit(compiler.value(width), 32, False))
        # The checks below ensure this.
        bits = Var(given.low, min(given.high, varbit.most), given.name)
        add_up, end = context.hold(
            "at", ar.add(ar.add(offset, ar.constant(header.width // 8)), ar.shift_right(given, ar.constant(3)))
        )
        checks: list[st.Stmt] = [
            count,
            st.when(ar.not_zero(ar.masked(given, 7)), self._fail("ParserInvalidArgument", offset)),
            add_up,
            self._need(end, offset),
            st.when(ar.compare(">", given, ar.constant(varbit.most)), self._fail("HeaderTooShort", offset)),
        ]
        whole = context.fresh("h", (0, (1 << header.width + varbit.most) - 1))
        extract: list[st.Stmt] = [st.Assign(whole.name, Load(whole.low, whole.high, offset, end, None))]
        shift, before = header.width, True
        for f in header.fields:
            shift -= f.width
            name = context.name(FieldRef(header.name, f.name))
            if f.most:
                before = False
                mark = ar.placed(ar.constant(1), bits)
                value = ar.bitwise_and(ar.shift_right(whole, ar.constant(shift)), ar.subtract(mark, ar.constant(1)))
                extract.append(st.Assign(name, ar.bitwise_or(value, mark)))
            else:
                by = ar.add(bits, ar.constant(shift)) if before else ar.constant(shift)
                value = ar.masked(ar.shift_right(whole, by), (1 << f.width) - 1)
                extract.append(st.Assign(name, ar.fit(value, f.width, f.signed)))
        return checks, extract, end

    def _set(self, target: Argument, source: Argument, compiler: Compiler, offset: Number) -> list[st.Stmt]:
        if isinstance(target, ElementField) and not isinstance(source, Lookahead):
            return emit_primitive(compiler, Primitive("assign", (target, source), compiler.place))
        if not isinstance(target, FieldRef):
            raise UnsupportedConstructError("target that is computed", compiler.place)
        if isinstance(source, Lookahead):
            end = ar.add(offset, ar.constant((source.width + 7) // 8))
            return [self._need(end, offset), compiler.assign(target, _peek(source, offset))]
        return [compiler.assign(target, compiler.value(source))]

    def _advance(self, amount: object, compiler: Compiler, offset: Number) -> tuple[list[st.Stmt], Number]:
        bits = compiler.value(amount)
        if bits.const is not None:
            if bits.const % 8 or bits.const < 0:
                raise UnsupportedConstructError(f"advance by {bits.const} bits", compiler.place)
            end = ar.add(offset, ar.constant(bits.const // 8))
            return [self._need(end, offset)], end
        count, bits = self._context.hold("bits", bits)
        add_up, end = self._context.hold("at", ar.add(offset, ar.shift_right(bits, ar.constant(3))))
        statements: list[st.Stmt] = [
            count,
            st.when(ar.not_zero(ar.masked(bits, 7)), self._fail("ParserInvalidArgument", offset)),
            add_up,
            self._need(end, offset),
        ]
        return statements, end

    def _select(self, state: ParserState, offset: Number, scope: Scope) -> list[st.Stmt]:
        before: list[st.Stmt] = []
        parts: list[Number] = []
        compiler = Compiler(self._context, scope, f"parser state {state.name}")
        for key in state.key:
            if isinstance(key, Lookahead):
                before.append(self._need(ar.add(offset, ar.constant((key.offset + key.width + 7) // 8)), offset))
                held, part = self._context.hold("key", _peek(key, offset))
                before.append(held)
                parts.append(part)
            else:
                parts.append(compiler.last(key) if isinstance(key, LastField) else compiler.field(key))
        branches: list[st.Branch] = []
        orelse: list[st.Stmt] | None = None
        for transition in state.transitions:
            if transition.value_set is not None:
                members = self._context.share(
                    f"members_{transition.value_set}", self._context.externs[f"value_set:{transition.value_set}"]
                )
                body = self._state(transition.next_state, offset, scope.copy())
                branches.append(st.Branch(Member(members, tuple(parts)), body))
                continue
            tests = [_test(part, value, mask) for part, (value, mask) in zip(parts, transition.parts, strict=False)]
            condition = ar.both(*tests)
            body = self._state(transition.next_state, offset, scope.copy())
            if condition.known:
                orelse = body
                break
            branches.append(st.Branch(condition, body))
        if orelse is None:
            orelse = self._state(None, offset, scope)
        if not branches:
            return before + orelse
        return [*before, st.If(branches, orelse)]


def _test(part: Number, value: int, mask: int) -> Condition:
    if mask >= part.high and part.low >= 0:
        return ar.compare("==", part, ar.constant(value))
    return ar.compare("==", ar.masked(part, mask), ar.constant(value))


def _peek(bits: Lookahead, offset: Number) -> Number:
    first, last = bits.offset // 8, (bits.offset + bits.width + 7) // 8
    number = ar.load(ar.add(offset, ar.constant(first)), last - first)
    return ar.masked(ar.shift_right(number, ar.constant(-(bits.offset + bits.width) % 8)), (1 << bits.width) - 1)
