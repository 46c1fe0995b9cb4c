"""Who gets what of the links: strict priority between levels, max-min fair within one, nothing left idle.

A flow crosses some links, and has a level at each (the same everywhere, where all places rank alike). Each link makes
an *offer* to each of its flows, and a flow sends at the least of its offers, or at its cap if that is less. A link goes
through its levels from the top: of what is left, flows that take less elsewhere get what they take, and the others
equal parts (progressive filling); that part is its offer to all of the level. When nothing changes any more, every
flow is held back by a full link where nobody of its level has more than it, and nobody of a lower one has anything:
where levels are the same at all links, that is *the* max-min fair allocation with strict priority (Bertsekas and
Gallager, Data Networks, section 6.5; by offers of links: Charny, Clark and Jain, ICC 1995). Where they differ, several
allocations can satisfy this; which one it is depends on what was before.

What an event touches is served anew, and then what that changes: nothing else. All of it is compiled; the state is
arrays, changed in place. Rates are in bytes per nanosecond, times in nanoseconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from host_agent.protocol.stamp import LEVELS
from mfs_eval.flow_level.compiled import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_HOPS = 6
"""Links of the longest path: up and down three tiers."""
NONE = -1
TOLERANCE = 1e-9
"""Offers that differ by less than this part of the link's capacity count as equal."""
PATIENCE = 200
"""So many times per link that an event touched it may be served before offers are damped; only where places disagree
on levels do they ever go round in circles."""

# Indices of `Shares.counts`.
QUEUE_FIRST, QUEUED, TOUCHED, HEAP, SERVED, UNSETTLED, FLOWS = range(7)


class Shares(NamedTuple):
    """The state of an allocation. A *hop* is a flow on a link: number ``flow * MAX_HOPS + position on its path``.

    Attributes:
        capacity: of each link.
        in_order: of each link, whether it serves flows of a level one after the other, the oldest first, as a queue
            that holds whole flows does.
        first: of each link, its newest hop; :data:`NONE` without any.
        waiting: of each link, whether it waits to be served.
        queue: the links that wait, as a ring.
        link: of each hop.
        after, before: of each hop, its neighbours on the link.
        level: of each hop, 0 to LEVELS - 1.
        offer: of each hop.
        hops: of each flow; 0: there is no such flow.
        cap: of each flow, its greatest rate.
        rate: of each flow, since ``since``.
        left: bytes of each flow at ``since``.
        since: of each flow, when its rate changed last.
        finish: of each flow, when it ends if nothing changes; infinite while it stands.
        touched: flows whose offers changed since rates were settled.
        is_touched: of each flow.
        heap: flows by ``finish``, the earliest first.
        place: of each flow, where in the heap it is.
        some_hops, some_demands: room for the hops of one link.
        starts, filled: of each level, where its hops are there.
        counts: see the constants.
    """

    capacity: Floats
    in_order: Flags
    first: Ints
    waiting: Flags
    queue: Ints
    link: Ints
    after: Ints
    before: Ints
    level: Ints
    offer: Floats
    hops: Ints
    cap: Floats
    rate: Floats
    left: Floats
    since: Floats
    finish: Floats
    touched: Ints
    is_touched: Flags
    heap: Ints
    place: Ints
    some_hops: Ints
    some_demands: Floats
    starts: Ints
    filled: Ints
    counts: Ints


def shares(capacity: Floats, flows: int) -> Shares:
    """Links without flows, and room for ``flows`` of them."""
    links, hops = len(capacity), flows * MAX_HOPS
    return Shares(
        capacity=np.asarray(capacity, np.float64),
        in_order=np.zeros(links, np.bool_),
        first=np.full(links, NONE),
        waiting=np.zeros(links, np.bool_),
        queue=np.zeros(max(1, links), np.int64),
        link=np.full(hops, NONE),
        after=np.full(hops, NONE),
        before=np.full(hops, NONE),
        level=np.zeros(hops, np.int64),
        offer=np.full(hops, np.inf),
        hops=np.zeros(flows, np.int64),
        cap=np.full(flows, np.inf),
        rate=np.zeros(flows),
        left=np.zeros(flows),
        since=np.zeros(flows),
        finish=np.full(flows, np.inf),
        touched=np.zeros(flows, np.int64),
        is_touched=np.zeros(flows, np.bool_),
        heap=np.zeros(flows, np.int64),
        place=np.full(flows, NONE),
        some_hops=np.zeros(flows, np.int64),
        some_demands=np.zeros(flows),
        starts=np.zeros(LEVELS, np.int64),
        filled=np.zeros(LEVELS, np.int64),
        counts=np.zeros(7, np.int64),
    )


def grown(state: Shares, flows: int) -> Shares:
    """The same with room for ``flows`` flows, more than before; ``state`` is not to be used any more."""
    wider = shares(state.capacity, flows)
    per_link = {"in_order", "first", "waiting", "queue", "starts", "filled", "counts"}
    for name, new in wider._asdict().items():
        old = getattr(state, name)
        if name in per_link:
            new[:] = old
        elif name != "capacity":
            new[: len(old)] = old
    return wider


@compiled
def add(state: Shares, flows: Ints, paths: Ints, levels: Ints, sizes: Floats, now: float) -> None:
    """New flows, of free numbers.

    Args:
        state: changed.
        flows: their numbers.
        paths: a row each: the links, then :data:`NONE`.
        levels: a row each, as ``paths``.
        sizes: bytes to send.
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
        _heap_push(state, flow)


@compiled
def remove(state: Shares, flow: int) -> None:
    """``flow`` is over; its number is free."""
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
    _heap_remove(state, flow)


@compiled
def set_level(state: Shares, hop: int, level: int) -> None:
    """The level of one hop."""
    if state.level[hop] != level:
        state.level[hop] = level
        _wait(state, state.link[hop])


@compiled
def set_cap(state: Shares, flow: int, cap: float) -> None:
    """The greatest rate of ``flow``, above 0."""
    if state.cap[flow] != cap:
        state.cap[flow] = cap
        _touch(state, flow)
        for hop in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
            _wait(state, state.link[hop])


@compiled
def settle(state: Shares, now: float) -> int:
    """Serve what waits until nothing changes; rates are then in force from ``now`` on.

    Returns:
        how many times a link was served.
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
    state.counts[SERVED] += served
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
        _heap_move(state, state.place[flow])
    state.counts[TOUCHED] = 0
    return served


@compiled
def finished(state: Shares, now: float, out: Ints) -> int:
    """Write the numbers of the flows that have ended by ``now`` to ``out`` and remove them; returns how many."""
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
    """When the first flow ends if nothing changes; infinite if none does."""
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
    """What ``flow`` can send by its cap and by all of its links but that of the hop ``without``."""
    least: float = state.cap[flow]
    for hop in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
        if hop != without:
            least = min(least, state.offer[hop])
    return least


@compiled
def _serve(state: Shares, link: int, damped: bool) -> None:
    """The offers of ``link``, made anew."""
    # The hops by level, each level's together: a counting sort.
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
    """Where no common shares were found: all flows of ``link`` give way in proportion, so that they fit."""
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
    """Progressive filling of ``free`` among demands: the equal part, and what is left over (0 unless all have enough).

    ``free`` is above 0. Where all have enough, the part is what one of them could rise to. What is left and not above
    ``least`` counts as nothing.
    """
    part = free / (end - begin)
    content = 0
    while True:
        taken, most, now_content = 0.0, 0.0, 0
        for at in range(begin, end):
            if demands[at] <= part:
                taken += demands[at]
                most = max(most, demands[at])
                now_content += 1
        if now_content == end - begin:
            left = max(0.0, free - taken)
            return most + left, left if left > least else 0.0
        if now_content <= content:  # fewer by rounding alone
            return part, 0.0
        content = now_content
        part = (free - taken) / (end - begin - content)


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
    # Another link of the flow cares if this offer is, or was, less than all that restricts the flow elsewhere.
    for other in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
        if other != hop:
            rest = state.cap[flow]
            for third in range(flow * MAX_HOPS, flow * MAX_HOPS + state.hops[flow]):
                if third != hop and third != other:
                    rest = min(rest, state.offer[third])
            if min(rest, offer) != min(rest, old):
                _wait(state, state.link[other])


@compiled
def _heap_push(state: Shares, flow: int) -> None:
    place = state.counts[HEAP]
    state.counts[HEAP] += 1
    state.heap[place] = flow
    state.place[flow] = place
    _heap_move(state, place)


@compiled
def _heap_remove(state: Shares, flow: int) -> None:
    place = state.place[flow]
    state.counts[HEAP] -= 1
    last = state.heap[state.counts[HEAP]]
    state.place[flow] = NONE
    if last != flow:
        state.heap[place] = last
        state.place[last] = place
        _heap_move(state, place)


@compiled
def _heap_move(state: Shares, place: int) -> None:
    """Put what is at ``place`` where it belongs."""
    heap, finish = state.heap, state.finish
    flow = heap[place]
    while place:
        parent = (place - 1) // 2
        if finish[heap[parent]] <= finish[flow]:
            break
        heap[place] = heap[parent]
        state.place[heap[place]] = place
        place = parent
    while True:
        child = 2 * place + 1
        if child >= state.counts[HEAP]:
            break
        if child + 1 < state.counts[HEAP] and finish[heap[child + 1]] < finish[heap[child]]:
            child += 1
        if finish[flow] <= finish[heap[child]]:
            break
        heap[place] = heap[child]
        state.place[heap[place]] = place
        place = child
    heap[place] = flow
    state.place[flow] = place
