"""The robust effective deadline (the paper's RED): one deadline that stands for a batch of requests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise


def split(deadlines: Iterable[int]) -> tuple[list[int], list[int]]:
    """Split ``deadlines``, in ascending order, at the largest gap (the first of several) into (tight, loose).

    Deadlines without a gap (a single one, or all equal) are all loose.

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
    """Return the effective deadline of a batch, absolute or relative like ``deadlines``, in their unit, rounded down.

    With f the share of tight deadlines (:func:`split`) it is f min(tight) + (1 - f) min(loose); without a gap, the
    deadline itself.

    Raises:
        ValueError: there are no deadlines.
    """
    tight, loose = split(deadlines)
    if not tight:
        return loose[0]
    return (len(tight) * tight[0] + len(loose) * loose[0]) // (len(tight) + len(loose))
