"""Numbers in C: exact types for intervals of values, and the text of operations on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from soft_switch.native.errors import CannotTranslateError

MAX_BITS = 64 * 80
"""Wider numbers are not translated."""
SHIFT_LIMIT = 2048
"""Computed counts of shifts to the left are below this: the generated Python sees to it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A C type: 64 or 128 bits, or more as an array of 64-bit words. Signed ones hold two's complement numbers."""

    bits: int
    signed: bool

    @property
    def is_wide(self) -> bool:
        """Whether it is an array of words."""
        return self.bits > 128

    @property
    def name(self) -> str:
        """As C."""
        if self.is_wide:
            return f"w{self.bits // 64}"
        return f"{'i' if self.signed else 'u'}{self.bits}"


U64 = Kind(64, False)
U128 = Kind(128, False)


@dataclass(frozen=True, slots=True)
class Number:
    """An expression in C: ``low`` <= value <= ``high``.

    Where ``kind`` cannot hold the interval, the text is congruent to the value modulo 2 to the kind's bits.
    """

    text: str
    low: int
    high: int
    kind: Kind

    @property
    def const(self) -> int | None:
        """The value, if it is known."""
        return self.low if self.low == self.high else None


def kind_of(low: int, high: int) -> Kind:
    """The smallest type for an interval."""
    signed = low < 0
    need = max(high.bit_length(), (~low).bit_length()) + 1 if signed else high.bit_length()
    return Kind(_rounded(need), signed)


def _rounded(bits: int) -> int:
    if bits > MAX_BITS:
        raise CannotTranslateError(f"a number of {bits} bits")
    return max(64, (bits + 63) // 64 * 64)


def modular(bits: int) -> Kind:
    """The type for numbers of which only the low ``bits`` matter."""
    return Kind(_rounded(bits), False)


def constant(value: int) -> Number:
    """A number as C."""
    kind = kind_of(value, value)
    return Number(_literal(value, kind), value, value, kind)


def _literal(value: int, kind: Kind) -> str:
    if kind.is_wide:
        words = [value >> 64 * i & (1 << 64) - 1 for i in range(kind.bits // 64)]
        return f"(({kind.name}){{{{{', '.join(f'{word:#x}u' for word in words)}}}}})"
    if kind.bits == 128:
        low = value & (1 << 64) - 1
        return f"(({kind.name})((u128){value >> 64 & (1 << 64) - 1:#x}u << 64 | {low:#x}u))"
    if kind.signed:
        return f"((i64){value & (1 << 64) - 1:#x}u)"
    return f"(u64){value}u" if value < 1 << 32 else f"(u64){value:#x}u"


def convert(number: Number, kind: Kind) -> str:
    """The text of ``number`` in another type: the same value, modulo what the type holds."""
    source = number.kind
    if source == kind:
        return number.text
    if number.const is not None and (source.is_wide or kind.is_wide or kind.bits == 128):
        return _literal(number.const, kind)
    if not kind.is_wide:
        text = f"{source.name}_low({number.text})" if source.is_wide else number.text
        return f"(({kind.name}){text})"
    if not source.is_wide:
        return f"{kind.name}_{'s' if source.signed else 'u'}({number.text})"
    if source.bits == kind.bits:
        return number.text
    return f"{kind.name}_of({number.text}.w, {source.bits // 64}, {int(source.signed)})"


def joint(*numbers: Number, low: int | None = None, high: int | None = None, modulo: int | None = None) -> Kind:
    """A type for numbers and a result; only its low ``modulo`` bits have to be right, if given."""
    lows = [number.low for number in numbers] + ([] if low is None else [low])
    highs = [number.high for number in numbers] + ([] if high is None else [high])
    if modulo is not None:
        smaller = modular(modulo)
        try:
            exact = kind_of(min(lows), max(highs))
        except CannotTranslateError:
            return smaller
        return smaller if exact.bits > smaller.bits else exact
    return kind_of(min(lows), max(highs))


_SIGNS = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}


def _infix(word: str, left: Number, right: Number, low: int, high: int, modulo: int | None) -> Number:
    kind = joint(left, right, low=low, high=high, modulo=modulo)
    a, b = convert(left, kind), convert(right, kind)
    text = f"{kind.name}_{word}({a}, {b})" if kind.is_wide else f"({a} {_SIGNS[word]} {b})"
    return Number(text, low, high, kind)


def add(left: Number, right: Number, modulo: int | None = None) -> Number:
    """``left + right``."""
    return _infix("add", left, right, left.low + right.low, left.high + right.high, modulo)


def subtract(left: Number, right: Number, modulo: int | None = None) -> Number:
    """``left - right``."""
    return _infix("sub", left, right, left.low - right.high, left.high - right.low, modulo)


def multiply(left: Number, right: Number, modulo: int | None = None) -> Number:
    """``left * right``."""
    corners = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    return _infix("mul", left, right, min(corners), max(corners), modulo)


def negate(number: Number, modulo: int | None = None) -> Number:
    """``-number``."""
    return subtract(constant(0), number, modulo)


def complement(number: Number, modulo: int | None = None) -> Number:
    """``~number``."""
    low, high = ~number.high, ~number.low
    kind = joint(number, low=low, high=high, modulo=modulo)
    text = convert(number, kind)
    return Number(f"{kind.name}_not({text})" if kind.is_wide else f"(({kind.name})~{text})", low, high, kind)


def _ones(*values: int) -> int:
    return (1 << max((v if v >= 0 else ~v).bit_length() for v in values)) - 1


def bitwise_and(left: Number, right: Number, modulo: int | None = None) -> Number:
    """``left & right``."""
    tops = [number.high for number in (left, right) if number.low >= 0]
    bound = _ones(left.low, left.high, right.low, right.high)
    return _infix("and", left, right, 0 if tops else -bound - 1, min(tops, default=bound), modulo)


def masked(number: Number, mask: int) -> Number:
    """``number & mask``; of ``number`` only the bits of the mask have to be right."""
    high = min(mask, _ones(number.high)) if number.low >= 0 else mask
    if number.low >= 0 and number.high <= mask and mask & (mask + 1) == 0 and number.kind.bits >= mask.bit_length():
        return number
    kind = kind_of(0, mask)
    text, literal = convert(number, kind), _literal(mask, kind)
    return Number(f"{kind.name}_and({text}, {literal})" if kind.is_wide else f"({text} & {literal})", 0, high, kind)


def bitwise_or(left: Number, right: Number, modulo: int | None = None) -> Number:
    """``left | right``."""
    return _or_xor("or", left, right, modulo)


def bitwise_xor(left: Number, right: Number, modulo: int | None = None) -> Number:
    """``left ^ right``."""
    return _or_xor("xor", left, right, modulo)


def _or_xor(word: str, left: Number, right: Number, modulo: int | None) -> Number:
    bound = _ones(left.low, left.high, right.low, right.high)
    return _infix(word, left, right, 0 if left.low >= 0 and right.low >= 0 else -bound - 1, bound, modulo)


def shift_left(left: Number, count: Number, modulo: int | None = None) -> Number:
    """``left << count``."""
    limit = SHIFT_LIMIT if count.const is None else MAX_BITS
    least, most = max(0, min(count.low, limit)), max(0, min(count.high, limit))
    low = min(left.low << least, left.low << most)
    high = max(left.high << least, left.high << most)
    kind = joint(left, low=low, high=high, modulo=modulo)
    text = convert(left, kind)
    if kind.is_wide:
        return Number(f"{kind.name}_shl({text}, {convert(count, U64)})", low, high, kind)
    if count.const is None:
        return Number(f"(({kind.name})shl_{kind.bits}({text}, {convert(count, U64)}))", low, high, kind)
    if count.const >= kind.bits:
        return Number(f"(({kind.name})0)", low, high, kind)
    # As unsigned: C does not define it for negative numbers.
    return Number(f"(({kind.name})((u{kind.bits}){text} << {count.const}))", low, high, kind)


def shift_right(left: Number, count: Number) -> Number:
    """``left >> count``."""
    least, most = max(0, min(count.low, MAX_BITS)), max(0, min(count.high, MAX_BITS))
    low, high = min(left.low >> least, left.low >> most), max(left.high >> least, left.high >> most)
    kind = left.kind
    if kind.is_wide:
        text = f"{kind.name}_shr({left.text}, {convert(count, U64)}, {int(kind.signed)})"
    elif count.const is not None and count.const < kind.bits:
        text = f"({left.text} >> {count.const})"
    else:
        text = f"shr_{kind.name}({left.text}, {convert(count, U64)})"
    return _narrowed(Number(text, low, high, kind))


def _narrowed(number: Number) -> Number:
    """In the smallest type, where the number is exact: what follows is faster."""
    if number.kind.bits == 64:
        return number
    kind = kind_of(number.low, number.high)
    return Number(convert(number, kind), number.low, number.high, kind) if kind.bits < number.kind.bits else number


def divide(left: Number, right: Number) -> Number:
    """``left // right`` for a divisor that is not 0 when it is reached."""
    return _quotient("/", "floor_div", left, right, min(left.low, 0), max(left.high, 0))


def remainder(left: Number, right: Number) -> Number:
    """``left % right`` for a divisor that is not 0 when it is reached."""
    high = max(right.high - 1, 0)
    if left.kind.is_wide and left.low >= 0 and right.const is not None and 0 < right.const < 1 << 32:
        return Number(f"{left.kind.name}_mod({left.text}, {right.const}u)", 0, high, U64)
    if right.low < 0:
        raise CannotTranslateError("a remainder by a number that may be negative")
    return _quotient("%", "floor_mod", left, right, 0, high if left.low < 0 else min(left.high, high))


def _quotient(sign: str, function: str, left: Number, right: Number, low: int, high: int) -> Number:
    kind = joint(left, right, low=low, high=high)
    if kind.is_wide:
        raise CannotTranslateError(f"a division of numbers of {kind.bits} bits")
    if kind.signed:
        result = kind_of(low, high)
        text = f"(({result.name}){function}((i128){convert(left, kind)}, (i128){convert(right, kind)}))"
        return Number(text, low, high, result)
    return Number(f"({convert(left, kind)} {sign} {convert(right, kind)})", low, high, kind)


def choice(condition: str, yes: Number, no: Number, modulo: int | None = None) -> Number:
    """``yes`` where the C condition holds, else ``no``."""
    low, high = min(yes.low, no.low), max(yes.high, no.high)
    kind = joint(yes, no, modulo=modulo)
    return Number(f"({condition} ? {convert(yes, kind)} : {convert(no, kind)})", low, high, kind)


def compare(sign: str, left: Number, right: Number) -> str:
    """A C condition."""
    kind = joint(left, right)
    a, b = convert(left, kind), convert(right, kind)
    return f"({kind.name}_cmp({a}, {b}, {int(kind.signed)}) {sign} 0)" if kind.is_wide else f"({a} {sign} {b})"


def is_set(number: Number) -> str:
    """A C condition: the number is not 0."""
    return f"{number.kind.name}_any({number.text})" if number.kind.is_wide else f"({number.text} != 0)"


def bit_length(number: Number) -> Number:
    """How many bits a number that is not negative has."""
    kind = number.kind
    if kind.is_wide:
        text = f"{kind.name}_bits({number.text})"
    else:
        text = f"bits_of{'_128' if kind.bits == 128 else ''}({number.text})"
    return Number(text, 0, number.high.bit_length(), U64)


def words_of(number: Number, kind: Kind) -> list[str]:
    """A number as 64-bit words, the least significant first."""
    text = convert(number, kind)
    if kind.bits == 64:
        return [text if not kind.signed else f"(u64){text}"]
    if kind.bits == 128:
        return [f"(u64){text}", f"(u64)((u128){text} >> 64)"]
    return [f"{text}.w[{index}]" for index in range(kind.bits // 64)]


def from_memory(address: str, kind: Kind, high: int) -> Number:
    """A number of 0 to ``high`` at an address of words, the least significant first."""
    if kind.bits == 64:
        return Number(f"({address})[0]", 0, high, kind)
    if kind.bits == 128:
        return Number(f"((u128)({address})[1] << 64 | ({address})[0])", 0, high, kind)
    return Number(f"{kind.name}_of({address}, {kind.bits // 64}, 0)", 0, high, kind)


BINARY: dict[str, Callable[[Number, Number, int | None], Number]] = {
    "Add": add,
    "Sub": subtract,
    "Mult": multiply,
    "BitAnd": bitwise_and,
    "BitOr": bitwise_or,
    "BitXor": bitwise_xor,
    "LShift": shift_left,
}
"""Operations whose low bits depend on the low bits of their operands alone, by the name of Python's syntax tree."""
