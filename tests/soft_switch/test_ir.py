"""Covers the intermediate representation: intervals hold, both printers agree, and unused statements are removed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from soft_switch.ir import arithmetic as ar
from soft_switch.ir import statements as st
from soft_switch.ir.expressions import Condition, Number, Var
from soft_switch.ir.liveness import prune
from soft_switch.ir.program import EGRESS, INGRESS, Function, Generated
from soft_switch.ir.python import print_python
from soft_switch.ir.variables import Types
from soft_switch.model.cells import cells
from soft_switch.native.engine import MachineCode
from tests.support.native import no_machine_code

FIELDS = (("a", 8, False), ("b", 16, True), ("c", 40, False), ("d", 64, True), ("e", 128, False), ("f", 256, True))
RESULT_BITS = 320
EXPRESSIONS, PACKETS = 80, 60
SIGNS = ("+", "-", "*", "/", "%", "<<", ">>", "&", "|", "^")
NARROW_BITS = 120
"""C has no division of wider numbers."""
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 1 << 31, 1 << 63, (1 << 64) - 1, 1 << 127, (1 << 128) - 1, (1 << 256) - 1)


def variables() -> list[Var]:
    return [Var(*ar.limits(width, signed), name) for name, width, signed in FIELDS]


def condition(draw: random.Random, depth: int) -> Condition:
    kind = draw.randrange(4)
    if kind == 0 and depth:
        return ar.negation(condition(draw, depth - 1))
    if kind == 1 and depth:
        word = draw.choice(("and", "or"))
        return ar.connective(word, condition(draw, depth - 1), condition(draw, depth - 1))
    sign = draw.choice(sorted(ar.COMPARISONS))
    return ar.compare(sign, expression(draw, max(depth - 1, 0)), expression(draw, max(depth - 1, 0)))


def expression(draw: random.Random, depth: int) -> Number:
    """A random expression. Operands are cut to widths that all operators allow in C."""
    if depth == 0:
        leaf = draw.choice([*variables(), ar.constant(draw.choice(EXTREMES)), ar.constant(-draw.choice(EXTREMES))])
        return ar.pick(variables()[:3], ar.masked(leaf, 3)) if draw.random() < 0.1 else leaf
    kind = draw.randrange(8)
    if kind == 0:
        return ar.complement(expression(draw, depth - 1))
    if kind == 1:
        return ar.choice(condition(draw, 1), expression(draw, depth - 1), expression(draw, depth - 1))
    if kind == 2:
        return ar.fit(expression(draw, depth - 1), draw.choice((1, 7, 31, 64, 100, 200)), draw.random() < 0.5)
    sign = draw.choice(SIGNS)
    left, right = expression(draw, depth - 1), expression(draw, depth - 1)
    if sign in ("<<", ">>"):
        right = ar.masked(right, 255)
    elif sign in ("/", "%"):
        left, right = ar.fit(left, NARROW_BITS, True), ar.fit(right, NARROW_BITS, False)
    return ar.arithmetic(sign, left, right)


def program(body: Sequence[st.Stmt], types: Types, objects: dict[str, Any]) -> Generated:
    """A program with ``body`` in ingress, which drops every packet."""
    functions = (Function(INGRESS, (), [*body, st.Drop()]), Function(EGRESS, (), [st.Drop()]))
    code = Generated(functions, types, objects, (), 0, False, None, None)
    source, more = print_python(code)
    return replace(code, source=source, objects=objects | more)


def run_python(code: Generated) -> Any:
    space = dict(code.objects)
    exec(compile(code.source, "<test>", "exec"), space)
    return space["ingress"]


def expressions() -> list[Number]:
    draw = random.Random(11)
    return [expression(draw, draw.randrange(1, 4)) for _ in range(EXPRESSIONS)]


def packets() -> list[bytes]:
    draw, result = random.Random(12), []
    for _ in range(PACKETS):
        values = [(draw.choice((draw.getrandbits(width), draw.choice(EXTREMES))), width) for _, width, _ in FIELDS]
        result.append(b"".join((value % (1 << width)).to_bytes(width // 8, "big") for value, width in values))
    return result


def written_to_cells(numbers: Sequence[Number]) -> tuple[Generated, Any]:
    """A program that writes each number, modulo 2^RESULT_BITS, into a cell; and the cells."""
    types, made = Types(), cells(len(numbers), RESULT_BITS)
    types.numbers.update({v.name: (v.low, v.high) for v in variables()})
    fields = tuple(st.Extracted(name, width, signed) for name, width, signed in FIELDS)
    body: list[st.Stmt] = [st.Extract(ar.constant(0), fields, frozenset(one.variable for one in fields))]
    for index, number in enumerate(numbers):
        body.append(st.WriteCell("cells", ar.constant(index), ar.fit(number, RESULT_BITS, False)))
    return program(body, types, {"cells": made}), made


def test_every_value_is_in_the_interval_of_its_expression() -> None:
    numbers = expressions()
    code, made = written_to_cells(numbers)
    ingress = run_python(code)
    for data in packets():
        ingress(0, data, 0)
        for number, value in zip(numbers, made, strict=True):
            assert any(number.low <= value - shift <= number.high for shift in (0, 1 << RESULT_BITS)) or (
                max(-number.low, number.high) >> RESULT_BITS
            ), number


@pytest.mark.skipif(bool(no_machine_code()), reason=no_machine_code() or "nothing is missing")
def test_both_printers_compute_the_same_values() -> None:
    code, in_python = written_to_cells(expressions())
    other, in_c = written_to_cells(expressions())
    ingress, machine_code = run_python(code), MachineCode(other, {})
    for data in packets():
        ingress(0, data, 0)
        machine_code.ingress(0, data, 0)
        assert in_python[:] == in_c[:], data.hex()


def test_statements_whose_result_is_never_read_are_removed() -> None:
    x, y, z = (Var(0, 255, name) for name in "xyz")
    statements: list[st.Stmt] = [
        st.Assign("x", ar.constant(1)),
        st.Assign("y", ar.add(x, ar.constant(1))),
        st.when(ar.compare("==", y, ar.constant(2)), [st.Assign("z", y)], [st.Assign("x", z)]),
        st.Assign("y", ar.constant(0)),
    ]
    kept, read = prune(statements, frozenset("z"))
    assert [type(statement) for statement in kept] == [st.Assign, st.Assign, st.If]
    assert isinstance(kept[2], st.If)
    assert not kept[2].orelse
    assert read == {"z"}
    assert prune(statements, frozenset("y"))[0] == statements[3:]


def test_known_conditions_leave_one_branch() -> None:
    one: list[st.Stmt] = [st.Assign("x", ar.constant(1))]
    other: list[st.Stmt] = [st.Assign("x", ar.constant(2))]
    assert prune([st.when(ar.TRUE, one, other)], frozenset("x"))[0] == one
    assert prune([st.when(ar.FALSE, one, other)], frozenset("x"))[0] == other


def test_masks_that_change_nothing_are_left_out() -> None:
    byte = Var(0, 255, "x")
    assert ar.masked(byte, 0xFFFF) is byte
    assert ar.fit(byte, 8, False) is byte
    assert ar.masked(ar.masked(Var(0, 1 << 40, "y"), 0xFF), 0x0F) == ar.masked(Var(0, 1 << 40, "y"), 0x0F)


def test_fields_may_be_wider_than_any_shift() -> None:
    width = 4 * ar.MAX_SHIFT
    made, types = cells(1, width), Types()
    types.numbers["wide"] = (0, (1 << width) - 1)
    extract = st.Extract(ar.constant(0), (st.Extracted("wide", width, False),), frozenset(("wide",)))
    body = [extract, st.WriteCell("cells", ar.constant(0), Var(0, (1 << width) - 1, "wide"))]
    data = random.Random(13).randbytes(width // 8)
    run_python(program(body, types, {"cells": made}))(0, data, 0)
    assert made[0] == int.from_bytes(data, "big")
