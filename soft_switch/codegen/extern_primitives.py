"""Primitives on v1model's externs: counters, registers, meters, hashes, digests, copies, messages."""

from __future__ import annotations

from soft_switch.codegen import operators
from soft_switch.codegen.arguments import Handler, field_at, object_at
from soft_switch.codegen.compiler import Compiler
from soft_switch.codegen.copies import CLONE, CLONE_LIST, RECIRCULATE, RESUBMIT, TRUNCATE, session_note
from soft_switch.codegen.hashing import hash_value
from soft_switch.codegen.ir import Assign, Effect, If, Stmt
from soft_switch.codegen.values import Value, fit, limits
from soft_switch.errors import UnsupportedConstructError
from soft_switch.model.program import Const, Primitive

DIGEST = "digest_list"
"""Variable with the id of the digest that ingress asked for last; 0 for none."""

LENGTH = frozenset(("n",))
"""The variable with the length of the packet as it came in, bytes."""
CLOCK = frozenset(("now_ns",))
"""The variable with the time of the block that runs."""


def _index(compiler: Compiler, primitive: Primitive, position: int, size: int) -> tuple[list[Stmt], Value, str | None]:
    """(what to do before, the index, the condition under which it is within ``size`` or None where it always is)."""
    value = compiler.value(primitive.args[position])
    before: list[Stmt] = []
    if not value.atom:
        name = compiler.context.fresh("i")
        before.append(Assign(name, value.text, value.reads))
        value = Value(name, value.low, value.high, frozenset((name,)), atom=True)
    if value.low >= 0 and value.high < size:
        return before, value, None
    if value.low < 0:
        return before, value, f"0 <= {value.text} < {size}"
    return before, value, f"{value.text} < {size}"


def _guarded(condition: str | None, reads: frozenset[str], body: list[Stmt]) -> list[Stmt]:
    return body if condition is None else [If([(condition, reads, body)])]


def _count(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    name = object_at(primitive, 0)
    counter = compiler.context.externs[f"counter:{name}"]
    before, index, condition = _index(compiler, primitive, 1, counter.size)
    packets = compiler.context.share(f"{name}_packets", counter.packets)
    octets = compiler.context.share(f"{name}_bytes", counter.bytes)
    effect = Effect((f"{packets}[{index.text}] += 1", f"{octets}[{index.text}] += n"), index.reads | LENGTH)
    return before + _guarded(condition, index.reads, [effect])


def _register_read(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, name = field_at(primitive, 0), object_at(primitive, 1)
    array = compiler.context.externs[f"register:{name}"]
    before, index, condition = _index(compiler, primitive, 2, array.size)
    values = compiler.context.share(f"{name}_values", array.values)
    low, high = limits(array.width, False)
    read = Value(f"{values}[{index.text}]", low, high, index.reads, atom=True)
    body = compiler.assign(target, read)
    if condition is not None:
        compiler.overwritten(compiler.context.name(target))
    return before + _guarded(condition, index.reads, body)


def _register_write(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    name = object_at(primitive, 0)
    array = compiler.context.externs[f"register:{name}"]
    before, index, condition = _index(compiler, primitive, 1, array.size)
    values = compiler.context.share(f"{name}_values", array.values)
    value = fit(compiler.value(primitive.args[2]), array.width, False)
    effect = Effect((f"{values}[{index.text}] = {value.text}",), index.reads | value.reads)
    return before + _guarded(condition, index.reads, [effect])


def _execute_meter(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    name, target = object_at(primitive, 0), field_at(primitive, 2)
    meter = compiler.context.externs[f"meter:{name}"]
    before, index, condition = _index(compiler, primitive, 1, meter.size)
    execute = compiler.context.share(f"{name}_execute", meter.execute)
    variable = compiler.context.name(target)
    definition = compiler.context.program.field_def(target)
    call = Value(f"{execute}({index.text}, n, now_ns)", 0, 2, atom=True)
    effect = Effect(
        (f"{variable} = {fit(call, definition.width, definition.signed).text}",),
        index.reads | LENGTH | CLOCK,
        frozenset((variable,)),
    )
    compiler.overwritten(variable)
    return before + _guarded(condition, index.reads, [effect])


def _hash(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, base, name = field_at(primitive, 0), compiler.value(primitive.args[1]), object_at(primitive, 2)
    size = compiler.value(primitive.args[3])
    value = hash_value(compiler, compiler.context.program.calculations[name])
    if size.const is None:
        text = f"{value.text} % ({size.operand} or 1)"
        value = Value(text, 0, max(size.high - 1, 0), value.reads | size.reads)
    elif (size.const or 1) <= value.high:
        value = Value(f"{value.text} % {size.const or 1}", 0, (size.const or 1) - 1, value.reads)
    if base.const != 0:
        value = Value(
            f"{value.operand} + {base.operand}", value.low + base.low, value.high + base.high, value.reads | base.reads
        )
    return compiler.assign(target, value)


def _random(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, low, high = field_at(primitive, 0), compiler.value(primitive.args[1]), compiler.value(primitive.args[2])
    definition = compiler.context.program.field_def(target)
    variable = compiler.context.name(target)
    randint = compiler.context.share("randint", compiler.context.externs["randint"])
    draw = Value(f"{randint}({low.text}, {high.text})", low.low, high.high, atom=True)
    reads = low.reads | high.reads
    text = f"{variable} = {fit(draw, definition.width, definition.signed).text}"
    effect = Effect((text,), reads, frozenset((variable,)))
    compiler.overwritten(variable)
    possible = operators.compare("<=", low, high)
    return _guarded(None if possible.known else possible.text, reads, [effect])


def _digest(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    number = primitive.args[1]
    if not isinstance(number, Const) or number.value not in compiler.context.program.digests:
        raise UnsupportedConstructError("digest of an unknown list", primitive.place)
    return [Assign(DIGEST, str(number.value))]


def _clone(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    session, fields = compiler.value(primitive.args[0]), compiler.value(primitive.args[1])
    return [
        Assign(CLONE, session_note(session.operand), session.reads),
        Assign(CLONE_LIST, fields.text, fields.reads),
    ]


def _come_again(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    fields = compiler.value(primitive.args[0])
    return [Assign(RESUBMIT if primitive.op == "resubmit" else RECIRCULATE, fields.text, fields.reads)]


def _truncate(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    length = compiler.value(primitive.args[0])
    text = f"min({TRUNCATE} or {length.operand} + 1, {length.operand} + 1)"
    return [Assign(TRUNCATE, text, length.reads | {TRUNCATE})]


def _log_msg(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    given = primitive.args[1] if len(primitive.args) > 1 else ()
    values = [compiler.value(v) for v in (given if isinstance(given, tuple) else ())]
    log = compiler.context.share("log_msg", compiler.context.externs["log"])
    arguments = ", ".join([repr(primitive.args[0]), *(v.text for v in values)])
    return [Effect((f"{log}({arguments})",), frozenset().union(*(v.reads for v in values)))]


def _assertion(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    condition = compiler.truth(primitive.args[0])
    fail = compiler.context.share("fail", compiler.context.externs["fail"])
    effect = Effect((f"{fail}({primitive.op!r}, {primitive.place!r})",))
    return [If([(f"not {condition.operand}", condition.reads, [effect])])]


EXTERN_PRIMITIVES: dict[str, Handler] = {
    "count": _count,
    "register_read": _register_read,
    "register_write": _register_write,
    "execute_meter": _execute_meter,
    "modify_field_with_hash_based_offset": _hash,
    "modify_field_rng_uniform": _random,
    "generate_digest": _digest,
    "clone_ingress_pkt_to_egress": _clone,
    "clone_egress_pkt_to_egress": _clone,
    "resubmit": _come_again,
    "recirculate": _come_again,
    "truncate": _truncate,
    "log_msg": _log_msg,
    "assert": _assertion,
    "assume": _assertion,
}
"""Those on externs, by their name in the JSON."""
