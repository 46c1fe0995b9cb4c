"""Primitives on whole headers, stacks and unions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from soft_switch.codegen.arguments import Handler
from soft_switch.codegen.compiler import Compiler
from soft_switch.codegen.context import Context, header_name
from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir import arithmetic as ar
from soft_switch.ir.expressions import Number
from soft_switch.ir.liveness import written
from soft_switch.ir.statements import Assign, Stmt, when
from soft_switch.ir.variables import LENGTH_NOW
from soft_switch.model.program import NEXT, Const, FieldRef, HeaderDef, Primitive, StackRef, UnionRef


def varbit_width(value: Number) -> Number:
    """Return the bits of a field of variable width, whose variable holds its value after a one, or 0."""
    bits = ar.subtract(ar.bit_length(ar.choice(ar.not_zero(value), value, ar.constant(1))), ar.constant(1))
    return replace(bits, low=0)


def _change_length(context: Context, header: HeaderDef, operation: Callable[[Number, Number], Number]) -> Assign:
    length = operation(LENGTH_NOW, ar.constant(header.width // 8))
    if header.varbit is not None:
        bits = varbit_width(context.variable(FieldRef(header.name, header.varbit.name)))
        length = operation(length, ar.divide(bits, ar.constant(8)))
    return Assign(LENGTH_NOW.name, length)


def _zeroed(context: Context, header: str) -> list[Stmt]:
    fields = context.fields_of(context.program.headers[header])
    names = [context.raw(header).name, *(context.name(ref) for ref in fields)]
    return [Assign(name, ar.constant(0)) for name in names]


def emit_only_member(context: Context, header: str) -> list[Stmt]:
    """Make the other members of a header's union invalid."""
    result: list[Stmt] = []
    for other in context.program.siblings(header):
        valid = context.valid(other)
        result.append(when(ar.not_zero(valid), [Assign(valid.name, ar.constant(0)), *_zeroed(context, other)]))
    return result


def _add_header(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    context = compiler.context
    header = header_name(primitive.args[0], primitive.place)
    valid = context.valid(header)
    length = _change_length(context, context.program.headers[header], ar.add)
    body = [Assign(valid.name, ar.constant(1)), *_zeroed(context, header), length, *emit_only_member(context, header)]
    result: list[Stmt] = [when(ar.negation(ar.not_zero(valid)), body)]
    compiler.scope.forget(written(result))
    compiler.scope.learn(valid.name, ar.constant(1))
    return result


def _remove_header(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    context = compiler.context
    header = header_name(primitive.args[0], primitive.place)
    valid = context.valid(header)
    length = _change_length(context, context.program.headers[header], ar.subtract)
    body = [Assign(valid.name, ar.constant(0)), length, *_zeroed(context, header)]
    result: list[Stmt] = [when(ar.not_zero(valid), body)]
    compiler.scope.forget(written(result))
    compiler.scope.learn(valid.name, ar.constant(0))
    return result


def _assign_header(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, source = (header_name(a, primitive.place) for a in primitive.args[:2])
    result = _copy_header(compiler.context, target, source, primitive.place)
    others = emit_only_member(compiler.context, target)
    if others:
        result.append(when(ar.not_zero(compiler.context.valid(target)), others))
    compiler.scope.forget(written(result))
    return result


def _copy_header(context: Context, target: str, source: str, place: str) -> list[Stmt]:
    one, other = context.program.headers[target], context.program.headers[source]
    if [f.width for f in one.fields] != [f.width for f in other.fields]:
        raise UnsupportedConstructError("assignment between headers of different types", place)
    pairs = [(context.valid(target), context.valid(source)), (context.raw(target), context.raw(source))]
    pairs += [
        (context.variable(a), context.variable(b))
        for a, b in zip(context.fields_of(one), context.fields_of(other), strict=True)
    ]
    return [Assign(a.name, b) for a, b in pairs]


def _assign_all(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    """Assign a stack or a union, header by header."""
    program, names = compiler.context.program, []
    for argument in primitive.args[:2]:
        if not isinstance(argument, StackRef | UnionRef):
            raise UnsupportedConstructError(f"primitive {primitive.op!r} on {argument}", primitive.place)
        names.append(argument.name)
    result: list[Stmt] = []
    for target, source in zip(program.headers_of(names[0]), program.headers_of(names[1]), strict=True):
        result += _copy_header(compiler.context, target, source, primitive.place)
    if names[0] in program.stacks:
        to, at = (compiler.context.variable(FieldRef(name, NEXT)) for name in names)
        result.append(Assign(to.name, at))
    compiler.scope.forget(written(result))
    return result


def _shift_stack(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    """Compile push_front or pop_front: elements move by a constant, and the new ones are invalid."""
    context = compiler.context
    stack, count = primitive.args[:2]
    if not isinstance(stack, StackRef) or not isinstance(count, Const):
        raise UnsupportedConstructError(f"primitive {primitive.op!r} on {stack}", primitive.place)
    elements = context.program.stacks[stack.name]
    groups = [context.program.headers_of(e) if e in context.program.unions else [e] for e in elements]
    size, step = len(groups), min(count.value, len(groups))
    filled = context.variable(FieldRef(stack.name, NEXT))
    result: list[Stmt] = []
    if primitive.op == "push":
        moves, empty = [(i, i - step) for i in range(size - 1, step - 1, -1)], range(step)
        left = ar.least(ar.add(filled, ar.constant(step)), ar.constant(size))
    else:
        moves, empty = [(i, i + step) for i in range(size - step)], range(size - step, size)
        left = ar.most(ar.subtract(filled, ar.constant(step)), ar.constant(0))
    for to, at in moves:
        for target, source in zip(groups[to], groups[at], strict=True):
            result += _copy_header(context, target, source, primitive.place)
    for index in empty:
        for header in groups[index]:
            result += [Assign(context.valid(header).name, ar.constant(0)), *_zeroed(context, header)]
    result.append(Assign(filled.name, left))
    compiler.scope.forget(written(result))
    return result


HEADER_PRIMITIVES: dict[str, Handler] = {
    "add_header": _add_header,
    "remove_header": _remove_header,
    "assign_header": _assign_header,
    "copy_header": _assign_header,
    "assign_header_stack": _assign_all,
    "assign_union": _assign_all,
    "assign_union_stack": _assign_all,
    "push": _shift_stack,
    "pop": _shift_stack,
}
"""Primitives on whole headers by their name in the JSON."""
