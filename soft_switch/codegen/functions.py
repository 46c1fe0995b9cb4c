"""Compiles the functions of a program from parser, control blocks, checksums and deparser."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from soft_switch.codegen.checksums import emit_deparser, emit_verification
from soft_switch.codegen.compiler import Scope
from soft_switch.codegen.context import Context
from soft_switch.codegen.control import emit_control
from soft_switch.codegen.copies import Copies
from soft_switch.codegen.parser import emit_parser
from soft_switch.ir import expressions as ex
from soft_switch.ir import statements as st
from soft_switch.ir import variables as va
from soft_switch.ir.arithmetic import compare, constant, divide, fit, subtract
from soft_switch.ir.liveness import prune, written
from soft_switch.ir.program import EGRESS, INGRESS, PARSE_AGAIN, Function, Generated
from soft_switch.ir.python import print_python
from soft_switch.model.program import Const, Program
from soft_switch.ports import DROP_PORT

_GIVEN = {
    INGRESS: {"port", "data", "now_ns", "again"},
    PARSE_AGAIN: {"port", "data", "now_ns", "kept"},
    EGRESS: {variable.name for variable in (va.ENQUEUED, va.DEQUEUED, va.ENQ_DEPTH, va.DEQ_DEPTH)},
}
"""Parameters of the functions."""


def generate(program: Program, externs: dict[str, Any]) -> Generated:
    """Generate the code of a program. For ``externs`` see :class:`Context`; "new" makes an Ingressed."""
    context = Context(program, externs)
    copies = Copies(context)
    carried: list[str] = []
    while True:  # what egress reads may depend on what is carried
        body, live = _egress(context, copies, carried)
        found = sorted(live - _GIVEN[EGRESS])
        if found == carried:
            break
        carried = sorted({*carried, *found})
    functions = [_function(INGRESS, _ingress(context, copies, carried)), Function(EGRESS, (), body)]
    if copies.clones:
        functions.insert(0, _function(PARSE_AGAIN, _parse_again(context, copies, carried)))
    code = Generated(
        tuple(functions),
        context.types,
        context.objects,
        tuple(carried),
        len(copies.preserved),
        copies.returns,
        _position(context, "egress_rid", carried),
        _position(context, "priority", carried),
    )
    source, objects = print_python(code)
    return replace(code, source=source, objects=code.objects | objects)


def _function(name: str, statements: list[st.Stmt]) -> Function:
    body, live = prune(statements, frozenset())
    return Function(name, tuple(sorted(live - _GIVEN[name])), body)


def _position(context: Context, intrinsic: str, carried: list[str]) -> int | None:
    variable = context.intrinsic(intrinsic)
    return carried.index(variable.name) if variable is not None and variable.name in carried else None


def _set(context: Context, name: str, value: ex.Number) -> Iterable[st.Stmt]:
    """Set an intrinsic field if the program has it."""
    ref = context.program.intrinsic(name)
    if ref is not None:
        definition = context.program.field_def(ref)
        yield st.Assign(context.name(ref), fit(value, definition.width, definition.signed))


def _microseconds(time_ns: ex.Number) -> ex.Number:
    return divide(time_ns, constant(1000))


def _egress(context: Context, copies: Copies, carried: list[str]) -> tuple[list[st.Stmt], ex.Names]:
    program = context.program
    statements: list[st.Stmt] = [
        st.Assign(va.CLOCK.name, va.DEQUEUED),
        *_set(context, "egress_port", ex.EgressPort(0, DROP_PORT)),
        *_set(context, "egress_spec", constant(0)),
        *(() if copies.any else _set(context, "instance_type", constant(0))),
        *copies.start(),
        *_set(context, "packet_length", va.LENGTH_NOW),
        *_set(context, "enq_timestamp", _microseconds(va.ENQUEUED)),
        *_set(context, "deq_timedelta", subtract(_microseconds(va.DEQUEUED), _microseconds(va.ENQUEUED))),
        *_set(context, "egress_global_timestamp", _microseconds(va.DEQUEUED)),
        *_set(context, "enq_qdepth", va.ENQ_DEPTH),
        *_set(context, "deq_qdepth", va.DEQ_DEPTH),
    ]
    control = emit_control(context, program.egress, Scope())
    statements += control
    statements += copies.after_egress(carried)
    spec = context.intrinsic("egress_spec")
    if spec is not None and spec.name in written(control):
        statements.append(st.when(compare("==", spec, constant(DROP_PORT)), [st.Drop()]))
    made, frame = emit_deparser(context, Scope(), copies.limit)
    statements += made
    again = copies.after_deparser()
    if again:
        statements += [st.SetBytes(va.FRAME, frame), *again, st.Send(ex.BytesVar(va.FRAME))]
    else:
        statements.append(st.Send(frame))
    return prune(statements, frozenset())


def _start() -> list[st.Stmt]:
    return [
        st.Assign(va.LENGTH.name, ex.Length(va.LENGTH.low, va.LENGTH.high, "data")),
        st.Assign(va.LENGTH_NOW.name, va.LENGTH),
        st.Assign(va.PAYLOAD.name, constant(0)),
    ]


def _parse_again(context: Context, copies: Copies, carried: list[str]) -> list[st.Stmt]:
    """Make the state of an ingress clone from the packet as it came in."""
    return [
        *_start(),
        *_set(context, "ingress_port", va.PORT),
        *emit_parser(context, Scope()),
        st.ReturnState(copies.parsed_state(carried)),
    ]


def _ingress(context: Context, copies: Copies, carried: list[str]) -> list[st.Stmt]:
    statements = [*_start(), *copies.start(), *_set(context, "packet_length", va.LENGTH)]
    new = [
        *_set(context, "ingress_port", va.PORT),
        *_set(context, "ingress_global_timestamp", _microseconds(va.CLOCK)),
    ]
    if copies.returns:
        new = [st.when(ex.IsNew(), new, copies.take_along())]
    statements += new
    statements += emit_parser(context, Scope())
    statements += emit_verification(context, Scope())
    statements += emit_control(context, context.program.ingress, Scope())
    clone, rest = copies.at_ingress_end(carried)
    statements += [*clone, *_digests(context), *rest]
    spec = context.intrinsic("egress_spec")
    if spec is not None:
        statements.append(st.when(compare("==", spec, constant(DROP_PORT)), [st.Drop()]))
    make, kind = context.share_extern("new"), context.share_extern("kind", "Ingressed")
    port: ex.Number = spec or constant(0)
    priority: ex.Number = context.intrinsic("priority") or constant(0)
    return [*statements, st.PassOn(make, kind, port, priority, copies.normal_state(carried))]


def _digests(context: Context) -> list[st.Stmt]:
    """Send the last digest that ingress asked for, with the values at the end of ingress."""
    branches: list[st.Branch] = []
    for number, digest in sorted(context.program.digests.items()):
        values = tuple(
            constant(item.value) if isinstance(item, Const) else context.variable(item) for item in digest.inputs
        )
        send = st.Report("digest", context.share_extern("digest", "send_digest"), (digest.name,), values)
        branches.append(st.Branch(compare("==", va.DIGEST, constant(number)), [send]))
    return [st.If(branches)] if branches else []
