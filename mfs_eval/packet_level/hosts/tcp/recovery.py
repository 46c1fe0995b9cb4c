"""Loss detection by time: RACK (RFC 8985) with the reordering window of Linux."""

from __future__ import annotations

MAX_STEPS = 255
"""Bound of the window in quarters of the shortest round trip."""
PERSISTENCE = 16
"""Recoveries without DSACK after which the window is a quarter of the shortest round trip again (section 6.2)."""
DUPLICATE_THRESHOLD = 3
"""Without reordering so far, this many selective acknowledgements make the window zero (section 6.2, step 4)."""


class Rack:
    """The most recently sent segment that has arrived, and how long after it another one counts as lost.

    Attributes:
        reordering_seen: whether a segment has arrived after one that was sent later.
        advanced: whether a segment has arrived since losses were last looked for.
    """

    __slots__ = ("_persist", "_rtt_ns", "_sent_ns", "_sequence", "_steps", "_widened_ns", "advanced",
                 "reordering_seen")  # fmt: skip

    def __init__(self) -> None:
        self.reordering_seen = False
        self.advanced = False
        self._sent_ns = -1
        self._sequence = -1
        self._rtt_ns = 0
        self._steps = 1
        self._persist = 0
        self._widened_ns = -1

    def delivered(self, sent_ns: int, sequence: int, retransmitted: bool, now_ns: int, min_rtt_ns: int) -> None:
        """Note an arrived segment by its latest transmission.

        A retransmission that seems to have taken less than ``min_rtt_ns`` is ignored: its original arrived.
        """
        rtt_ns = now_ns - sent_ns
        if retransmitted and rtt_ns < min_rtt_ns:
            return
        self.advanced = True
        self._rtt_ns = rtt_ns
        if (sent_ns, sequence) > (self._sent_ns, self._sequence):
            self._sent_ns, self._sequence = sent_ns, sequence

    def window_ns(self, recovering: bool, sacked: int, min_rtt_ns: int, srtt_ns: int) -> int:
        """Return the reordering window: quarters of the shortest round trip, at most a smoothed one.

        Args:
            recovering: whether losses are already being repaired.
            sacked: segments that have arrived out of order.
            min_rtt_ns: shortest round trip.
            srtt_ns: smoothed round trip.
        """
        if not self.reordering_seen and (recovering or sacked >= DUPLICATE_THRESHOLD):
            return 0
        return min(min_rtt_ns * self._steps // 4, srtt_ns)

    def lost_after_ns(self, sent_ns: int, sequence: int, now_ns: int, window_ns: int) -> int | None:
        """Return the time from now until a missing segment is lost, 0 if it is; None while nothing later arrived."""
        if (sent_ns, sequence) >= (self._sent_ns, self._sequence):
            return None
        return max(0, sent_ns + self._rtt_ns + window_ns - now_ns)

    def duplicate(self, now_ns: int, srtt_ns: int) -> None:
        """Widen the window after a DSACK, once per round trip."""
        if self._widened_ns < 0 or now_ns - self._widened_ns >= srtt_ns:
            self._widened_ns = now_ns
            self._steps = min(self._steps + 1, MAX_STEPS)
        self._persist = PERSISTENCE

    def recovered(self) -> None:
        """Note the end of a recovery."""
        self._persist = max(self._persist - 1, 0)
        if not self._persist:
            self._steps = 1
