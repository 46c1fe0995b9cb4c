"""The robust effective deadline (RED): one deadline that stands for a batch of requests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise


def split(deadlines: Iterable[int]) -> tuple[list[int], list[int]]:
    """``deadlines`` in ascending order, as (tight, loose): parted at the largest gap, the first of equal ones.

    Deadlines without a gap (one, or all equal) are all loose: none of them is tighter than another.

    Raises:
        ValueError: there are no deadlines.
    """
    ordered = sorted(deadlines)
    if not ordered:
        raise ValueError("a batch without requests has no effective deadline")
    gaps = [later - earlier for earlier, later in pairwise(ordered)]
    tight = gaps.index(max(gaps)) + 1 if gaps and max(gaps) > 0 else 0
    return ordered[:tight], ordered[tight:]


def robust_effective_deadline(deadlines: Iterable[int]) -> int:
    """The RED of a batch, in the unit of ``deadlines`` (nanoseconds, absolute or relative alike), rounded down.

    With f the share of tight ones (:func:`split`), RED = f min(tight) + (1 - f) min(loose). A batch without gaps has
    RED = its deadline.

    Raises:
        ValueError: there are no deadlines.
    """
    tight, loose = split(deadlines)
    if not tight:
        return loose[0]
    return (len(tight) * tight[0] + len(loose) * loose[0]) // (len(tight) + len(loose))
