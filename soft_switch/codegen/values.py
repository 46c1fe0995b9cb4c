"""Python text of an expression together with the interval of its values, so that masks that change nothing vanish."""

from __future__ import annotations

from dataclasses import dataclass

from soft_switch.codegen.ir import EMPTY, Names


@dataclass(frozen=True, slots=True)
class Value:
    """An integer expression: ``low`` <= value <= ``high``. ``atom``: needs no parentheses and costs nothing to repeat.

    ``inner`` is (text, mask) where the text is ``inner & mask``.
    """

    text: str
    low: int
    high: int
    reads: Names = EMPTY
    atom: bool = False
    inner: tuple[str, int] | None = None

    @property
    def const(self) -> int | None:
        """The value, if it is known."""
        return self.low if self.low == self.high else None

    @property
    def operand(self) -> str:
        """The text as an operand of an operator."""
        return self.text if self.atom else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Truth:
    """A condition. ``number``: a text whose value is 0 or 1 for it, where there is one."""

    text: str
    reads: Names = EMPTY
    known: bool | None = None
    number: str | None = None
    atom: bool = False

    @property
    def operand(self) -> str:
        """The text as an operand of an operator."""
        return self.text if self.atom else f"({self.text})"


TRUE = Truth("True", known=True, number="1", atom=True)
FALSE = Truth("False", known=False, number="0", atom=True)


def constant(value: int) -> Value:
    """A number; long ones in hexadecimal."""
    text = str(value) if abs(value) < 1 << 16 else hex(value)
    return Value(text if value >= 0 else f"({text})", value, value, atom=True)


def variable(name: str, width: int, signed: bool) -> Value:
    """A field of ``width`` bits in a local variable."""
    low, high = limits(width, signed)
    return Value(name, low, high, frozenset((name,)), atom=True)


def varbit_width(text: str) -> str:
    """The bits of a field of variable width: its variable holds its value after a one."""
    return f"(({text} or 1).bit_length() - 1)"


def limits(width: int, signed: bool) -> tuple[int, int]:
    """The least and greatest number of ``width`` bits."""
    return (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)


def masked(value: Value, mask: int) -> Value:
    """``value & mask`` for a mask that is not negative."""
    if value.const is not None:
        return constant(value.const & mask)
    if value.low >= 0 and mask & (mask + 1) == 0 and value.high <= mask:
        return value
    if value.inner is not None:
        mask &= value.inner[1]
        source = value.inner[0]
    else:
        source = value.operand
    high = mask if value.low < 0 else min(mask, (1 << value.high.bit_length()) - 1)
    return Value(f"{source} & {constant(mask).text}", 0, high, value.reads, inner=(source, mask))


def fit(value: Value, width: int, signed: bool) -> Value:
    """``value`` reduced to a field of ``width`` bits, as an assignment does."""
    low, high = limits(width, signed)
    if low <= value.low and value.high <= high:
        return value
    if not signed:
        return masked(value, high)
    if value.const is not None:
        return constant(((value.const - low) & ((1 << width) - 1)) + low)
    half, ones = constant(-low).text, constant((1 << width) - 1).text
    if value.low >= 0 and value.high < 1 << width:
        return Value(f"({value.operand} ^ {half}) - {half}", low, high, value.reads)
    return Value(f"({value.operand} + {half} & {ones}) - {half}", low, high, value.reads)


def bits_bound(*numbers: int) -> int:
    """The least 2^n - 1 that bounds the magnitude of the bits of all numbers."""
    return (1 << max((n if n >= 0 else ~n).bit_length() for n in numbers)) - 1
