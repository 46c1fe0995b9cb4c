"""Integers as P4Runtime byte strings: big-endian, the shortest form sent, longer forms accepted ("Bytestrings")."""

from __future__ import annotations

from soft_switch.p4runtime.status import OUT_OF_RANGE, RequestError


def encode(value: int) -> bytes:
    """Return the canonical byte string of an unsigned integer: the shortest, at least one byte."""
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


def decode(data: bytes, width: int, what: str) -> int:
    """Return the unsigned integer in ``data``; it must fit in ``width`` bits, and leading zero bytes are accepted.

    Raises:
        RequestError: OUT_OF_RANGE, naming ``what``, if the string is empty or the value too large.
    """
    if not data:
        raise RequestError(OUT_OF_RANGE, f"{what}: empty byte string; zero is written as one zero byte")
    value = int.from_bytes(data, "big")
    if value >> width:
        raise RequestError(
            OUT_OF_RANGE, f"{what}: {value:#x} does not fit in {width} bits (at most {(1 << width) - 1:#x})"
        )
    return value


def encode_signed(value: int) -> bytes:
    """Return the canonical byte string of a two's complement integer: the shortest with the right sign."""
    magnitude = value if value >= 0 else ~value
    return value.to_bytes(magnitude.bit_length() // 8 + 1, "big", signed=True)


def to_signed(value: int, width: int) -> int:
    """Return the low ``width`` bits as a two's complement number."""
    return value - (1 << width) if value >> (width - 1) else value
