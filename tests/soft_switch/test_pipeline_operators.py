"""Covers expressions: every operator in operators.p4 at each width, against arithmetic on plain numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.p4_programs import send, shared

pytestmark = pytest.mark.usefixtures("run_as")

WIDTHS = (8, 16, 24, 32, 48, 64, 128)

UNSIGNED = ("add", "sub", "mul", "and", "or", "xor", "inv", "neg", "sat_add", "sat_sub", "shl", "shr", "mux", "from_s")
SIGNED = ("sadd", "ssub", "smul", "sneg", "ssat_add", "ssat_sub", "sshr", "sshl")


def as_signed(value: int, width: int) -> int:
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


def bits(*truths: bool) -> int:
    return int("".join("1" if truth else "0" for truth in truths), 2)


def expected(a: int, b: int, shift: int, width: int) -> dict[str, int]:
    ones = (1 << width) - 1
    top, bottom = ones >> 1, -(ones >> 1) - 1
    a, b = a & ones, b & ones
    s, t = as_signed(a, width), as_signed(b, width)
    unsigned = {
        "add": a + b,
        "sub": a - b,
        "mul": a * b,
        "and": a & b,
        "or": a | b,
        "xor": a ^ b,
        "inv": ~a,
        "neg": -a,
        "sat_add": min(a + b, ones),
        "sat_sub": max(a - b, 0),
        "shl": a << shift,
        "shr": a >> shift,
        "mux": min(a, b),
        "from_s": s - t,
    }
    signed = {
        "sadd": s + t,
        "ssub": s - t,
        "smul": s * t,
        "sneg": -s,
        "ssat_add": min(max(s + t, bottom), top),
        "ssat_sub": min(max(s - t, bottom), top),
        "sshr": s >> shift,
        "sshl": s << shift,
    }
    compared = {
        "compare": bits(a == b, a != b, a < b, a <= b, a > b, a >= b, a < b and b != 1, a < b or b == 1),
        "scompare": bits(s == t, s != t, s < t, s <= t, s > t, s >= t, s >= t, (s < t) == (a < b)),
    }
    return {name: value & ones for name, value in (unsigned | signed).items()} | compared


def parts(data: bytes) -> Iterator[tuple[int, dict[str, int]]]:
    position = 0
    for width in WIDTHS:
        result = {}
        for name in (*UNSIGNED, *SIGNED, "compare", "scompare"):
            size = 1 if "compare" in name else width // 8
            result[name] = int.from_bytes(data[position : position + size], "big")
            position += size
        yield width, result
    assert position == len(data)


# Values at the edges of every width reveal missing masks.
EDGES = sorted({(1 << w) + d & ((1 << 128) - 1) for w in (0, 7, *WIDTHS, *(w - 1 for w in WIDTHS)) for d in (-1, 0, 1)})
OPERAND = st.one_of(st.sampled_from(EDGES), st.integers(0, (1 << 128) - 1))


@settings(max_examples=300, deadline=None)
@given(OPERAND, OPERAND, st.one_of(st.integers(0, 20), st.integers(0, 255)))
def test_every_operator_is_right_at_every_width(a: int, b: int, shift: int) -> None:
    out = send(shared("operators"), a.to_bytes(16, "big") + b.to_bytes(16, "big") + bytes([shift]))
    assert out is not None
    for width, result in parts(out):
        assert result == expected(a, b, shift, width), width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_reference_is_right_at_the_extremes(width: int) -> None:
    ones, top = (1 << width) - 1, 1 << (width - 1)
    extremes = expected(ones, 1, 0, width)
    assert (extremes["add"], extremes["sat_add"], extremes["ssat_add"]) == (0, ones, 0)
    assert expected(top, 1, 0, width)["ssat_sub"] == top
