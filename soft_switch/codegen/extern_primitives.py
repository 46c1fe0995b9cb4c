"""Primitives on v1model's externs: counters, registers, meters, hashes, digests, copies, messages."""

from __future__ import annotations

from soft_switch.codegen.arguments import Handler, field_at, object_at
from soft_switch.codegen.compiler import Compiler
from soft_switch.codegen.copies import note, session_note
from soft_switch.codegen.hashing import hash_value
from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir import arithmetic as ar
from soft_switch.ir import statements as st
from soft_switch.ir.expressions import Cell, Condition, Meter, Number, Random
from soft_switch.ir.variables import CLONE, CLONE_LIST, COUNTS, DIGEST, LENGTH, RECIRCULATE, RESUBMIT, TRUNCATE
from soft_switch.model.program import Const, Primitive


def _index(
    compiler: Compiler, primitive: Primitive, position: int, size: int
) -> tuple[list[st.Stmt], Number, Condition]:
    """Return (what to do before, the index, the condition under which it is within ``size``)."""
    value = compiler.value(primitive.args[position])
    before: list[st.Stmt] = []
    if not value.is_atom:
        held, value = compiler.context.hold("i", value)
        before.append(held)
    return before, value, ar.within(value, size)


def _guarded(condition: Condition, body: list[st.Stmt]) -> list[st.Stmt]:
    return body if condition.known else [st.when(condition, body)]


def _count(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    name = object_at(primitive, 0)
    counter = compiler.context.externs[f"counter:{name}"]
    before, index, condition = _index(compiler, primitive, 1, counter.size)
    packets = compiler.context.share(f"{name}_packets", counter.packets)
    octets = compiler.context.share(f"{name}_bytes", counter.bytes)
    return before + _guarded(condition, [st.Count(packets, index, ar.constant(1)), st.Count(octets, index, LENGTH)])


def _register_read(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    target, name = field_at(primitive, 0), object_at(primitive, 1)
    array = compiler.context.externs[f"register:{name}"]
    before, index, condition = _index(compiler, primitive, 2, array.size)
    values = compiler.context.share(f"{name}_values", array.values)
    read = compiler.assign(target, Cell(*ar.limits(array.width, False), values, index))
    if not condition.known:
        compiler.scope.forget(read.writes)
    return before + _guarded(condition, [read])


def _register_write(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    name = object_at(primitive, 0)
    array = compiler.context.externs[f"register:{name}"]
    before, index, condition = _index(compiler, primitive, 1, array.size)
    values = compiler.context.share(f"{name}_values", array.values)
    value = ar.fit(compiler.value(primitive.args[2]), array.width, False)
    return before + _guarded(condition, [st.WriteCell(values, index, value)])


def _execute_meter(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    name, target = object_at(primitive, 0), field_at(primitive, 2)
    meter = compiler.context.externs[f"meter:{name}"]
    before, index, condition = _index(compiler, primitive, 1, meter.size)
    colour = Meter(0, 2, compiler.context.share(f"{name}_execute", meter.execute), meter, index)
    return before + _guarded(condition, [compiler.perform(target, colour)])


def _hash(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    target, base, name = field_at(primitive, 0), compiler.value(primitive.args[1]), object_at(primitive, 2)
    size = compiler.value(primitive.args[3])
    value = hash_value(compiler, compiler.context.program.calculations[name])
    if size.const is None:
        value = ar.remainder(value, size)
    elif (size.const or 1) <= value.high:
        value = ar.remainder(value, ar.constant(size.const or 1))
    return [compiler.assign(target, ar.add(value, base))]


def _random(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    target, low, high = field_at(primitive, 0), compiler.value(primitive.args[1]), compiler.value(primitive.args[2])
    draw = Random(low.low, high.high, compiler.context.share_extern("randint"), low, high)
    return _guarded(ar.compare("<=", low, high), [compiler.perform(target, draw)])


def _digest(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    number = primitive.args[1]
    if not isinstance(number, Const) or number.value not in compiler.context.program.digests:
        raise UnsupportedConstructError("digest of an unknown list", primitive.place)
    return [note(DIGEST, ar.constant(number.value))]


def _clone(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    session, fields = compiler.value(primitive.args[0]), compiler.value(primitive.args[1])
    return [st.Assign(CLONE.name, session_note(session)), note(CLONE_LIST, fields)]


def _come_again(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    return [note(RESUBMIT if primitive.op == "resubmit" else RECIRCULATE, compiler.value(primitive.args[0]))]


def _truncate(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    length = ar.add(ar.fit(compiler.value(primitive.args[0]), COUNTS[1].bit_length(), False), ar.constant(1))
    return [st.Assign(TRUNCATE.name, ar.choice(ar.not_zero(TRUNCATE), ar.least(TRUNCATE, length), length))]


def _log_msg(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    given = primitive.args[1] if len(primitive.args) > 1 else ()
    values = tuple(compiler.value(v) for v in (given if isinstance(given, tuple) else ()))
    log = compiler.context.share_extern("log", "log_msg")
    return [st.Report("log", log, (str(primitive.args[0]),), values)]


def _assertion(compiler: Compiler, primitive: Primitive) -> list[st.Stmt]:
    report = st.Report("fail", compiler.context.share_extern("fail"), (primitive.op, primitive.place), ())
    return [st.when(ar.negation(compiler.truth(primitive.args[0])), [report])]


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
"""Primitives on externs by their name in the JSON."""
