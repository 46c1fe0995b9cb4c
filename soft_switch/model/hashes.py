"""Hash algorithms of v1model, with the same results as bmv2.

Each algorithm is a function from bytes to a non-negative number. crc16 is CRC-16/ARC (poly 0x8005
reflected), crc32 the Ethernet CRC, csum16 the Internet checksum (RFC 1071), identity the first eight bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

HashFunction = Callable[[bytes], int]
VARYING = -1
"""In place of a width: the field has variable width, and its value starts with an extra one bit."""
MEMO_LIMIT = 65_536
"""Results that a :class:`HashMemo` keeps before it is cleared."""


def _crc16_table() -> tuple[int, ...]:
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = (value >> 1) ^ (0xA001 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC16 = _crc16_table()


def crc16(data: bytes) -> int:
    """Return CRC-16/ARC; the check value of ``b"123456789"`` is 0xBB3D."""
    remainder = 0
    table = _CRC16
    for byte in data:
        remainder = (remainder >> 8) ^ table[(remainder ^ byte) & 0xFF]
    return remainder


def csum16(data: bytes) -> int:
    """Return the Internet checksum of 16-bit words; an odd last byte is padded with zeros on the right."""
    number = int.from_bytes(data, "big") << (8 if len(data) & 1 else 0)
    # Adding words with end-around carry is reduction modulo 0xFFFF, where only an all-zero input sums to zero.
    return -number % 0xFFFF if number else 0xFFFF


def xor16(data: bytes) -> int:
    """Return the exclusive or of 16-bit words; an odd last byte is padded with zeros on the right."""
    result = 0
    for index in range(0, len(data), 2):
        result ^= int.from_bytes(data[index : index + 2].ljust(2, b"\0"), "big")
    return result


def identity(data: bytes) -> int:
    """Return the first eight bytes as a number."""
    return int.from_bytes(data[:8], "big")


ALGORITHMS: dict[str, HashFunction] = {
    "crc16": crc16,
    "crc16_custom": crc16,  # with the parameters that a custom CRC has by default
    "crc32": zlib.crc32,
    "crc32_custom": zlib.crc32,
    "csum16": csum16,
    "identity": identity,
    "xor16": xor16,
}
"""Algorithms by name in the bmv2 JSON. ``random`` is not a function of its input: the pipeline has it."""


def pack_fields(values: Sequence[int], widths: Sequence[int]) -> bytes:
    """Concatenate fields of ``widths`` bits and pad with zero bits to whole bytes."""
    number = total = 0
    for value, width in zip(values, widths, strict=True):
        number = number << width | value & ((1 << width) - 1)
        total += width
    return (number << -total % 8).to_bytes((total + 7) // 8, "big")


def sized(value: int, width: int) -> tuple[int, int]:
    """Return (value, width in bits) of a field, possibly of variable width."""
    if width != VARYING:
        return value, width
    bits = (value or 1).bit_length() - 1
    return value & ~(1 << bits), bits


class HashMemo(dict[tuple[int, ...], int]):
    """Hash of a fixed list of fields, looked up by the values: ``memo[values]``.

    The key is the validity (0 or 1) of every header that the fields belong to, then the fields' values. As in bmv2,
    fields of invalid headers are left out.

    Args:
        function: the algorithm.
        headers: number of headers whose validity starts the key.
        fields: for each value (index of its header or -1 for none, width in bits or VARYING).
    """

    def __init__(self, function: HashFunction, headers: int, fields: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.function = function
        self.headers = headers
        self.fields = tuple(fields)

    def __missing__(self, key: tuple[int, ...]) -> int:
        number = total = 0
        for (header, width), value in zip(self.fields, key[self.headers :], strict=True):
            if header < 0 or key[header]:
                part, bits = sized(value, width)
                number = number << bits | part & (1 << bits) - 1
                total += bits
        result = self.function((number << -total % 8).to_bytes((total + 7) // 8, "big"))
        if len(self) >= MEMO_LIMIT:
            self.clear()
        self[key] = result
        return result


class PackedHash:
    """A hash of pairs (validity, value) and a payload, without a memo since such inputs seldom repeat."""

    def __init__(self, function: HashFunction, widths: Sequence[int]) -> None:
        self.function = function
        self.widths = tuple(widths)

    def __call__(self, payload: bytes, *parts: tuple[int, int]) -> int:
        """Return the hash; ``parts`` that are not valid are left out."""
        kept = [sized(value, width) for (valid, value), width in zip(parts, self.widths, strict=True) if valid]
        return self.function(pack_fields([v for v, _ in kept], [w for _, w in kept]) + payload)
