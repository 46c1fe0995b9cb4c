"""When each port sends: at its link's rate, on a clock that is passed in. Pure: no sockets, no pipelines.

A computer with other work is sometimes late. A late port sends its next frame as if the previous one had
left in time, so it keeps its rate. Only a bounded delay is caught up; link time beyond that is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush, heapreplace

CATCH_UP_NS = 20_000_000
"""Link time that a port catches up at once; about as long as a read of the switch's counters stops packets."""

Transmit = Callable[[int, int], tuple[bytes, int] | None]
"""Maps (port, now in ns) to the frame that the port sends now and its time on the link in ns; None if it is idle."""


class Pacer:
    """Schedule that takes frames from ports when their links are free.

    Attributes:
        slipped_ns: link time of all ports that was lost because :meth:`send_due` was called too late.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        transmit: Transmit,
        send: Callable[[int, bytes], object],
        catch_up_ns: int = CATCH_UP_NS,
    ) -> None:
        """Create a pacer; ``clock`` gives nanoseconds; ``send`` takes (port, frame)."""
        self.slipped_ns = 0
        self._clock = clock
        self._transmit = transmit
        self._send = send
        self._catch_up_ns = catch_up_ns
        self._due: list[tuple[int, int]] = []
        self._busy: set[int] = set()

    @property
    def next_ns(self) -> int | None:
        """When the next link whose port may have something to send is free; None while all ports are idle."""
        return self._due[0][0] if self._due else None

    def wake(self, port: int) -> None:
        """Note that ``port`` has something to send: at once, if its link is free."""
        if port not in self._busy:
            self._busy.add(port)
            heappush(self._due, (self._clock(), port))

    def send_due(self, most: int) -> int:
        """Send at most ``most`` frames that are due, longest due first; return how many were sent."""
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
            if late_ns > self._catch_up_ns:
                self.slipped_ns += late_ns - self._catch_up_ns
                free_ns = now_ns - self._catch_up_ns
            heapreplace(due, (free_ns + duration_ns, port))
            self._send(port, frame)
            sent += 1
        return sent
