"""Operators of the bmv2 JSON as expressions, with the interval of each result.

Numbers are unbounded, as in bmv2. What is known is computed here, and masks that change nothing are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

from soft_switch.ir import expressions as ex

MAX_SHIFT = 2048
"""Shifts to the left by this much or more leave nothing in any field that a program can have."""
TRUE, FALSE = ex.Known(True), ex.Known(False)


def constant(value: int) -> ex.Literal:
    """Return a known number."""
    return ex.Literal(value, value)


def limits(width: int, signed: bool) -> ex.Interval:
    """Return the least and the greatest number of ``width`` bits."""
    return (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)


def bits_bound(*numbers: int) -> int:
    """Return the least 2^n - 1 that bounds the magnitude of the bits of all numbers."""
    return (1 << max((n if n >= 0 else ~n).bit_length() for n in numbers)) - 1


def _binary(left: ex.Number, sign: str, right: ex.Number, low: int, high: int) -> ex.Number:
    return ex.Binary(low, high, sign, left, right)


def add(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left + right``."""
    if right.const == 0:
        return left
    if left.const == 0:
        return right
    if left.const is not None and right.const is not None:
        return constant(left.const + right.const)
    if isinstance(left, ex.Binary) and left.sign == "+" and left.right.const is not None and right.const is not None:
        return add(left.left, constant(left.right.const + right.const))
    return _binary(left, "+", right, left.low + right.low, left.high + right.high)


def subtract(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left - right``."""
    if right.const == 0:
        return left
    if left.const == 0:
        return ex.Unary(-right.high, -right.low, "-", right)
    return _binary(left, "-", right, left.low - right.high, left.high - right.low)


def _multiply(left: ex.Number, right: ex.Number) -> ex.Number:
    corners = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    return _binary(left, "*", right, min(corners), max(corners))


def divide(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left // right``; 0 for a divisor of 0."""
    quotient = _binary(left, "//", right, min(left.low, 0), max(left.high, 0))
    return quotient if right.const else choice(not_zero(right), quotient, constant(0))


def remainder(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left % right``; 0 for a divisor of 0."""
    high = max(right.high - 1, 0)
    rest = _binary(left, "%", right, 0, high if left.low < 0 else min(left.high, high))
    return rest if right.const else choice(not_zero(right), rest, constant(0))


def shift_left(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left << right``; 0 for a count of :data:`MAX_SHIFT` or more."""
    if right.const is not None and right.const >= MAX_SHIFT:
        return constant(0)
    if right.const == 0:
        return left
    few, many = max(right.low, 0), min(right.high, MAX_SHIFT)
    low = min(left.low << few, left.low << many)
    shifted = _binary(left, "<<", right, low, max(left.high << few, 0, left.high << many))
    if right.high < MAX_SHIFT:
        return shifted
    # A shift by an absurd count must not build a huge number.
    return choice(ex.Compare("<", right, constant(MAX_SHIFT)), shifted, constant(0))


def placed(value: ex.Number, count: ex.Number) -> ex.Number:
    """Return ``value << count`` for a count that is a position in a header, which is never absurd."""
    if count.const == 0 or value.const == 0:
        return value
    low, high = min(value.low << count.low, value.low << count.high), max(value.high << count.high, 0)
    return _binary(value, "<<", count, low, high)


def shift_right(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left >> right``."""
    if right.const == 0:
        return left
    few, many = max(right.low, 0), min(right.high, MAX_SHIFT)
    low = min(left.low >> few, left.low >> many)
    return _binary(left, ">>", right, low, max(left.high >> few, left.high >> many))


def masked(value: ex.Number, mask: int) -> ex.Number:
    """Return ``value & mask`` for a mask that is not negative."""
    if value.const is not None:
        return constant(value.const & mask)
    if value.low >= 0 and mask & (mask + 1) == 0 and value.high <= mask:
        return value
    if isinstance(value, ex.Binary) and value.sign == "&" and value.right.const is not None and value.right.const >= 0:
        mask &= value.right.const
        value = value.left
    high = mask if value.low < 0 else min(mask, (1 << value.high.bit_length()) - 1)
    return ex.Binary(0, high, "&", value, constant(mask))


def bitwise_and(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left & right``."""
    if right.const is not None and right.const >= 0:
        return masked(left, right.const)
    if left.const is not None and left.const >= 0:
        return masked(right, left.const)
    tops = [v.high for v in (left, right) if v.low >= 0]
    if tops:
        return _binary(left, "&", right, 0, min(tops))
    bound = bits_bound(left.low, left.high, right.low, right.high)
    return _binary(left, "&", right, -bound - 1, bound)


def bitwise_or(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left | right``."""
    if right.const == 0:
        return left
    if left.const == 0:
        return right
    return _bitwise(left, "|", right)


def bitwise_xor(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left ^ right``."""
    return _bitwise(left, "^", right)


def _bitwise(left: ex.Number, sign: str, right: ex.Number) -> ex.Number:
    bound = bits_bound(left.low, left.high, right.low, right.high)
    return _binary(left, sign, right, 0 if left.low >= 0 and right.low >= 0 else -bound - 1, bound)


def bits_joined(parts: Sequence[ex.Number]) -> ex.Number:
    """Return the parts, which have no bits in common, in one number."""
    nothing: ex.Number = constant(0)
    return reduce(bitwise_or, parts, nothing)


_BINARY: dict[str, Callable[[ex.Number, ex.Number], ex.Number]] = {
    "+": add,
    "-": subtract,
    "*": _multiply,
    "/": divide,
    "%": remainder,
    "<<": shift_left,
    ">>": shift_right,
    "&": bitwise_and,
    "|": bitwise_or,
    "^": bitwise_xor,
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


def arithmetic(op: str, left: ex.Number, right: ex.Number) -> ex.Number:
    """Return ``left op right``; division and remainder by zero give 0 (bmv2 stops there)."""
    if left.const is not None and right.const is not None and (op not in ("<<", ">>") or right.const >= 0):
        return constant(_FOLD[op](left.const, right.const))
    return _BINARY[op](left, right)


def complement(value: ex.Number) -> ex.Number:
    """Return ``~value``."""
    return constant(~value.const) if value.const is not None else ex.Unary(~value.high, ~value.low, "~", value)


def bit_length(value: ex.Number) -> ex.Number:
    """Return the bit length of a number that is not negative."""
    return ex.BitLength(0, value.high.bit_length(), value)


def fit(value: ex.Number, width: int, signed: bool) -> ex.Number:
    """Return ``value`` reduced to a field of ``width`` bits, as an assignment does."""
    low, high = limits(width, signed)
    if low <= value.low and value.high <= high:
        return value
    if not signed:
        return masked(value, high)
    if value.const is not None:
        return constant(((value.const - low) & ((1 << width) - 1)) + low)
    half, ones = constant(-low), (1 << width) - 1
    if value.low >= 0 and value.high <= ones:
        return ex.Binary(low, high, "-", ex.Binary(0, ones, "^", value, half), half)
    return ex.Binary(low, high, "-", masked(add(value, half), ones), half)


def clamp(value: ex.Number, width: int, signed: bool, temporary: str) -> ex.Number:
    """Saturate a number to ``width`` bits; ``temporary`` is a variable that nothing else uses."""
    low, high = limits(width, signed)
    if value.const is not None:
        return constant(min(max(value.const, low), high))
    under, over = value.low < low, value.high > high
    if not under and not over:
        return value
    first = ex.Bind(value.low, value.high, temporary, value)
    again = ex.Bound(max(value.low, low), min(value.high, high), temporary)
    floor, ceiling = constant(low), constant(high)
    if under and over:
        same = ex.Bound(value.low, value.high, temporary)
        return choice(ex.Compare("<", first, floor), floor, choice(ex.Compare(">", same, ceiling), ceiling, again))
    if under:
        return choice(ex.Compare(">", first, floor), again, floor)
    return choice(ex.Compare("<", first, ceiling), again, ceiling)


def internet_checksum(value: ex.Number, temporary: str) -> ex.Number:
    """Return the Internet checksum of a number of 16-bit words; ``temporary`` is a variable that nothing else uses."""
    bind = ex.Bind(value.low, value.high, temporary, value)
    negative = ex.Unary(-value.high, -value.low, "-", ex.Bound(value.low, value.high, temporary))
    return choice(ex.NotZero(bind), ex.Binary(0, 0xFFFE, "%", negative, constant(0xFFFF)), constant(0xFFFF))


def choice(condition: ex.Condition, yes: ex.Number, no: ex.Number) -> ex.Number:
    """Return ``yes`` where the condition holds, else ``no``."""
    if condition.known is not None:
        return yes if condition.known else no
    return ex.Choice(min(yes.low, no.low), max(yes.high, no.high), condition, yes, no)


def least(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return the smaller of two numbers."""
    smaller = choice(compare("<", left, right), left, right)
    return replace(smaller, high=min(left.high, right.high))


def most(left: ex.Number, right: ex.Number) -> ex.Number:
    """Return the larger of two numbers."""
    larger = choice(compare(">", left, right), left, right)
    return replace(larger, low=max(left.low, right.low))


def pick(items: Sequence[ex.Number], index: ex.Number) -> ex.Number:
    """Return the item at ``index``; 0 where there is none."""
    low, high = min(0, *(v.low for v in items)), max(0, *(v.high for v in items))
    picked = ex.Pick(low, high, tuple(items), index)
    if index.low >= 0 and index.high < len(items):
        return picked
    return choice(within(index, len(items)), picked, constant(0))


def load(begin: ex.Number, size: int) -> ex.Load:
    """Return ``size`` bytes of the packet as a number."""
    return ex.Load(0, (1 << 8 * size) - 1, begin, add(begin, constant(size)), size)


def octets(begin: ex.Number, size: int) -> ex.Slice:
    """Return ``size`` bytes of the packet."""
    return ex.Slice(begin, add(begin, constant(size)), size)


def compare(op: str, left: ex.Number, right: ex.Number) -> ex.Condition:
    """Return a comparison of numbers; known where the intervals decide it."""
    corners = {_COMPARE[op](a, b) for a in (left.low, left.high) for b in (right.low, right.high)}
    if len(corners) == 1 and op not in ("==", "!="):
        return TRUE if corners == {True} else FALSE
    if left.const is not None and right.const is not None:
        return TRUE if _COMPARE[op](left.const, right.const) else FALSE
    return ex.Compare(op, left, right)


def within(index: ex.Number, size: int) -> ex.Condition:
    """Return ``0 <= index < size``."""
    return connective("and", compare("<=", constant(0), index), compare("<", index, constant(size)))


def not_zero(value: ex.Number) -> ex.Condition:
    """Return ``value != 0``."""
    if value.const is not None:
        return TRUE if value.const else FALSE
    return ex.NotZero(value)


def as_number(condition: ex.Condition) -> ex.Number:
    """Return 1 where the condition holds, else 0."""
    if isinstance(condition, ex.NotZero) and condition.number.low >= 0 and condition.number.high <= 1:
        return condition.number
    return choice(condition, constant(1), constant(0))


def negation(condition: ex.Condition) -> ex.Condition:
    """Return the negation of a condition."""
    if condition.known is not None:
        return FALSE if condition.known else TRUE
    return condition.operand if isinstance(condition, ex.Not) else ex.Not(condition)


def connective(word: str, left: ex.Condition, right: ex.Condition) -> ex.Condition:
    """Combine conditions with ``and`` or ``or``."""
    for one, other in ((left, right), (right, left)):
        if one.known is not None:
            if word == "and":
                return other if one.known else FALSE
            return TRUE if one.known else other
    return ex.Junction(word, left, right)


def both(*conditions: ex.Condition) -> ex.Condition:
    """Return the conjunction of all conditions."""
    everything: ex.Condition = TRUE
    return reduce(lambda left, right: connective("and", left, right), conditions, everything)


def either(condition: ex.Condition, yes: ex.Condition, no: ex.Condition) -> ex.Condition:
    """Return ``yes`` where the condition holds, else ``no``."""
    if condition.known is not None:
        return yes if condition.known else no
    return ex.Either(condition, yes, no)
