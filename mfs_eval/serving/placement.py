"""Which unit computes a request, and what it reuses: a plan made before the run, so that every policy has equal work.

A placement that looked at the units' queues, or at what they hold at that moment, would depend on how fast the network
was, and so would the bytes and the computing that a policy is judged by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mfs_eval.errors import ServingError
from mfs_eval.serving.prefix_cache import PrefixCache, Reuse
from mfs_eval.serving.trace import Request


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request is computed.

    Attributes:
        unit: number of the prefill unit.
        reuse: what that unit need not compute.
    """

    unit: int
    reuse: Reuse


@dataclass(frozen=True, slots=True)
class HotPrefixes:
    """One unit holds the prefixes that all want, and alone: no other keeps KV that it fetched, nor what follows it.

    Attributes:
        unit: the unit that holds them, and that served all earlier requests.
        share: how much of each prompt it holds before the run, counted in whole blocks from the begin; 0 to 1.

    Raises:
        ServingError: ``share`` is out of range.
    """

    unit: int
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ServingError(f"the share of a prompt that is held must be 0 to 1, it is {self.share:g}")

    def prefix(self, request: Request) -> tuple[int, ...]:
        """The blocks of ``request`` that are held before the run."""
        return request.blocks[: int(self.share * len(request.blocks))]


def place(
    requests: Iterable[Request],
    units: int,
    served_before: Iterable[Request] = (),
    cache_blocks: int | None = None,
    hot_prefixes: HotPrefixes | None = None,
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
        hot_prefixes: what one unit alone holds; None: units served earlier requests in turn, and keep what they fetch.

    Raises:
        ServingError: there is no unit, none that could hold the hot prefixes, or ``cache_blocks`` is negative.
    """
    if units < 1:
        raise ServingError(f"requests need at least one prefill unit to be placed at, there are {units}")
    requests = tuple(requests)
    caches = PrefixCache(units, cache_blocks)
    if hot_prefixes is None:
        caches.warm(served_before)
    else:
        if not 0 <= hot_prefixes.unit < units:
            raise ServingError(f"prefixes cannot be held by unit {hot_prefixes.unit}; units are 0 to {units - 1}")
        for request in served_before:
            caches.insert(hot_prefixes.unit, request.blocks)
        for request in requests:
            caches.insert(hot_prefixes.unit, hot_prefixes.prefix(request))
    new_tokens = [0] * units
    placements: dict[int, Placement] = {}
    for request in requests:
        unit = new_tokens.index(min(new_tokens))
        reuse = caches.reuse(unit, request)
        new_tokens[unit] += request.prompt_tokens - reuse.tokens
        if hot_prefixes is None or reuse.holder is None:
            caches.insert(unit, request.blocks)
        placements[request.index] = Placement(unit, reuse)
    return placements
