"""Compiles primitives."""

from __future__ import annotations

from soft_switch.codegen.arguments import Handler, field_at
from soft_switch.codegen.compiler import Compiler
from soft_switch.codegen.context import header_name
from soft_switch.codegen.extern_primitives import EXTERN_PRIMITIVES
from soft_switch.codegen.header_primitives import HEADER_PRIMITIVES
from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir.arithmetic import constant
from soft_switch.ir.expressions import Compare
from soft_switch.ir.liveness import written
from soft_switch.ir.statements import Assign, Branch, If, Stmt
from soft_switch.model.program import Argument, ElementField, ElementRef, FieldRef, HeaderRef, Primitive
from soft_switch.ports import DROP_PORT


def emit_primitive(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    """Return the statements of one primitive."""
    handler = _HANDLERS.get(primitive.op)
    if handler is None:
        raise UnsupportedConstructError(f"primitive {primitive.op!r}", primitive.place)
    for position, argument in enumerate(primitive.args):
        if isinstance(argument, ElementRef) or (position == 0 and isinstance(argument, ElementField)):
            return _at_element(compiler, primitive, position)
    try:
        return handler(compiler, primitive)
    except IndexError as error:
        raise UnsupportedConstructError(
            f"primitive {primitive.op!r} with {len(primitive.args)} arguments", primitive.place
        ) from error


def _at_element(compiler: Compiler, primitive: Primitive, position: int) -> list[Stmt]:
    """Compile the primitive for each element of a stack that a computed index may select."""
    argument = primitive.args[position]
    element = argument.element if isinstance(argument, ElementField) else argument
    assert isinstance(element, ElementRef)
    headers = compiler.context.program.stacks[element.stack]
    index = compiler.value(element.index)
    before: list[Stmt] = []
    if index.const is None:
        held, index = compiler.context.hold("i", index)
        before.append(held)
    branches = []
    for number, header in enumerate(headers):
        target: Argument = FieldRef(header, argument.name) if isinstance(argument, ElementField) else HeaderRef(header)
        args = (*primitive.args[:position], target, *primitive.args[position + 1 :])
        one = Compiler(compiler.context, compiler.scope.copy(), compiler.place, compiler.params)
        body = emit_primitive(one, Primitive(primitive.op, args, primitive.place))
        if index.const == number:
            compiler.scope.forget(written(body))
            return body
        branches.append(Branch(Compare("==", index, constant(number)), body))
    if index.const is not None:
        return []
    choice = If(branches)
    compiler.scope.forget(written([choice]))
    return [*before, choice]


def _assign(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    return [compiler.assign(field_at(primitive, 0), compiler.value(primitive.args[1]))]


def _mark_to_drop(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    program = compiler.context.program
    header = header_name(primitive.args[0], primitive.place) if primitive.args else "standard_metadata"
    result: list[Stmt] = [compiler.assign(FieldRef(header, "egress_spec"), constant(DROP_PORT))]
    if any(f.name == "mcast_grp" for f in program.headers[header].fields):
        result.append(compiler.assign(FieldRef(header, "mcast_grp"), constant(0)))
    return result


def _assign_varbit(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    name, value = compiler.context.name(field_at(primitive, 0)), compiler.field(field_at(primitive, 1))
    compiler.scope.learn(name, value)
    return [Assign(name, value)]


def _nothing(_: Compiler, __: Primitive) -> list[Stmt]:
    return []


_HANDLERS: dict[str, Handler] = {
    "assign": _assign,
    "mark_to_drop": _mark_to_drop,
    "drop": _mark_to_drop,
    "assign_VL": _assign_varbit,
    "no_op": _nothing,
    **HEADER_PRIMITIVES,
    **EXTERN_PRIMITIVES,
}
