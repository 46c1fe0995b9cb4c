"""Which unit computes a request, and what it reuses: a plan made before the run, so that every policy has equal work.

A placement that looked at the units' queues, or at what they hold at that moment, would depend on how fast the network
was, and so would the bytes and the computing that a policy is judged by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evaluation.errors import ServingError
from evaluation.prefix_cache import PrefixCache, Reuse
from evaluation.trace import Request


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request is computed.

    Attributes:
        unit: number of the prefill unit.
        reuse: what that unit need not compute.
    """

    unit: int
    reuse: Reuse


def place(
    requests: Iterable[Request], units: int, served_before: Iterable[Request] = (), cache_blocks: int | None = None
) -> dict[int, Placement]:
    """The placement of each request, by its index.

    In the order of the trace, each request goes to the unit that has been given the fewest new tokens so far, the
    lowest number of equals. New are those tokens of the prompt that it does not reuse there.

    A prefix counts as held from the moment at which the request that computes it is placed, even where in the run a
    later request asks for it sooner than it is computed: only so is the work the same under every policy. Arrival
    times have no part in it.

    Args:
        requests: the workload, in the order of the trace.
        units: number of prefill units, at least 1.
        served_before: requests whose KV blocks the units hold at the begin.
        cache_blocks: KV blocks that a unit can hold; None is without limit.

    Raises:
        ServingError: there is no unit, or ``cache_blocks`` is negative.
    """
    if units < 1:
        raise ServingError(f"requests need at least one prefill unit to be placed at, there are {units}")
    caches = PrefixCache(units, cache_blocks)
    caches.warm(served_before)
    new_tokens = [0] * units
    placements: dict[int, Placement] = {}
    for request in requests:
        unit = new_tokens.index(min(new_tokens))
        reuse = caches.reuse(unit, request)
        new_tokens[unit] += request.prompt_tokens - reuse.tokens
        caches.insert(unit, request.blocks)
        placements[request.index] = Placement(unit, reuse)
    return placements
