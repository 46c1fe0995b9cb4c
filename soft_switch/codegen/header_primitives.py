"""Primitives on whole headers, stacks and unions."""

from __future__ import annotations

from soft_switch.codegen.arguments import Handler
from soft_switch.codegen.compiler import Compiler
from soft_switch.codegen.context import Context, header_name
from soft_switch.codegen.copies import PACKET_LENGTH
from soft_switch.codegen.ir import Assign, If, Stmt, written
from soft_switch.codegen.values import constant, varbit_width
from soft_switch.errors import UnsupportedConstructError
from soft_switch.model.program import NEXT, Const, FieldRef, HeaderDef, Primitive, StackRef, UnionRef


def _change_length(context: Context, header: HeaderDef, sign: str) -> Assign:
    text, reads = f"{PACKET_LENGTH} {sign} {header.width // 8}", frozenset((PACKET_LENGTH,))
    if header.varbit is not None:
        name = context.name(FieldRef(header.name, header.varbit.name))
        text, reads = f"{text} {sign} {varbit_width(name)} // 8", reads | {name}
    return Assign(PACKET_LENGTH, text, reads)


def _zeroed(context: Context, header: str) -> list[Stmt]:
    fields = context.fields_of(context.program.headers[header])
    return [Assign(context.raw(header), "0"), *(Assign(context.name(ref), "0") for ref in fields)]


def emit_only_member(context: Context, header: str) -> list[Stmt]:
    """Once a member of a header union is valid, no other is."""
    result: list[Stmt] = []
    for other in context.program.siblings(header):
        valid = context.valid(other)
        result.append(If([(valid, frozenset((valid,)), [Assign(valid, "0"), *_zeroed(context, other)])]))
    return result


def _add_header(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    context = compiler.context
    header = header_name(primitive.args[0], primitive.place)
    valid = context.valid(header)
    length = _change_length(context, context.program.headers[header], "+")
    body = [Assign(valid, "1"), *_zeroed(context, header), length, *emit_only_member(context, header)]
    result: list[Stmt] = [If([(f"not {valid}", frozenset((valid,)), body)])]
    compiler.scope.forget(written(result))
    compiler.scope.learn(valid, constant(1))
    return result


def _remove_header(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    context = compiler.context
    header = header_name(primitive.args[0], primitive.place)
    valid = context.valid(header)
    length = _change_length(context, context.program.headers[header], "-")
    body = [Assign(valid, "0"), length, *_zeroed(context, header)]
    result: list[Stmt] = [If([(valid, frozenset((valid,)), body)])]
    compiler.scope.forget(written(result))
    compiler.scope.learn(valid, constant(0))
    return result


def _assign_header(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, source = (header_name(a, primitive.place) for a in primitive.args[:2])
    result = _copy_header(compiler.context, target, source, primitive.place)
    others = emit_only_member(compiler.context, target)
    if others:
        valid = compiler.context.valid(target)
        result.append(If([(valid, frozenset((valid,)), others)]))
    compiler.scope.forget(written(result))
    return result


def _copy_header(context: Context, target: str, source: str, place: str) -> list[Stmt]:
    one, other = context.program.headers[target], context.program.headers[source]
    if [f.width for f in one.fields] != [f.width for f in other.fields]:
        raise UnsupportedConstructError("assignment between headers of different types", place)
    pairs = [(context.valid(target), context.valid(source)), (context.raw(target), context.raw(source))]
    pairs += [
        (context.name(a), context.name(b))
        for a, b in zip(context.fields_of(one), context.fields_of(other), strict=True)
    ]
    return [Assign(a, b, frozenset((b,))) for a, b in pairs]


def _assign_all(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    """Assignment of a stack or a union: header by header."""
    program, names = compiler.context.program, []
    for argument in primitive.args[:2]:
        if not isinstance(argument, StackRef | UnionRef):
            raise UnsupportedConstructError(f"primitive {primitive.op!r} on {argument}", primitive.place)
        names.append(argument.name)
    result: list[Stmt] = []
    for target, source in zip(program.headers_of(names[0]), program.headers_of(names[1]), strict=True):
        result += _copy_header(compiler.context, target, source, primitive.place)
    if names[0] in program.stacks:
        target, source = (compiler.context.name(FieldRef(name, NEXT)) for name in names)
        result.append(Assign(target, source, frozenset((source,))))
    compiler.scope.forget(written(result))
    return result


def _shift_stack(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    """push_front and pop_front: elements move by a constant, and those that come in are not valid."""
    context = compiler.context
    stack, count = primitive.args[:2]
    if not isinstance(stack, StackRef) or not isinstance(count, Const):
        raise UnsupportedConstructError(f"primitive {primitive.op!r} on {stack}", primitive.place)
    elements = context.program.stacks[stack.name]
    groups = [context.program.headers_of(e) if e in context.program.unions else [e] for e in elements]
    size, step = len(groups), min(count.value, len(groups))
    filled = context.name(FieldRef(stack.name, NEXT))
    result: list[Stmt] = []
    if primitive.op == "push":
        moves, empty = [(i, i - step) for i in range(size - 1, step - 1, -1)], range(step)
        text = f"min({filled} + {step}, {size})"
    else:
        moves, empty = [(i, i + step) for i in range(size - step)], range(size - step, size)
        text = f"max({filled} - {step}, 0)"
    for to, at in moves:
        for target, source in zip(groups[to], groups[at], strict=True):
            result += _copy_header(context, target, source, primitive.place)
    for index in empty:
        for header in groups[index]:
            result += [Assign(context.valid(header), "0"), *_zeroed(context, header)]
    result.append(Assign(filled, text, frozenset((filled,))))
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
"""Those on whole headers, by their name in the JSON."""
