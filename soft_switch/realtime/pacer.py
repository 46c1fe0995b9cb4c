"""When each port sends: at its link's rate, on a clock that is passed in. Pure: it knows neither sockets nor pipelines.

A computer that does other things too is late now and then. A port that is late sends its next frame as if the last had
left in time, so it keeps its rate; but only so much is made up for, and what is beyond that is link time lost.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush, heapreplace

CATCH_UP_NS = 20_000_000
"""How much link time a port makes up for in one go. Reading the switch's counters stops packets for about this long."""

Transmit = Callable[[int, int], tuple[bytes, int] | None]
"""(port, now in ns) to the frame that it sends now and its time on the link in ns; None when the port is idle."""


class Pacer:
    """Takes frames from ports when their links are free.

    Attributes:
        slipped_ns: of all ports, link time that was lost because :meth:`send_due` came too late.
        worst_ns: the greatest delay of a frame against its time so far.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        transmit: Transmit,
        send: Callable[[int, bytes], object],
        catch_up_ns: int = CATCH_UP_NS,
    ) -> None:
        """``clock`` gives nanoseconds; ``send`` takes (port, frame)."""
        self.slipped_ns = 0
        self.worst_ns = 0
        self._clock = clock
        self._transmit = transmit
        self._send = send
        self._catch_up_ns = catch_up_ns
        self._due: list[tuple[int, int]] = []
        self._busy: set[int] = set()

    @property
    def next_ns(self) -> int | None:
        """When the next link is free whose port may have something to send; None while all are idle."""
        return self._due[0][0] if self._due else None

    def wake(self, port: int) -> None:
        """``port`` has something to send: at once, if its link is free."""
        if port not in self._busy:
            self._busy.add(port)
            heappush(self._due, (self._clock(), port))

    def send_due(self, most: int) -> int:
        """Send what is due, the longest due first, at most ``most`` frames; how many were sent."""
        due, sent = self._due, 0
        while due and sent < most:
            now_ns = self._clock()
            free_ns, port = due[0]
            if free_ns > now_ns:
                break
            departure = self._transmit(port, now_ns)
            if departure is None:
                heappop(due)
                self._busy.discard(port)
                continue
            frame, duration_ns = departure
            late_ns = now_ns - free_ns
            if late_ns > self.worst_ns:
                self.worst_ns = late_ns
            if late_ns > self._catch_up_ns:
                self.slipped_ns += late_ns - self._catch_up_ns
                free_ns = now_ns - self._catch_up_ns
            heapreplace(due, (free_ns + duration_ns, port))
            self._send(port, frame)
            sent += 1
        return sent
