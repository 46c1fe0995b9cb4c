"""Codes of the table ``rmlq`` (reverse multi-level queue) in units for people: time, MLU, bytes.

MLU is the minimal link utilisation: the share of a link that a flow needs from now on to finish by its deadline.
"""

from __future__ import annotations

import math
import re
from enum import Enum

from host_agent.protocol.level import CODE_MAX, CODE_STEPS, URGENCY_ONE, log2_code
from host_agent.protocol.stamp import units_of

_NUMBER = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(rf"{_NUMBER} ?(us|ms|s)")
_SIZE = re.compile(rf"{_NUMBER} ?(B|kB|MB|GB|KiB|MiB|GiB)")
_MLU = re.compile(rf"MLU {_NUMBER}")
_US = {"us": 1, "ms": 1_000, "s": 1_000_000}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_LARGEST = 2**32 - 1


class Dimension(Enum):
    """A field that rules compare, and how to write its values."""

    RLI = "layers, such as 2"
    URGENCY = 'MLU, such as "MLU 0.84"'
    SLACK = 'time, such as "100 ms"'
    REMAINING = 'bytes, such as "64 kB"'


def code_of(text: str) -> tuple[int, Dimension] | None:
    """Return the code of a quantity with a unit, and its dimension; None if ``text`` is not a quantity.

    ``"900 us"``, ``"100 ms"`` and ``"1.1 s"`` are slack, ``"MLU 0.84"`` is urgency, ``"64 kB"`` and ``"1 MiB"`` are
    remaining bytes. Codes have eight steps per octave, so a code covers a range of at most 13 %.

    Raises:
        ValueError: the quantity is too large for a stamp, or an MLU of 0.
    """
    if matched := _TIME.fullmatch(text):
        return _log2(float(matched[1]) * _US[matched[2]], text), Dimension.SLACK
    if matched := _SIZE.fullmatch(text):
        return _log2(units_of(math.ceil(float(matched[1]) * _BYTES[matched[2]])), text), Dimension.REMAINING
    if matched := _MLU.fullmatch(text):
        share = float(matched[1])
        if share == 0:
            raise ValueError(f"{text!r}: an MLU is above 0")
        code = round(URGENCY_ONE + CODE_STEPS * math.log2(share))
        return max(0, min(CODE_MAX, code)), Dimension.URGENCY
    return None


def _log2(value: float, text: str) -> int:
    if value > _LARGEST:
        raise ValueError(f"{text!r} is larger than the 32 bits of a stamp can say")
    return log2_code(int(value))
