"""Bit rates as people write them: 500k, 20M, 100G."""

from __future__ import annotations

import re

_FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
HIGHEST_BPS = 10**12


def bits_per_second(text: str) -> int | None:
    """The rate, or None where ``text`` is none of 1 b/s to 1000G."""
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMG]?)", text)
    rate = 0 if matched is None else round(float(matched[1]) * _FACTORS[matched[2]])
    return rate if 1 <= rate <= HIGHEST_BPS else None
