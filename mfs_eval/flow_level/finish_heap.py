"""A binary heap of flows by the time at which they end, with the place of each flow, in compiled code."""

from __future__ import annotations

from mfs_eval.flow_level.compiled import compiled
from mfs_eval.flow_level.shares import HEAP, NONE, Shares


@compiled
def push(state: Shares, flow: int) -> None:
    """Insert ``flow``."""
    place = state.counts[HEAP]
    state.counts[HEAP] += 1
    state.heap[place] = flow
    state.place[flow] = place
    restore(state, place)


@compiled
def discard(state: Shares, flow: int) -> None:
    """Remove ``flow``."""
    place = state.place[flow]
    state.counts[HEAP] -= 1
    last = state.heap[state.counts[HEAP]]
    state.place[flow] = NONE
    if last != flow:
        state.heap[place] = last
        state.place[last] = place
        restore(state, place)


@compiled
def restore(state: Shares, place: int) -> None:
    """Move the flow at ``place`` up or down to where its finish belongs."""
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
