"""Numbers in C: a type for each interval of values, and the text of operations on them."""

from __future__ import annotations

from dataclasses import dataclass

from soft_switch.ir.expressions import Interval
from soft_switch.native.errors import CannotTranslateError

MAX_BITS = 64 * 80
"""Wider numbers are not translated."""


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
        """The name in C."""
        if self.is_wide:
            return f"w{self.bits // 64}"
        return f"{'i' if self.signed else 'u'}{self.bits}"


U64 = Kind(64, False)


@dataclass(frozen=True, slots=True)
class CNumber:
    """An expression in C with ``low`` <= value <= ``high``.

    If ``kind`` cannot hold the interval, the text equals the value modulo 2 to the power of the kind's bits.
    """

    text: str
    low: int
    high: int
    kind: Kind

    @property
    def const(self) -> int | None:
        """The value if it is known."""
        return self.low if self.low == self.high else None


def kind_of(low: int, high: int) -> Kind:
    """Return the smallest type for an interval."""
    signed = low < 0
    need = max(high.bit_length(), (~low).bit_length()) + 1 if signed else high.bit_length()
    return Kind(_rounded(need), signed)


def _rounded(bits: int) -> int:
    if bits > MAX_BITS:
        raise CannotTranslateError(f"a number of {bits} bits")
    return max(64, (bits + 63) // 64 * 64)


def modular(bits: int) -> Kind:
    """Return the type for numbers of which only the low ``bits`` matter."""
    return Kind(_rounded(bits), False)


def constant(value: int) -> CNumber:
    """Return a known number."""
    kind = kind_of(value, value)
    return CNumber(_literal(value, kind), value, value, kind)


def _literal(value: int, kind: Kind) -> str:
    if kind.is_wide:
        words = [value >> 64 * i & (1 << 64) - 1 for i in range(kind.bits // 64)]
        return f"(({kind.name}){{{{{', '.join(f'{word:#x}u' for word in words)}}}}})"
    if kind.bits == 128:
        low = value & (1 << 64) - 1
        return f"(({kind.name})((u128){value >> 64 & (1 << 64) - 1:#x}u << 64 | {low:#x}u))"
    value &= (1 << 64) - 1
    if kind.signed:
        return f"((i64){value:#x}u)"
    return f"(u64){value}u" if value < 1 << 32 else f"(u64){value:#x}u"


def convert(number: CNumber, kind: Kind) -> str:
    """Return the text of ``number`` in another type: the same value, modulo what the type holds."""
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


def joint(operands: tuple[CNumber, ...], result: Interval | None = None, modulo: int | None = None) -> Kind:
    """Return a type for operands and their result, of which only the low ``modulo`` bits have to be right, if given."""
    low = min([number.low for number in operands] + ([result[0]] if result else []))
    high = max([number.high for number in operands] + ([result[1]] if result else []))
    if modulo is not None:
        smaller = modular(modulo)
        need = max(high.bit_length(), (~low).bit_length() + 1 if low < 0 else 0)
        if need > smaller.bits:
            return smaller
    return kind_of(low, high)


MODULAR = ("+", "-", "*", "&", "|", "^")
"""Operations whose low bits depend on the low bits of their operands alone."""
_WORDS = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}


def infix(sign: str, left: CNumber, right: CNumber, result: Interval, modulo: int | None = None) -> CNumber:
    """Return the result of one of the operations :data:`MODULAR`."""
    kind = joint((left, right), result, modulo)
    a, b = convert(left, kind), convert(right, kind)
    return CNumber(f"{kind.name}_{_WORDS[sign]}({a}, {b})" if kind.is_wide else f"({a} {sign} {b})", *result, kind)


def complement(number: CNumber, result: Interval, modulo: int | None = None) -> CNumber:
    """Return ``~number``."""
    kind = joint((number,), result, modulo)
    text = convert(number, kind)
    return CNumber(f"{kind.name}_not({text})" if kind.is_wide else f"(({kind.name})~{text})", *result, kind)


def masked(number: CNumber, mask: int) -> CNumber:
    """Return ``number & mask``; of ``number`` only the bits of the mask have to be right."""
    kind = kind_of(0, mask)
    text, literal = convert(number, kind), _literal(mask, kind)
    return CNumber(f"{kind.name}_and({text}, {literal})" if kind.is_wide else f"({text} & {literal})", 0, mask, kind)


def shift_left(left: CNumber, count: CNumber, result: Interval, modulo: int | None = None) -> CNumber:
    """Return ``left << count``."""
    kind = joint((left,), result, modulo)
    text = convert(left, kind)
    if kind.is_wide:
        return CNumber(f"{kind.name}_shl({text}, {convert(count, U64)})", *result, kind)
    if count.const is None:
        return CNumber(f"(({kind.name})shl_{kind.bits}({text}, {convert(count, U64)}))", *result, kind)
    if count.const >= kind.bits:
        return CNumber(f"(({kind.name})0)", *result, kind)
    # As unsigned: C does not define it for negative numbers.
    return CNumber(f"(({kind.name})((u{kind.bits}){text} << {count.const}))", *result, kind)


def shift_right(left: CNumber, count: CNumber, result: Interval) -> CNumber:
    """Return ``left >> count``."""
    kind = left.kind
    if kind.is_wide:
        text = f"{kind.name}_shr({left.text}, {convert(count, U64)}, {int(kind.signed)})"
    elif count.const is not None and count.const < kind.bits:
        text = f"({left.text} >> {count.const})"
    else:
        text = f"shr_{kind.name}({left.text}, {convert(count, U64)})"
    number = CNumber(text, *result, kind)
    # In the smallest type, where the number is exact: what follows is faster.
    narrow = kind_of(*result)
    return CNumber(convert(number, narrow), *result, narrow) if narrow.bits < kind.bits else number


def divide(left: CNumber, right: CNumber, result: Interval) -> CNumber:
    """Return ``left // right`` for a divisor that is not 0 when it is reached."""
    return _quotient("/", "floor_div", left, right, result)


def remainder(left: CNumber, right: CNumber, result: Interval) -> CNumber:
    """Return ``left % right`` for a divisor that is not 0 when it is reached."""
    if left.kind.is_wide and left.low >= 0 and right.const is not None and 0 < right.const < 1 << 32:
        return CNumber(f"{left.kind.name}_mod({left.text}, {right.const}u)", *result, U64)
    if right.low < 0:
        raise CannotTranslateError("a remainder by a number that may be negative")
    return _quotient("%", "floor_mod", left, right, result)


def _quotient(sign: str, function: str, left: CNumber, right: CNumber, result: Interval) -> CNumber:
    kind = joint((left, right), result)
    if kind.is_wide:
        raise CannotTranslateError(f"a division of numbers of {kind.bits} bits")
    if kind.signed:
        own = kind_of(*result)
        text = f"(({own.name}){function}((i128){convert(left, kind)}, (i128){convert(right, kind)}))"
        return CNumber(text, *result, own)
    return CNumber(f"({convert(left, kind)} {sign} {convert(right, kind)})", *result, kind)


def choice(condition: str, yes: CNumber, no: CNumber, result: Interval, modulo: int | None = None) -> CNumber:
    """Return ``yes`` where the C condition holds, else ``no``."""
    kind = joint((yes, no), None, modulo)
    return CNumber(f"({condition} ? {convert(yes, kind)} : {convert(no, kind)})", *result, kind)


def compare(sign: str, left: CNumber, right: CNumber) -> str:
    """Return a comparison as a C condition."""
    kind = joint((left, right))
    a, b = convert(left, kind), convert(right, kind)
    return f"({kind.name}_cmp({a}, {b}, {int(kind.signed)}) {sign} 0)" if kind.is_wide else f"({a} {sign} {b})"


def is_set(number: CNumber) -> str:
    """Return the C condition that a number is not 0."""
    return f"{number.kind.name}_any({number.text})" if number.kind.is_wide else f"({number.text} != 0)"


def bit_length(number: CNumber, result: Interval) -> CNumber:
    """Return the bit length of a number that is not negative."""
    kind = number.kind
    if kind.is_wide:
        text = f"{kind.name}_bits({number.text})"
    else:
        text = f"bits_of{'_128' if kind.bits == 128 else ''}({number.text})"
    return CNumber(text, *result, U64)


def words_of(number: CNumber, kind: Kind) -> list[str]:
    """Return a number as 64-bit words, the least significant first."""
    text = convert(number, kind)
    if kind.bits == 64:
        return [text if not kind.signed else f"(u64){text}"]
    if kind.bits == 128:
        return [f"(u64){text}", f"(u64)((u128){text} >> 64)"]
    return [f"{text}.w[{index}]" for index in range(kind.bits // 64)]


def from_memory(address: str, kind: Kind, high: int) -> CNumber:
    """Return a number of 0 to ``high`` at an address of words, the least significant first."""
    if kind.bits == 64:
        return CNumber(f"({address})[0]", 0, high, kind)
    if kind.bits == 128:
        return CNumber(f"((u128)({address})[1] << 64 | ({address})[0])", 0, high, kind)
    return CNumber(f"{kind.name}_of({address}, {kind.bits // 64}, 0)", 0, high, kind)
