"""Which unit computes a request and what it reuses, planned before the run so that every policy gets the same work.

A placement by the units' queues or momentary cache contents would depend on how fast the network is, and so would the
bytes and the computation that a policy is judged by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mfs_eval.errors import ServingError
from mfs_eval.serving.prefix_cache import PrefixCache, Reuse
from mfs_eval.serving.trace import Request


@dataclass(frozen=True, slots=True)
class Placement:
    """Placement of a request.

    Attributes:
        unit: number of the prefill unit.
        reuse: what that unit does not have to compute.
    """

    unit: int
    reuse: Reuse


@dataclass(frozen=True, slots=True)
class HotPrefixes:
    """One unit holds the prefixes that all units need. The others keep neither KV that they fetch nor what follows it.

    Attributes:
        unit: the unit that holds the prefixes and has served all earlier requests.
        share: share of each prompt that the unit holds before the run, 0 to 1, in whole blocks from the beginning.

    Raises:
        ServingError: ``share`` is out of range.
    """

    unit: int
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ServingError(f"the share of a prompt that is held must be from 0 to 1, it is {self.share:g}")

    def prefix(self, request: Request) -> tuple[int, ...]:
        """Return the blocks of ``request`` that are held before the run."""
        return request.blocks[: int(self.share * len(request.blocks))]


def place(
    requests: Iterable[Request],
    units: int,
    served_before: Iterable[Request] = (),
    cache_blocks: int | None = None,
    hot_prefixes: HotPrefixes | None = None,
) -> dict[int, Placement]:
    """Return the placement of each request by index.

    In the order of the trace, each request goes to the unit with the fewest new tokens so far; the lowest number wins
    ties. New tokens are those that the request does not reuse there.

    A prefix counts as held as soon as the request that computes it is placed, even if in the run a later request needs
    it before it is computed. Only then is the work the same under every policy. Arrival times are ignored.

    Args:
        requests: the workload, in the order of the trace.
        units: number of prefill units, at least 1.
        served_before: requests whose KV blocks the units hold at the beginning.
        cache_blocks: KV blocks that a unit can hold; None means no limit.
        hot_prefixes: prefixes that only one unit holds. None if units have served earlier requests in turn and keep
            what they fetch.

    Raises:
        ServingError: there is no unit, the unit of the hot prefixes does not exist, or ``cache_blocks`` is negative.
    """
    if units < 1:
        raise ServingError(f"placement needs at least one prefill unit, there are {units}")
    requests = tuple(requests)
    caches = PrefixCache(units, cache_blocks)
    if hot_prefixes is None:
        caches.warm(served_before)
    else:
        if not 0 <= hot_prefixes.unit < units:
            raise ServingError(f"unit {hot_prefixes.unit} cannot hold prefixes; units are 0 to {units - 1}")
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
