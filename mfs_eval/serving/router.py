"""A cache-aware router that weighs the prefix that a unit holds against the unit's backlog.

Like :func:`mfs_eval.serving.placement.place` it plans before the run, in the order of the requests and without their
arrival times, so that every policy gets the same work. Backlogs are computed as if requests arrived exactly as fast as
all units together can compute them.
"""

from __future__ import annotations

from collections.abc import Iterable

from mfs_eval.errors import ServingError
from mfs_eval.serving.placement import Placement
from mfs_eval.serving.prefix_cache import PrefixCache
from mfs_eval.serving.trace import Request

FETCH_WEIGHT = 0.5
"""Cost of fetching a token's KV from another unit, relative to computing a token."""
WINDOW = 64
"""Backlogs drain at the rate of the mean work of this many previous requests."""


def route(
    requests: Iterable[Request],
    units: int,
    served_before: Iterable[Request] = (),
    cache_blocks: int | None = None,
    fetch_weight: float = FETCH_WEIGHT,
) -> dict[int, Placement]:
    """Return the placement of each request by index: the unit where new tokens, fetched tokens and backlog cost least.

    Args:
        requests: the workload, in the order of the trace.
        units: number of prefill units, at least 1.
        served_before: requests that were routed earlier; the caches hold their blocks.
        cache_blocks: KV blocks that a unit can hold; None means no limit.
        fetch_weight: see :data:`FETCH_WEIGHT`; 0 makes the router consider only load.

    Raises:
        ServingError: there is no unit, or ``cache_blocks`` is negative.
    """
    if units < 1:
        raise ServingError(f"routing needs at least one prefill unit, there are {units}")
    caches = PrefixCache(units, cache_blocks)
    _place(served_before, caches, units, fetch_weight)
    # Requests that were served earlier leave no backlog.
    return _place(requests, caches, units, fetch_weight)


def _place(requests: Iterable[Request], caches: PrefixCache, units: int, fetch_weight: float) -> dict[int, Placement]:
    backlog = [0.0] * units
    mean_work = 0.0
    placements: dict[int, Placement] = {}
    for number, request in enumerate(requests, 1):
        reuses = caches.reuses(request)
        costs = [
            backlog[unit] + request.prompt_tokens - reuse.tokens + fetch_weight * reuse.remote_tokens
            for unit, reuse in enumerate(reuses)
        ]
        unit = costs.index(min(costs))
        work = request.prompt_tokens - reuses[unit].tokens
        mean_work += (work - mean_work) / min(number, WINDOW)
        backlog[unit] += work
        backlog = [max(0.0, waiting - mean_work / units) for waiting in backlog]
        caches.insert(unit, request.blocks)
        placements[request.index] = Placement(unit, reuses[unit])
    return placements
