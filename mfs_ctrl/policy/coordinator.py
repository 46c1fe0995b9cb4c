"""Between batches: their order, which of them can make it in the worst case, and which requests to give up.

Pure: it knows loads and deadlines, and neither network nor clock. A decision keeps no state: each is made afresh from
what is there, so that a pruned request returns as soon as it can make it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from host_agent.protocol.units import NS_PER_S
from mfs_ctrl.policy.effective_deadline import robust_effective_deadline, split

Port = int
"""An egress port, numbered as the caller likes."""


@dataclass(frozen=True, slots=True)
class RequestLoad:
    """What one request of a batch still has to send, all of which is given up with it.

    Attributes:
        request: its number; a prompt that is computed in several batches has the same in each.
        deadline_ns: absolute.
        bytes_by_port: last-stage bytes, by each egress port that they pass.
    """

    request: int
    deadline_ns: int
    bytes_by_port: Mapping[Port, int]


@dataclass(frozen=True, slots=True)
class BatchLoad:
    """What a batch still has to do.

    Attributes:
        batch: its number.
        compute_ns: computing that is left.
        requests: those not finished, at least one.
        shared_bytes_by_port: early-stage bytes. The whole batch waits for them, so no pruning takes them away.
    """

    batch: int
    compute_ns: int
    requests: tuple[RequestLoad, ...]
    shared_bytes_by_port: Mapping[Port, int] = field(default_factory=dict)

    @property
    def red_ns(self) -> int:
        """The robust effective deadline of the requests, absolute."""
        return robust_effective_deadline(request.deadline_ns for request in self.requests)

    @property
    def bound_ns(self) -> int:
        """By when the batch has to finish in the worst case: its earliest loose deadline, absolute."""
        return split(request.deadline_ns for request in self.requests)[1][0]


@dataclass(frozen=True, slots=True)
class Decision:
    """Which requests go on, which are pruned, and when each batch ends then at the latest (by batch, absolute)."""

    kept: frozenset[int]
    pruned: frozenset[int]
    finish_ns: Mapping[int, int]


def rank(batches: Iterable[BatchLoad]) -> list[BatchLoad]:
    """``batches``, the lowest RED first; equal ones by number."""
    return sorted(batches, key=lambda batch: (batch.red_ns, batch.batch))


def finishes(
    batches: Iterable[BatchLoad], bandwidth_bps: Mapping[Port, int], now_ns: int, pruned: Collection[int] = ()
) -> dict[int, int]:
    """When each batch ends at the latest, absolute, with the requests ``pruned`` out of the way.

    In the order of RED, each batch waits at its most loaded port for all batches before it, as if nothing overlapped:
    now + its computing + the load of that port / ``bandwidth_bps`` of it (payload bits per second).
    """
    return _finishes(rank(batches), bandwidth_bps, now_ns, pruned)


def infeasible(
    batches: Sequence[BatchLoad], bandwidth_bps: Mapping[Port, int], now_ns: int, pruned: Collection[int] = ()
) -> frozenset[int]:
    """The batches that end after their bound in the worst case. One whose requests are all pruned has none to miss."""
    return _infeasible(rank(batches), bandwidth_bps, now_ns, pruned)


def prune(
    batches: Sequence[BatchLoad],
    bandwidth_bps: Mapping[Port, int],
    now_ns: int,
    drop_budget: float,
    departed: int = 0,
    departed_pruned: int = 0,
) -> Decision:
    """Give up requests until every batch can make it in the worst case, or until the budget is spent.

    Batches are walked in the order of RED. While one ends after its bound, the request (of those seen so far) that
    loads its bottleneck port most is pruned; where none does, the largest of its own. Then what was pruned in vain
    returns: last pruned first, each request without whose pruning no further batch becomes infeasible.

    Args:
        batches: all that are under way.
        bandwidth_bps: payload bits per second of each port that carries a load.
        now_ns: the time.
        drop_budget: share, 0 to 1, of all requests ever seen that may be pruned.
        departed: requests seen before that have left.
        departed_pruned: those of them that were pruned when they left.

    Raises:
        ValueError: the budget is not a share.
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
    """The requests that the walk prunes, in that order."""
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
            # Equal ones: the youngest.
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
    """When ``batch`` ends, and its bottleneck: of the ports that it uses itself the one with the longest ``load``."""
    waits = [
        (-(-load[port] * 8 * NS_PER_S // bandwidth_bps[port]), -port)
        for port, own in _bytes_of(batch, pruned).items()
        if own > 0
    ]
    wait_ns, port = max(waits, default=(0, 0))
    return now_ns + batch.compute_ns + wait_ns, -port
