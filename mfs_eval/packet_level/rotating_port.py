"""A port whose queues rotate: waiting packets rise by one level per period, as in a calendar queue.

It shows what a traffic manager would gain by promoting packets that are already enqueued. The queues from ``lowest`` to
the top form the calendar. At each turn, each of them moves to the place above it, and the top one, which must be empty,
moves to the lowest place. While the top one still holds packets, the turn is delayed. Queues below ``lowest`` stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from host_agent.protocol.stamp import SCAVENGER
from soft_switch.queues.traffic_manager import QUEUES, Dequeued, Port, PortConfigError, QueueConfig, wire_bytes

T = TypeVar("T")


class RotatingPort(Port[T]):
    """A :class:`Port` whose queues rotate every ``period_ns``, or as soon after that as the top one is empty.

    Limits and counters belong to places, not to the queues that move through them: a queue that moves to a place keeps
    its packets even beyond the limit there. Its guaranteed share restarts at each turn.
    """

    __slots__ = ("_free_ns", "_lowest", "_now_ns", "_period_ns", "_turn_ns", "turns")

    def __init__(
        self,
        rate_bps: int,
        queues: Sequence[QueueConfig] | None = None,
        *,
        period_ns: int,
        lowest: int = SCAVENGER + 1,
    ) -> None:
        """Create a port; ``lowest`` is the lowest queue of the calendar, by default the one above the scavenger.

        Raises:
            PortConfigError: as for a port, or the period or the lowest queue is out of range.
        """
        super().__init__(rate_bps, queues)
        if period_ns <= 0 or not 0 <= lowest < QUEUES - 1:
            raise PortConfigError(f"queues {lowest}..{QUEUES - 1} cannot rotate every {period_ns} ns")
        self._period_ns = period_ns
        self._lowest = lowest
        self._now_ns = self._free_ns = 0
        self._turn_ns = period_ns
        self.turns = 0

    def enqueue(self, item: T, length: int, priority: int, now_ns: int) -> bool:
        """See :meth:`Port.enqueue`."""
        self._take_turns(now_ns)
        return super().enqueue(item, length, priority, now_ns)

    def next(self) -> Dequeued[T] | None:
        """See :meth:`Port.next`."""
        self._take_turns(self._free_ns)
        return super().next()

    def transmission_ns(self, length: int) -> int:
        """See :meth:`Port.transmission_ns`. The call also says when the next packet will be needed."""
        duration = super().transmission_ns(length)
        self._free_ns = self._now_ns + duration
        return duration

    def _take_turns(self, now_ns: int) -> None:
        self._now_ns = now_ns = max(self._now_ns, now_ns)
        while now_ns >= self._turn_ns and not self._queues[-1]:
            self._turn()
            if not self._arbiter.busy >> self._lowest:
                # Nothing waits: skip turns that have no effect.
                self._turn_ns = max(self._turn_ns, now_ns)
            self._turn_ns += self._period_ns

    def _turn(self) -> None:
        self.turns += 1
        low = self._lowest
        calendar = range(low, QUEUES)
        for queue in calendar:
            if self._queues[queue]:
                self._arbiter.emptied(queue)
        self._queues[low:] = [self._queues[-1], *self._queues[low:-1]]
        self._bytes[low:] = [self._bytes[-1], *self._bytes[low:-1]]
        for queue in calendar:
            if self._queues[queue]:
                self._arbiter.backlogged(queue, wire_bytes(self._queues[queue][0][1]))
