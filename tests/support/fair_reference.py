"""Max-min fairness with strict priority, slow and obviously right: progressive filling in exact arithmetic, and linear
programs. Flows are (links, level); rates may be fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog

Flow = tuple[tuple[int, ...], int]


def progressive_filling(capacity: Mapping[int, Fraction], flows: Sequence[Flow]) -> list[Fraction]:
    """Level by level from the top, raise all flows together until a link on their path is full."""
    free = dict(capacity)
    rates = [Fraction(0)] * len(flows)
    for level in sorted({level for _, level in flows}, reverse=True):
        rising = {index for index, (_, own) in enumerate(flows) if own == level}
        while rising:
            crossing = {link: sum(link in flows[index][0] for index in rising) for link in free}
            step = min(free[link] / count for link, count in crossing.items() if count)
            for index in rising:
                rates[index] += step
                for link in flows[index][0]:
                    free[link] -= step
            rising = {index for index in rising if all(free[link] > 0 for link in flows[index][0])}
    return rates


def by_linear_programs(capacity: Mapping[int, Fraction], flows: Sequence[Flow]) -> list[float]:
    """Level by level, maximise the least rate, then the least of those that can rise further, and so on."""
    links = sorted(capacity)
    rates = np.zeros(len(flows))
    for level in sorted({level for _, level in flows}, reverse=True):
        free = {
            link: float(capacity[link]) - sum(rates[i] for i, (path, _) in enumerate(flows) if link in path)
            for link in links
        }
        own = [index for index, (_, at) in enumerate(flows) if at == level]
        crosses = np.array([[float(link in flows[index][0]) for index in own] for link in links])
        room = np.array([max(0.0, free[link]) for link in links])
        fixed: dict[int, float] = {}
        while len(fixed) < len(own):
            least = _greatest_least(crosses, room, fixed, len(own))
            # Flows that cannot exceed the least rate while no flow has less are at their final rate.
            stuck = [
                k
                for k in range(len(own))
                if k not in fixed and _greatest(crosses, room, fixed, least, k) < least + 1e-7
            ]
            fixed.update(dict.fromkeys(stuck, least))
        for position, index in enumerate(own):
            rates[index] = fixed[position]
    return [float(rate) for rate in rates]


def _bounds(fixed: Mapping[int, float], count: int, least: float) -> list[tuple[float, float | None]]:
    return [(fixed[k], fixed[k]) if k in fixed else (least, None) for k in range(count)]


def _greatest_least(crosses: np.ndarray, room: np.ndarray, fixed: Mapping[int, float], count: int) -> float:
    # Variables: the rates, then the least of those that are not fixed.
    above = [np.eye(count)[k] * -1 for k in range(count) if k not in fixed]
    matrix = np.vstack([np.hstack([crosses, np.zeros((len(room), 1))]), *(np.append(row, 1.0) for row in above)])
    limits = np.concatenate([room + 1e-12, np.zeros(len(above))])
    done = linprog([0.0] * count + [-1.0], matrix, limits, bounds=[*_bounds(fixed, count, 0.0), (0, None)])
    assert done.success, done.message
    return float(done.x[-1])


def _greatest(crosses: np.ndarray, room: np.ndarray, fixed: Mapping[int, float], least: float, one: int) -> float:
    count = crosses.shape[1]
    aim = np.zeros(count)
    aim[one] = -1
    done = linprog(aim, crosses, room + 1e-9, bounds=_bounds(fixed, count, least))
    assert done.success, done.message
    return float(done.x[one])
