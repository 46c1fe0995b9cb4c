"""Integers as byte strings (P4Runtime specification v1.4, "Bytestrings").

The embedded switch has its own implementation, because it is independent of the controller.
"""

from __future__ import annotations

from mfs_ctrl.errors import EntryError


def to_bytes(value: int, width: int, what: str) -> bytes:
    """Return ``value`` in canonical form: the shortest byte string, and one zero byte for 0.

    Raises:
        EntryError: ``value`` does not fit in ``width`` bits; the message begins with ``what``.
    """
    if not 0 <= value < 1 << width:
        raise EntryError(f"{what}: {value} does not fit in {width} bits (0..{(1 << width) - 1})")
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


def to_int(data: bytes) -> int:
    """Return the value of a byte string, canonical or not."""
    return int.from_bytes(data, "big")
