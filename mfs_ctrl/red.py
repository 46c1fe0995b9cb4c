"""The robust effective deadline (RED): one deadline that stands for a batch of requests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise


def robust_effective_deadline(deadlines: Iterable[int]) -> int:
    """The RED of a batch, in the unit of ``deadlines`` (nanoseconds, absolute or relative alike), rounded down.

    The sorted deadlines are split at the largest gap into tight and loose ones (at the first of equal gaps); with f the
    share of tight ones, RED = f min(tight) + (1 - f) min(loose). A batch without gaps has RED = its deadline.

    Raises:
        ValueError: there are no deadlines.
    """
    ordered = sorted(deadlines)
    if not ordered:
        raise ValueError("a batch without requests has no effective deadline")
    gaps = [later - earlier for earlier, later in pairwise(ordered)]
    if not gaps or max(gaps) == 0:
        return ordered[0]
    tight = gaps.index(max(gaps)) + 1
    loose = len(ordered) - tight
    return (tight * ordered[0] + loose * ordered[tight]) // len(ordered)
