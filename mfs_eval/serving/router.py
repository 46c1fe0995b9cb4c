"""A router that knows the units' caches: a prefix that a unit holds against how much that unit has to do already.

As :func:`mfs_eval.serving.placement.place` it plans before the run, in the order of the requests and without their
arrival times, so that every policy has equal work. The units' backlogs are reckoned as if requests came just as fast as
all units together compute them.
"""

from __future__ import annotations

from collections.abc import Iterable

from mfs_eval.errors import ServingError
from mfs_eval.serving.placement import Placement
from mfs_eval.serving.prefix_cache import PrefixCache
from mfs_eval.serving.trace import Request

FETCH_WEIGHT = 0.5
"""What fetching a token's KV from another unit counts for, beside computing a token."""
WINDOW = 64
"""Backlogs are given up at the rate of the mean work of so many last requests."""


def route(
    requests: Iterable[Request],
    units: int,
    served_before: Iterable[Request] = (),
    cache_blocks: int | None = None,
    fetch_weight: float = FETCH_WEIGHT,
) -> dict[int, Placement]:
    """The placement of each request, by its index: where its new tokens, its fetched ones and the backlog are least.

    Args:
        requests: the workload, in the order of the trace.
        units: number of prefill units, at least 1.
        served_before: requests that were routed before; the caches hold their blocks.
        cache_blocks: KV blocks that a unit can hold; None is without limit.
        fetch_weight: see :data:`FETCH_WEIGHT`; 0 is a router by load alone.

    Raises:
        ServingError: there is no unit, or ``cache_blocks`` is negative.
    """
    if units < 1:
        raise ServingError(f"requests need at least one prefill unit to be routed to, there are {units}")
    caches = PrefixCache(units, cache_blocks)
    _place(served_before, caches, units, fetch_weight)
    # What was served before holds nobody up.
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
