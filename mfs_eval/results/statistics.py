"""Means over seeds with their confidence intervals, paired differences, and the share of a gap that is closed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats

CONFIDENCE = 0.95
MIN_GAP = 1e-9
"""A gap narrower than this counts as none."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and half the width of its interval, which is infinite for a single value."""

    mean: float
    half: float


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean of ``values`` with its interval by Student's t.

    Raises:
        statistics.StatisticsError: there are no values.
    """
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, math.inf)
    return Estimate(mean, float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)))


def paired_difference(values: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Return the mean of ``values`` minus ``base`` over the seeds that both have; None if they share none."""
    differences = [value - base[seed] for seed, value in sorted(values.items()) if seed in base]
    return mean_interval(differences) if differences else None


def gap_closed(values: Mapping[int, float], floor: Mapping[int, float], ceiling: Mapping[int, float]) -> float | None:
    """Return the share of the gap between the means of ``floor`` and ``ceiling`` that ``values`` closes.

    Only seeds that all three have count. None if there are none, or no gap.
    """
    seeds = sorted(values.keys() & floor.keys() & ceiling.keys())
    if not seeds:
        return None
    low, here, high = (fmean(one[seed] for seed in seeds) for one in (floor, values, ceiling))
    return (here - low) / (high - low) if high - low > MIN_GAP else None
