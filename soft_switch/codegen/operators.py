"""Operators of the bmv2 JSON on :class:`Value` and :class:`Truth`. Numbers are unbounded, as in bmv2."""

from __future__ import annotations

from collections.abc import Callable

from soft_switch.codegen.values import FALSE, TRUE, Truth, Value, bits_bound, constant, fit, limits, masked

MAX_SHIFT = 2048
"""Shifts to the left by this much or more leave nothing in any field that a program can have."""


def _binary(left: Value, sign: str, right: Value, low: int, high: int) -> Value:
    return Value(f"{left.operand} {sign} {right.operand}", low, high, left.reads | right.reads)


def _add(left: Value, right: Value) -> Value:
    if right.const == 0:
        return left
    if left.const == 0:
        return right
    return _binary(left, "+", right, left.low + right.low, left.high + right.high)


def _sub(left: Value, right: Value) -> Value:
    if right.const == 0:
        return left
    if left.const == 0:
        return Value(f"-{right.operand}", -right.high, -right.low, right.reads)
    return _binary(left, "-", right, left.low - right.high, left.high - right.low)


def _mul(left: Value, right: Value) -> Value:
    corners = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    return _binary(left, "*", right, min(corners), max(corners))


def _div(left: Value, right: Value) -> Value:
    if right.const:
        return _binary(left, "//", right, min(left.low, 0), max(left.high, 0))
    text = f"{left.operand} // {right.operand} if {right.operand} else 0"
    return Value(text, min(left.low, 0), max(left.high, 0), left.reads | right.reads)


def _mod(left: Value, right: Value) -> Value:
    high = max(right.high - 1, 0)
    if right.const:
        return _binary(left, "%", right, 0, high if left.low < 0 else min(left.high, high))
    return Value(f"{left.operand} % {right.operand} if {right.operand} else 0", 0, high, left.reads | right.reads)


def _shl(left: Value, right: Value) -> Value:
    if right.const is not None and right.const >= MAX_SHIFT:
        return constant(0)
    if right.high < MAX_SHIFT:
        low = min(left.low << right.high, left.low << max(right.low, 0))
        return _binary(left, "<<", right, low, max(left.high << right.high, 0, left.high << max(right.low, 0)))
    # A shift by an absurd count must not build an absurd number.
    text = f"{left.operand} << {right.operand} if {right.operand} < {MAX_SHIFT} else 0"
    low = min(left.low << MAX_SHIFT, 0)
    return Value(text, low, max(left.high << MAX_SHIFT, 0), left.reads | right.reads)


def _shr(left: Value, right: Value) -> Value:
    least, most = max(right.low, 0), min(right.high, MAX_SHIFT)
    low = min(left.low >> least, left.low >> most)
    return _binary(left, ">>", right, low, max(left.high >> least, left.high >> most))


def _and(left: Value, right: Value) -> Value:
    if right.const is not None and right.const >= 0:
        return masked(left, right.const)
    if left.const is not None and left.const >= 0:
        return masked(right, left.const)
    tops = [v.high for v in (left, right) if v.low >= 0]
    if tops:
        return _binary(left, "&", right, 0, min(tops))
    bound = bits_bound(left.low, left.high, right.low, right.high)
    return _binary(left, "&", right, -bound - 1, bound)


def _or(left: Value, right: Value) -> Value:
    if right.const == 0:
        return left
    if left.const == 0:
        return right
    return _bitwise(left, "|", right)


def _bitwise(left: Value, sign: str, right: Value) -> Value:
    bound = bits_bound(left.low, left.high, right.low, right.high)
    return _binary(left, sign, right, 0 if left.low >= 0 and right.low >= 0 else -bound - 1, bound)


def _xor(left: Value, right: Value) -> Value:
    return _bitwise(left, "^", right)


BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "+": _add,
    "-": _sub,
    "*": _mul,
    "/": _div,
    "%": _mod,
    "<<": _shl,
    ">>": _shr,
    "&": _and,
    "|": _or,
    "^": _xor,
}
_FOLD: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b if b else 0,
    "%": lambda a, b: a % b if b else 0,
    "<<": lambda a, b: a << b if b < MAX_SHIFT else 0,
    ">>": lambda a, b: a >> b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
COMPARISONS = frozenset(_COMPARE)


def arithmetic(op: str, left: Value, right: Value) -> Value:
    """``left op right``; division and remainder by zero give 0 (bmv2 stops there)."""
    if left.const is not None and right.const is not None and (op not in ("<<", ">>") or right.const >= 0):
        return constant(_FOLD[op](left.const, right.const))
    return BINARY[op](left, right)


def compare(op: str, left: Value, right: Value) -> Truth:
    """A comparison of numbers; known where the intervals decide it."""
    corners = {_COMPARE[op](a, b) for a in (left.low, left.high) for b in (right.low, right.high)}
    if len(corners) == 1 and op not in ("==", "!="):
        return TRUE if corners == {True} else FALSE
    if left.const is not None and right.const is not None:
        return TRUE if _COMPARE[op](left.const, right.const) else FALSE
    return Truth(f"{left.operand} {op} {right.operand}", left.reads | right.reads)


def complement(value: Value) -> Value:
    """``~value``."""
    if value.const is not None:
        return constant(~value.const)
    return Value(f"~{value.operand}", ~value.high, ~value.low, value.reads)


def clamp(value: Value, width: int, signed: bool, temporary: str) -> Value:
    """Saturating cast to ``width`` bits; ``temporary`` is a name that nothing else uses."""
    low, high = limits(width, signed)
    if value.const is not None:
        return constant(min(max(value.const, low), high))
    under, over = value.low < low, value.high > high
    if not under and not over:
        return value
    first = f"({temporary} := {value.text})"
    least, most = constant(low).text, constant(high).text
    if under and over:
        text = f"{least} if {first} < {least} else {most} if {temporary} > {most} else {temporary}"
    elif under:
        text = f"{temporary} if {first} > {least} else {least}"
    else:
        text = f"{temporary} if {first} < {most} else {most}"
    return Value(text, max(value.low, low), min(value.high, high), value.reads)


def two_comp_mod(value: Value, width: int) -> Value:
    """The number of ``width`` bits in two's complement that is congruent to ``value``."""
    return fit(value, width, True)


def negation(truth: Truth) -> Truth:
    """``not truth``."""
    if truth.known is not None:
        return FALSE if truth.known else TRUE
    return Truth(f"not {truth.operand}", truth.reads)


def connective(op: str, left: Truth, right: Truth) -> Truth:
    """``and`` or ``or``."""
    for one, other in ((left, right), (right, left)):
        if one.known is not None:
            if op == "and":
                return other if one.known else FALSE
            return TRUE if one.known else other
    return Truth(f"{left.operand} {op} {right.operand}", left.reads | right.reads)
