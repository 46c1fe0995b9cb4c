"""The virtual clock: a discrete-event loop in integer nanoseconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, TypeVarTuple

from soft_switch.errors import SwitchError

Ts = TypeVarTuple("Ts")

_NEVER = 1 << 100


class ClockError(SwitchError):
    """A call was scheduled in the past."""


class VirtualClock:
    """Event loop in virtual time; callbacks of the same time run in the order in which they were scheduled.

    All methods except :meth:`call_soon` belong to the thread that runs the clock.

    Attributes:
        now_ns: the time of the callback that runs or, between runs, of the last one. It starts at 0.
    """

    __slots__ = ("_arrivals", "_count", "_events", "now_ns")

    def __init__(self) -> None:
        self.now_ns = 0
        self._events: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0
        self._arrivals: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def call_at(self, time_ns: int, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``function(*args)`` at ``time_ns``.

        Raises:
            ClockError: ``time_ns`` is in the past.
        """
        if time_ns < self.now_ns:
            raise ClockError(f"cannot schedule a call for {time_ns} ns: it is already {self.now_ns} ns")
        self._count = count = self._count + 1
        heappush(self._events, (time_ns, count, function, args))

    def call_after(self, delay_ns: int, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``function(*args)`` after ``delay_ns``; see :meth:`call_at`."""
        self.call_at(self.now_ns + delay_ns, function, *args)

    def call_soon(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``function(*args)`` at the present time; from any thread, also while the clock runs.

        A call that arrives after the last event of a run waits for the next run.
        """
        self._arrivals.append((function, args))

    @property
    def pending(self) -> int:
        """Number of calls that are scheduled."""
        return len(self._events) + len(self._arrivals)

    @property
    def next_ns(self) -> int | None:
        """The time of the next call that is scheduled; None if there is none."""
        if self._arrivals:
            return self.now_ns
        return self._events[0][0] if self._events else None

    def run(self, until_ns: int | None = None) -> int:
        """Run until nothing is scheduled, or until ``until_ns``, calls at that time included.

        The clock then shows ``until_ns`` if given, otherwise at the last call. Returns the number of calls made.
        """
        events, arrivals = self._events, self._arrivals
        before = self._count - len(events)
        limit_ns = _NEVER if until_ns is None else until_ns
        while events or arrivals:
            while arrivals:
                function, args = arrivals.popleft()
                self.call_at(self.now_ns, function, *args)
            event = heappop(events)
            if event[0] > limit_ns:
                heappush(events, event)
                break
            self.now_ns = event[0]
            event[2](*event[3])
        if until_ns is not None and until_ns > self.now_ns:
            self.now_ns = until_ns
        return self._count - len(events) - before
