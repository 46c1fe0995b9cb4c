"""Scheduling between batches: their order, their finish in the worst case, and which requests to prune.

Pure: it knows loads and deadlines, and neither network nor clock. Decisions keep no state. Each starts from the current
loads, so that a pruned request returns as soon as it can be in time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from host_agent.protocol.effective_deadline import robust_effective_deadline, split
from host_agent.protocol.units import NS_PER_S

Port = int
"""An egress port, in any numbering."""


@dataclass(frozen=True, slots=True)
class RequestLoad:
    """Load of one request of a batch, all of which is removed if the request is pruned.

    Attributes:
        request: its number; the same in all batches that compute parts of the prompt.
        deadline_ns: absolute.
        bytes_by_port: last-stage bytes left to send, by the egress ports that they pass.
    """

    request: int
    deadline_ns: int
    bytes_by_port: Mapping[Port, int]


@dataclass(frozen=True, slots=True)
class BatchLoad:
    """Remaining work of a batch.

    Attributes:
        batch: its number.
        compute_ns: compute time left.
        requests: the unfinished ones, at least one.
        shared_bytes_by_port: early-stage bytes. The whole batch waits for them, so pruning does not remove them.
    """

    batch: int
    compute_ns: int
    requests: tuple[RequestLoad, ...]
    shared_bytes_by_port: Mapping[Port, int] = field(default_factory=dict)

    @property
    def effective_deadline_ns(self) -> int:
        """The robust effective deadline of the requests, absolute."""
        return robust_effective_deadline(request.deadline_ns for request in self.requests)

    @property
    def bound_ns(self) -> int:
        """Latest acceptable finish in the worst case: the earliest loose deadline, absolute."""
        return split(request.deadline_ns for request in self.requests)[1][0]


@dataclass(frozen=True, slots=True)
class Decision:
    """Requests kept and pruned, and the latest finish of each batch (by batch, absolute)."""

    kept: frozenset[int]
    pruned: frozenset[int]
    finish_ns: Mapping[int, int]


def rank(batches: Iterable[BatchLoad]) -> list[BatchLoad]:
    """Return ``batches`` by effective deadline, then by number."""
    return sorted(batches, key=lambda batch: (batch.effective_deadline_ns, batch.batch))


def prune(
    batches: Sequence[BatchLoad],
    bandwidth_bps: Mapping[Port, int],
    now_ns: int,
    drop_budget: float,
    departed: int = 0,
    departed_pruned: int = 0,
) -> Decision:
    """Prune requests until every batch is in time in the worst case, or until the budget is spent.

    In the worst case nothing overlaps: in the order of effective deadlines, each batch waits at its most loaded port
    for all batches before it, and finishes at now + its compute time + that port's load / ``bandwidth_bps``.

    The walk goes through the batches in this order. While one finishes after its bound, the request seen so far that
    loads its bottleneck port most is pruned; if none loads it, the largest of the batch. Afterwards needless prunings
    are undone, the last one first: those without which no further batch is late.

    Args:
        batches: all batches under way.
        bandwidth_bps: payload bits per second of each port that carries a load.
        now_ns: the time.
        drop_budget: share, 0 to 1, of all requests ever seen that may be pruned.
        departed: requests seen before that have left.
        departed_pruned: how many of them were pruned when they left.

    Raises:
        ValueError: the budget is not in 0..1.
    """
    if not 0 <= drop_budget <= 1:
        raise ValueError(f"drop_budget is a share of 0..1, not {drop_budget}")
    requests = {request.request for batch in batches for request in batch.requests}
    # Rounded first: 0.29 x 100 must allow 29.
    allowed = math.floor(round(drop_budget * (departed + len(requests)), 6)) - departed_pruned
    ordered = rank(batches)
    walked = _walk(ordered, bandwidth_bps, now_ns, allowed)
    gone = frozenset(walked)
    missed = _infeasible(ordered, bandwidth_bps, now_ns, gone)
    for request in reversed(walked):
        if _infeasible(ordered, bandwidth_bps, now_ns, gone - {request}) <= missed:
            gone -= {request}
    return Decision(frozenset(requests - gone), gone, _finishes(ordered, bandwidth_bps, now_ns, gone))


def _finishes(
    ordered: Iterable[BatchLoad], bandwidth_bps: Mapping[Port, int], now_ns: int, pruned: Collection[int]
) -> dict[int, int]:
    load: Counter[Port] = Counter()
    finish: dict[int, int] = {}
    for batch in ordered:
        load.update(_bytes_of(batch, pruned))
        finish[batch.batch] = _finish(batch, load, bandwidth_bps, now_ns, pruned)[0]
    return finish


def _infeasible(
    ordered: Sequence[BatchLoad], bandwidth_bps: Mapping[Port, int], now_ns: int, pruned: Collection[int]
) -> frozenset[int]:
    finish = _finishes(ordered, bandwidth_bps, now_ns, pruned)
    return frozenset(
        batch.batch
        for batch in ordered
        if finish[batch.batch] > batch.bound_ns and any(request.request not in pruned for request in batch.requests)
    )


def _walk(ordered: Sequence[BatchLoad], bandwidth_bps: Mapping[Port, int], now_ns: int, allowed: int) -> list[int]:
    """Return the requests that the walk prunes, in order."""
    load: Counter[Port] = Counter()
    pruned: list[int] = []
    bytes_of: dict[int, Counter[Port]] = {}
    for batch in ordered:
        load.update(_bytes_of(batch, pruned))
        for request in batch.requests:
            bytes_of.setdefault(request.request, Counter()).update(request.bytes_by_port)
        while len(pruned) < allowed:
            own = [request.request for request in batch.requests if request.request not in pruned]
            finish_ns, port = _finish(batch, load, bandwidth_bps, now_ns, pruned)
            if not own or finish_ns <= batch.bound_ns:
                break
            kept = [request for request in bytes_of if request not in pruned]
            # Ties: the youngest.
            heaviest = max(kept, key=lambda request: (bytes_of[request][port], request))
            if not bytes_of[heaviest][port]:
                heaviest = max(own, key=lambda request: (bytes_of[request].total(), request))
            pruned.append(heaviest)
            load.subtract(bytes_of[heaviest])
    return pruned


def _bytes_of(batch: BatchLoad, pruned: Collection[int]) -> Counter[Port]:
    total = Counter(dict(batch.shared_bytes_by_port))
    for request in batch.requests:
        if request.request not in pruned:
            total.update(request.bytes_by_port)
    return total


def _finish(
    batch: BatchLoad,
    load: Mapping[Port, int],
    bandwidth_bps: Mapping[Port, int],
    now_ns: int,
    pruned: Collection[int],
) -> tuple[int, Port]:
    """Return the finish of ``batch`` and its bottleneck: the port with the longest ``load`` of those it uses."""
    waits = [
        (-(-load[port] * 8 * NS_PER_S // bandwidth_bps[port]), -port)
        for port, own in _bytes_of(batch, pruned).items()
        if own > 0
    ]
    wait_ns, port = max(waits, default=(0, 0))
    return now_ns + batch.compute_ns + wait_ns, -port
