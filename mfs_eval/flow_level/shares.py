"""State of a bandwidth allocation: links, flows on them, and who comes next."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from host_agent.protocol.stamp import LEVELS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_HOPS = 6
"""Links of the longest path: up and down three tiers."""
NONE = -1

# Indices of `Shares.counts`.
QUEUE_FIRST, QUEUED, TOUCHED, HEAP, UNSETTLED, FLOWS = range(6)


class Shares(NamedTuple):
    """State of an allocation, as arrays that are changed in place.

    A *hop* is a flow on a link; its number is ``flow * MAX_HOPS + position on the flow's path``.

    Attributes:
        capacity: per link, bytes per nanosecond.
        in_order: per link, whether it serves the flows of a level one after the other, oldest first, like a queue that
            holds whole flows.
        first: per link, its newest hop, or :data:`NONE`.
        waiting: per link, whether it waits to be served.
        queue: the waiting links, as a ring.
        link: per hop.
        after, before: per hop, its neighbours on the link.
        level: per hop, 0 to LEVELS - 1.
        offer: per hop, the rate that the link offers.
        hops: per flow, number of hops; 0 if there is no such flow.
        cap: per flow, its greatest rate.
        rate: per flow, its rate since ``since``.
        left: per flow, its bytes at ``since``.
        since: per flow, when its rate last changed.
        finish: per flow, when it ends if nothing changes; infinite while its rate is 0.
        touched: flows whose offers changed since rates were last settled.
        is_touched: per flow, whether it is in ``touched``.
        heap: flows ordered by ``finish``, earliest first.
        place: per flow, its place in the heap.
        some_hops, some_demands: scratch space for the hops of one link.
        starts, filled: per level, where its hops are in ``some_hops``.
        counts: scalars; see the index constants above.
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
    """Return the state of links without flows, with space for ``flows`` flows."""
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
        counts=np.zeros(FLOWS + 1, np.int64),
    )


def grown(state: Shares, flows: int) -> Shares:
    """Return ``state`` with space for ``flows`` flows, more than before; ``state`` must not be used afterwards."""
    wider = shares(state.capacity, flows)
    per_link = {"in_order", "first", "waiting", "queue", "starts", "filled", "counts"}
    for name, new in wider._asdict().items():
        old = getattr(state, name)
        if name in per_link:
            new[:] = old
        elif name != "capacity":
            new[: len(old)] = old
    return wider
