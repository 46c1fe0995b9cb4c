"""Which flows may send now: at most a budget in flight to each destination, and one for all, for the most urgent flows.

Under strict priority, what a low level has in flight waits in the queues of host and switch, where nothing can promote
it and full queues drop it. What cannot be served now waits at its source instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SEGMENTS = 16
"""Budget in full segments, where the link is slow."""
INTERFACE_BUDGETS = 1.5
"""Budget of the interface, in budgets of a destination. What its own queue holds keeps its level there, so it holds
little; with 1 a flow whose destination is slow would stop the others."""
SPARE_S = 0.002
"""Time for which the budget lasts beyond a tick, in seconds: the tick may be late."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An open flow that is not complete.

    Attributes:
        slot: identity of the flow.
        destination: address to which it sends.
        level: its level now; the highest is served first.
        deadline_ns: orders flows of a level.
        in_flight: bytes sent and not acknowledged.
        unsent: bytes that it could send now.
    """

    slot: int
    destination: str
    level: int
    deadline_ns: int
    in_flight: int
    unsent: int


class Permit(NamedTuple):
    """What a flow may have in flight, in bytes; ``sustained``: also after acknowledgements, so that it goes on."""

    window: int
    sustained: bool


def budget_bytes(rate_bps: int, segment_bytes: int, tick_s: float) -> int:
    """Return the bytes that may be in flight to a destination: a fast link must not run dry between ticks.

    Args:
        rate_bps: rate of the link in bits per second.
        segment_bytes: payload of a full segment.
        tick_s: time between allocations in seconds.
    """
    return max(SEGMENTS * segment_bytes, round(rate_bps / 8 * (tick_s + SPARE_S)))


def allocate(flows: Sequence[Pending], budget: int, segment_bytes: int) -> dict[int, Permit]:
    """Return the permit of each flow, by slot.

    Flows get windows in the order of level (highest first), deadline and slot, as long as two budgets last: ``budget``
    for each destination, and :data:`INTERFACE_BUDGETS` times as much for the interface. A window covers what the flow
    has in flight, which is never taken back; the more urgent flows do not wait for it. Less than a segment is granted
    only to a flow that needs no more. A flow that has more in flight than is left for it gets a permit that is not
    sustained.
    """
    of_interface = round(INTERFACE_BUDGETS * budget)
    of_destination: dict[str, int] = defaultdict(lambda: budget)
    permits = {}
    for flow in sorted(flows, key=lambda each: (-each.level, each.deadline_ns, each.slot)):
        left = max(0, min(of_destination[flow.destination], of_interface))
        room = max(0, left - flow.in_flight)
        if room < flow.unsent:
            room -= room % segment_bytes
        window = flow.in_flight + min(flow.unsent, room)
        permits[flow.slot] = Permit(window, flow.in_flight <= left)
        of_destination[flow.destination] -= window
        of_interface -= window
    return permits
