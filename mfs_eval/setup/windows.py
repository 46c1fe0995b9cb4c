"""Windows of a trace: consecutive requests that a run serves, and what came before them and fills the caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

from mfs_eval.serving.placement import Placement, place
from mfs_eval.serving.trace import MOST_TOKENS, Request
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.workload import eligible, select

PROMPTS = {
    "windows": "each seed has its own window of the trace",
    "all-lengths": "windows that leave out no prompt for its length",
    "first": "all seeds share the first window",
}
"""Which prompts a run serves, by name."""
GOLDEN = 0.618
"""Steps of this share of the trace reach all its parts early, and the first few windows lie far apart."""


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive requests of a trace.

    Attributes:
        requests: in the order of the trace.
        before: the requests of the trace right before them, as many as the scenario says.
    """

    requests: tuple[Request, ...]
    before: tuple[Request, ...]


def chosen(scenario: Scenario, trace: Sequence[Request], count: int, prompts: str, seed: int) -> Window:
    """Return the ``count`` requests that a run with ``seed`` serves by ``prompts``, one of :data:`PROMPTS`.

    Raises:
        EvaluationError: the trace is too short.
    """
    if prompts == "first":
        return first(scenario, trace, count)
    if prompts == "all-lengths":
        scenario = replace(scenario, longest_prompt=MOST_TOKENS)
    return drawn(scenario, trace, count, seed)


def first(scenario: Scenario, trace: Sequence[Request], count: int) -> Window:
    """Return the first ``count`` requests after those that fill the caches.

    Raises:
        EvaluationError: the trace is too short.
    """
    return Window(tuple(select(scenario, trace, count)), tuple(trace[: scenario.warm_requests]))


def numbered(scenario: Scenario, trace: Sequence[Request], count: int, number: int) -> Window:
    """Return group ``number``, from 0, of ``count`` requests each; after the last group the first one follows.

    Raises:
        EvaluationError: the trace is too short for one group.
    """
    start = number % max(1, groups(scenario, trace, count)) * count
    return of_requests(scenario, trace, select(scenario, trace, start + count)[start:])


def drawn(scenario: Scenario, trace: Sequence[Request], count: int, seed: int) -> Window:
    """Return the group of ``count`` requests that belongs to ``seed``.

    As many consecutive seeds as there are groups have one each, and few of them are spread over the whole trace.

    Raises:
        EvaluationError: the trace is too short for one group.
    """
    available = max(1, groups(scenario, trace, count))
    near = max(1, round(GOLDEN * available))
    stride = next(step for step in range(near, 0, -1) if gcd(step, available) == 1)
    return numbered(scenario, trace, count, seed * stride)


def placements(scenario: Scenario, window: Window) -> dict[int, Placement]:
    """Return the prefill unit of each request of ``window``, and what it reuses there."""
    units = len(scenario.cluster.units)
    return place(window.requests, units, window.before, scenario.cache_blocks, scenario.hot_prefixes)


def groups(scenario: Scenario, trace: Sequence[Request], count: int) -> int:
    """Return how many groups of ``count`` requests the trace has."""
    return len(eligible(scenario, trace)) // count


def of_requests(scenario: Scenario, trace: Sequence[Request], requests: Sequence[Request]) -> Window:
    """Return the window of ``requests``, which are consecutive in ``trace`` but for those that are too long."""
    index = requests[0].index - trace[0].index
    return Window(tuple(requests), tuple(trace[index - scenario.warm_requests : index]))
