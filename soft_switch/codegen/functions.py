"""The two functions of a program, put together from parser, control blocks, checksums and deparser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soft_switch.codegen.checksums import emit_deparser, emit_verification
from soft_switch.codegen.compiler import Scope
from soft_switch.codegen.context import Context
from soft_switch.codegen.control import emit_control
from soft_switch.codegen.copies import PACKET_LENGTH, TRUNCATE, Copies, stable
from soft_switch.codegen.extern_primitives import DIGEST
from soft_switch.codegen.ir import Assign, Effect, If, Names, Return, Stmt, prune, render, written
from soft_switch.codegen.parser import emit_parser
from soft_switch.codegen.values import Value, fit
from soft_switch.model.program import Const, Program
from soft_switch.ports import DROP_PORT

_MICROSECONDS = "// 1000"


@dataclass(frozen=True, slots=True)
class Generated:
    """Source of the module with ``ingress`` and ``egress``, and the globals that it needs.

    Attributes:
        source: the functions.
        objects: the globals.
        rid_at: where egress_rid is in the state of a packet between the two; None where nobody reads it.
        priority_at: where priority is, likewise.
        carried: the variables whose values are the state, in order.
        preserved: how many fields a packet that comes in again may take along.
        limits: the least and the greatest value of variables.
    """

    source: str
    objects: dict[str, Any]
    rid_at: int | None
    priority_at: int | None
    carried: tuple[str, ...]
    preserved: int
    limits: dict[str, tuple[int, int]]


def generate(program: Program, externs: dict[str, Any]) -> Generated:
    """Generates the code of a program. ``externs``: see :class:`Context`; "new" makes the packet between the blocks."""
    context = Context(program, externs)
    copies = Copies(context)
    given = {"packet", "enqueued_ns", "dequeued_ns", "enq_qdepth", "deq_qdepth"}
    carried = stable(lambda names: _egress(context, copies, names)[1] - given)
    egress, _ = _egress(context, copies, carried)
    unpack = []
    if carried:
        unpack = [f"    {', '.join(carried)}{',' if len(carried) == 1 else ''} = packet[3]"]
    ingress = _ingress(context, copies, carried)
    source = "\n".join(
        [
            f"def ingress(port, data, now_ns{', again=None' if copies.returns else ''}):",
            *ingress,
            *(_parse_again(context, copies, carried) if copies.clones else ()),
            "",
            "",
            "def egress(packet, enqueued_ns, dequeued_ns, enq_qdepth, deq_qdepth):",
            *unpack,
            *render(egress),
            "",
        ]
    )
    return Generated(
        source,
        context.objects,
        _position(context, "egress_rid", carried),
        _position(context, "priority", carried),
        tuple(carried),
        len(copies.preserved),
        context.limits,
    )


def _position(context: Context, intrinsic: str, carried: list[str]) -> int | None:
    ref = context.program.intrinsic(intrinsic)
    name = None if ref is None else context.name(ref)
    return carried.index(name) if name in carried else None


def _set(context: Context, name: str, text: str, reads: Names, high: int) -> list[Stmt]:
    """Sets an intrinsic field if the program has it; ``high`` bounds the text's value."""
    ref = context.program.intrinsic(name)
    if ref is None:
        return []
    definition = context.program.field_def(ref)
    value = fit(Value(text, 0, high, reads), definition.width, definition.signed)
    return [Assign(context.name(ref), value.text, value.reads)]


def _egress(context: Context, copies: Copies, carried: list[str]) -> tuple[list[Stmt], Names]:
    program = context.program
    forever = 1 << 80
    dequeued, enqueued = frozenset(("dequeued_ns",)), frozenset(("enqueued_ns",))
    waited = f"dequeued_ns {_MICROSECONDS} - enqueued_ns {_MICROSECONDS}"
    packet: Names = frozenset(("packet",))
    statements: list[Stmt] = [
        Assign("now_ns", "dequeued_ns", dequeued),
        *_set(context, "egress_port", "packet[0]", packet, DROP_PORT),
        *_set(context, "egress_spec", "0", frozenset(), 0),
        *(() if copies.any else _set(context, "instance_type", "0", frozenset(), 0)),
        *copies.start(),
        *_set(context, "packet_length", PACKET_LENGTH, frozenset((PACKET_LENGTH,)), (1 << 32) - 1),
        *_set(context, "enq_timestamp", f"enqueued_ns {_MICROSECONDS}", enqueued, forever),
        *_set(context, "deq_timedelta", waited, dequeued | enqueued, forever),
        *_set(context, "egress_global_timestamp", f"dequeued_ns {_MICROSECONDS}", dequeued, forever),
        *_set(context, "enq_qdepth", "enq_qdepth", frozenset(("enq_qdepth",)), forever),
        *_set(context, "deq_qdepth", "deq_qdepth", frozenset(("deq_qdepth",)), forever),
    ]
    scope = Scope()
    control = emit_control(context, program.egress, scope)
    statements += control
    statements += copies.after_egress(carried)
    spec = program.intrinsic("egress_spec")
    if spec is not None and context.name(spec) in written(control):
        name = context.name(spec)
        statements.append(If([(f"{name} == {DROP_PORT}", frozenset((name,)), [Return("None")])]))
    made, text, reads = emit_deparser(context, Scope())
    statements += made
    if "truncate" in copies.wishes:
        text, reads = f"({text})[: {TRUNCATE} - 1 if {TRUNCATE} else None]", reads | {TRUNCATE}
    again = copies.after_deparser("frame")
    if again:
        statements += [Assign("frame", text, reads), *again]
        text, reads = "frame", frozenset(("frame",))
    statements.append(Return(text, reads))
    return prune(statements, frozenset())


def _parse_again(context: Context, copies: Copies, carried: list[str]) -> list[str]:
    """The function that makes the state of an ingress clone out of the packet as it came in."""
    state, reads = copies.parsed_state(carried)
    statements: list[Stmt] = [
        Effect(("n = len(data)",), frozenset(("data",)), frozenset(("n",))),
        Assign(PACKET_LENGTH, "n", frozenset(("n",))),
        Assign("off", "0"),
        *_set(context, "ingress_port", "port", frozenset(("port",)), DROP_PORT),
        *emit_parser(context, Scope()),
        Return(state, reads),
    ]
    kept, live = prune(statements, frozenset())
    zero = sorted(live - {"port", "data", "now_ns", "kept"})
    start = [f"    {' = '.join(zero)} = 0"] if zero else []
    return ["", "", "def parse_again(port, data, now_ns, kept):", *start, *render(kept)]


def _ingress(context: Context, copies: Copies, carried: list[str]) -> list[str]:
    program = context.program
    now: Names = frozenset(("now_ns",))
    statements: list[Stmt] = [
        Effect(("n = len(data)",), frozenset(("data",)), frozenset(("n",))),
        Assign(PACKET_LENGTH, "n", frozenset(("n",))),
        Assign("off", "0"),
        *copies.start(),
        *_set(context, "packet_length", "n", frozenset(("n",)), (1 << 32) - 1),
    ]
    new = [
        *_set(context, "ingress_port", "port", frozenset(("port",)), DROP_PORT),
        *_set(context, "ingress_global_timestamp", f"now_ns {_MICROSECONDS}", now, 1 << 80),
    ]
    if copies.returns:
        new = [If([("again is None", frozenset(("again",)), new)], copies.take_along())]
    statements += new
    statements += emit_parser(context, Scope())
    statements += emit_verification(context, Scope())
    statements += emit_control(context, program.ingress, Scope())
    clone, rest = copies.at_ingress_end(carried)
    statements += [*clone, *_digests(context), *rest]
    spec, priority = program.intrinsic("egress_spec"), program.intrinsic("priority")
    port = "0" if spec is None else context.name(spec)
    level = "0" if priority is None else context.name(priority)
    if spec is not None:
        statements.append(If([(f"{port} == {DROP_PORT}", frozenset((port,)), [Return("None")])]))
    state, state_reads = copies.normal_state(carried)
    make, kind = context.share("new", context.externs["new"]), context.share("Ingressed", context.externs["kind"])
    reads = state_reads | frozenset(name for name in (port, level) if name != "0") | {"n"}
    statements.append(Return(f"{make}({kind}, ({port}, {level}, n, {state}))", reads))
    kept, live = prune(statements, frozenset())
    zero = sorted(live - {"port", "data", "now_ns", "again"})
    start = [f"    {' = '.join(zero)} = 0"] if zero else []
    return start + render(kept)


def _digests(context: Context) -> list[Stmt]:
    """At the end of ingress the digest that was asked for last is sent, with the values that hold then."""
    branches: list[tuple[str, Names, list[Stmt]]] = []
    this: Names = frozenset((DIGEST,))
    for number, digest in sorted(context.program.digests.items()):
        texts, reads = [], set()
        for item in digest.inputs:
            if isinstance(item, Const):
                texts.append(str(item.value))
            else:
                texts.append(context.name(item))
                reads.add(context.name(item))
        values = ", ".join(texts) + ("," if len(texts) == 1 else "")
        send = context.share("send_digest", context.externs["digest"])
        effect = Effect((f"{send}({digest.name!r}, ({values}))",), frozenset(reads))
        branches.append((f"{DIGEST} == {number}", this, [effect]))
    if not branches:
        return []
    return [If([(DIGEST, this, [If(branches)])])]
