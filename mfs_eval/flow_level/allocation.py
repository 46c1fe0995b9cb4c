"""Shares of links: strict priority between levels, max-min fair within a level, work-conserving.

A flow crosses several links and has a level at each of them (the same at all, if all places rank alike). Each link
makes an *offer* to each of its flows, and a flow sends at the least of its offers and its cap. A link serves its levels
from the top. Within a level, flows that are limited elsewhere get what they can use and the others get equal parts of
the rest (progressive filling); that part is the link's offer to the whole level. At the fixed point, each flow is
limited by a full link at which no flow of its level has a higher rate and no flow of a lower level has any. If levels
are the same at all links, this is *the* max-min fair allocation with strict priority (Bertsekas and Gallager, Data
Networks, section 6.5; by offers of links: Charny, Clark and Jain, ICC 1995). If they differ, several allocations can
satisfy this, and the result depends on the history.

Only links that an event touches are served again, then the links that this affects. All of it is compiled. Rates are in
bytes per nanosecond, times in nanoseconds.
"""

from __future__ import annotations

import numpy as np

from host_agent.protocol.stamp import LEVELS
from mfs_eval.flow_level import finish_heap
from mfs_eval.flow_level.compiled import compiled
from mfs_eval.flow_level.shares import (
    FLOWS,
    HEAP,
    MAX_HOPS,
    NONE,
    QUEUE_FIRST,
    QUEUED,
    TOUCHED,
    UNSETTLED,
    Floats,
    Ints,
    Shares,
)

TOLERANCE = 1e-9
"""Offers that differ by less than this share of the link's capacity count as equal."""
PATIENCE = 200
"""Times that links may be served, per link that an event touched, before offers are damped. Only where places disagree
on levels can offers oscillate."""


@compiled
def add(state: Shares, flows: Ints, paths: Ints, levels: Ints, sizes: Floats, now: float) -> None:
    """Add flows.

    Args:
        state: changed in place.
        flows: their numbers, which must be free.
        paths: one row per flow: its links, then :data:`NONE`.
        levels: one row per flow: its level at each link.
        sizes: bytes to send, per flow.
        now: the time.
    """
    for row in range(len(flows)):
        flow = flows[row]
        count = 0
        for position in range(paths.shape[1]):
            link = paths[row, position]
            if link < 0:
                break
            hop = flow * MAX_HOPS + position
            state.link[hop] = link
            state.level[hop] = levels[row, position]
            state.offer[hop] = np.inf
            following = state.first[link]
            state.after[hop] = following
            state.before[hop] = NONE
            if following >= 0:
                state.before[following] = hop
            state.first[link] = hop
            _wait(state, link)
            count += 1
        state.hops[flow] = count
        state.cap[flow] = np.inf
        state.rate[flow] = 0.0
        state.left[flow] = sizes[row]
        state.since[flow] = now
        state.finish[flow] = np.inf
        state.counts[FLOWS] += 1
        _touch(state, flow)
        finish_heap.push(state, flow)


@compiled
def remove(state: Shares, flow: int) -> None:
    """Remove ``flow`` and free its number."""
    for hop in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
        link, following, former = state.link[hop], state.after[hop], state.before[hop]
        if former >= 0:
            state.after[former] = following
        else:
            state.first[link] = following
        if following >= 0:
            state.before[following] = former
        _wait(state, link)
    state.hops[flow] = 0
    state.rate[flow] = 0.0
    state.counts[FLOWS] -= 1
    finish_heap.discard(state, flow)


@compiled
def set_level(state: Shares, hop: int, level: int) -> None:
    """Set the level of one hop."""
    if state.level[hop] != level:
        state.level[hop] = level
        _wait(state, state.link[hop])


@compiled
def set_cap(state: Shares, flow: int, cap: float) -> None:
    """Limit the rate of ``flow`` to ``cap``, which must be above 0."""
    if state.cap[flow] != cap:
        state.cap[flow] = cap
        _touch(state, flow)
        for hop in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
            _wait(state, state.link[hop])


@compiled
def settle(state: Shares, now: float) -> int:
    """Serve the waiting links until nothing changes; the new rates apply from ``now`` on.

    Returns:
        Number of times that a link was served.
    """
    served = 0
    patience = PATIENCE * (1 + state.counts[QUEUED])
    while state.counts[QUEUED]:
        link = state.queue[state.counts[QUEUE_FIRST]]
        state.counts[QUEUE_FIRST] = (state.counts[QUEUE_FIRST] + 1) % len(state.queue)
        state.counts[QUEUED] -= 1
        state.waiting[link] = False
        served += 1
        _serve(state, link, served > patience)
        if served > 2 * patience:
            state.counts[UNSETTLED] += 1
            while state.counts[QUEUED]:
                link = state.queue[state.counts[QUEUE_FIRST]]
                state.waiting[link] = False
                state.counts[QUEUE_FIRST] = (state.counts[QUEUE_FIRST] + 1) % len(state.queue)
                state.counts[QUEUED] -= 1
                _fit(state, link)
    for index in range(state.counts[TOUCHED]):
        flow = state.touched[index]
        state.is_touched[flow] = False
        if not state.hops[flow]:
            continue
        rate = state.cap[flow]
        for hop in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
            rate = min(rate, state.offer[hop])
        if rate == state.rate[flow]:
            continue
        state.left[flow] = max(0.0, state.left[flow] - state.rate[flow] * (now - state.since[flow]))
        state.since[flow] = now
        state.rate[flow] = rate
        state.finish[flow] = now + state.left[flow] / rate if rate > 0.0 else np.inf
        finish_heap.restore(state, state.place[flow])
    state.counts[TOUCHED] = 0
    return served


@compiled
def finished(state: Shares, now: float, out: Ints) -> int:
    """Remove the flows that have ended by ``now``, write their numbers to ``out``, and return how many they are."""
    count = 0
    while state.counts[HEAP] and count < len(out):
        flow = state.heap[0]
        if state.finish[flow] > now:
            break
        remove(state, flow)
        out[count] = flow
        count += 1
    return count


def next_finish(state: Shares) -> float:
    """Return when the first flow ends if nothing changes; infinity if none does."""
    return float(state.finish[state.heap[0]]) if state.counts[HEAP] else float("inf")


@compiled
def _wait(state: Shares, link: int) -> None:
    if not state.waiting[link]:
        state.waiting[link] = True
        state.queue[(state.counts[QUEUE_FIRST] + state.counts[QUEUED]) % len(state.queue)] = link
        state.counts[QUEUED] += 1


@compiled
def _touch(state: Shares, flow: int) -> None:
    if not state.is_touched[flow]:
        state.is_touched[flow] = True
        state.touched[state.counts[TOUCHED]] = flow
        state.counts[TOUCHED] += 1


@compiled
def _least_but(state: Shares, flow: int, without: int) -> float:
    """Return the rate that the cap of ``flow`` and all its links but the one of hop ``without`` allow."""
    least: float = state.cap[flow]
    for hop in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
        if hop != without:
            least = min(least, state.offer[hop])
    return least


@compiled
def _serve(state: Shares, link: int, damped: bool) -> None:
    """Recompute the offers of ``link``."""
    # Group the hops by level: a counting sort.
    start, filled = state.starts, state.filled
    start[:] = 0
    hop = state.first[link]
    while hop >= 0:
        start[state.level[hop]] += 1
        hop = state.after[hop]
    begin = 0
    for level in range(LEVELS - 1, -1, -1):
        size = start[level]
        start[level] = filled[level] = begin
        begin += size
    hop = state.first[link]
    while hop >= 0:
        level = state.level[hop]
        state.some_hops[filled[level]] = hop
        filled[level] += 1
        hop = state.after[hop]
    capacity = state.capacity[link]
    free = capacity
    for level in range(LEVELS - 1, -1, -1):
        begin, end = start[level], filled[level]
        if begin == end:
            continue
        if state.in_order[link]:
            for at in range(end - 1, begin - 1, -1):
                hop = state.some_hops[at]
                _make_offer(state, hop, free, capacity, damped)
                free -= min(free, _least_but(state, hop // MAX_HOPS, hop))
                if free <= TOLERANCE * capacity:
                    free = 0.0
            continue
        offer = 0.0
        if free > 0.0:
            for at in range(begin, end):
                hop = state.some_hops[at]
                state.some_demands[at] = _least_but(state, hop // MAX_HOPS, hop)
            offer, free = _fill(state.some_demands, begin, end, free, TOLERANCE * capacity)
        for at in range(begin, end):
            _make_offer(state, state.some_hops[at], offer, capacity, damped)


@compiled
def _fit(state: Shares, link: int) -> None:
    """Scale the flows of ``link`` down in proportion so that they fit, because no consistent shares were found."""
    total = 0.0
    hop = state.first[link]
    while hop >= 0:
        total += min(state.offer[hop], _least_but(state, hop // MAX_HOPS, hop))
        hop = state.after[hop]
    if total > state.capacity[link]:
        hop = state.first[link]
        while hop >= 0:
            rate = min(state.offer[hop], _least_but(state, hop // MAX_HOPS, hop))
            state.offer[hop] = rate * state.capacity[link] / total
            _touch(state, hop // MAX_HOPS)
            hop = state.after[hop]


@compiled
def _fill(demands: Floats, begin: int, end: int, free: float, least: float) -> tuple[float, float]:
    """Divide ``free``, above 0, among demands by progressive filling: return the equal part and the remainder.

    If every demand is met, the part is the rate that one of them could rise to. Otherwise the remainder is 0. A
    remainder of at most ``least`` counts as 0.
    """
    part = free / (end - begin)
    met = 0
    while True:
        taken, most, met_now = 0.0, 0.0, 0
        for at in range(begin, end):
            if demands[at] <= part:
                taken += demands[at]
                most = max(most, demands[at])
                met_now += 1
        if met_now == end - begin:
            left = max(0.0, free - taken)
            return most + left, left if left > least else 0.0
        if met_now <= met:  # fewer only because of rounding
            return part, 0.0
        met = met_now
        part = (free - taken) / (end - begin - met)


@compiled
def _make_offer(state: Shares, hop: int, offer: float, capacity: float, damped: bool) -> None:
    old = state.offer[hop]
    if damped and old != np.inf:
        offer = (old + offer) / 2
    if abs(offer - old) <= TOLERANCE * capacity and (offer != 0.0 or old == 0.0):
        return
    state.offer[hop] = offer
    flow = hop // MAX_HOPS
    _touch(state, flow)
    # Another link is affected only if this offer is, or was, the least of the flow's limits apart from that link's.
    for other in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
        if other != hop:
            rest = state.cap[flow]
            for third in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
                if third != hop and third != other:
                    rest = min(rest, state.offer[third])
            if min(rest, offer) != min(rest, old):
                _wait(state, state.link[other])
