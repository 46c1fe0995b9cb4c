"""Round trips and the retransmission timeout (RFC 6298) as Linux computes them."""

from __future__ import annotations

MAX_RTO_TICKS = 120_000
"""The timeout doubles up to 120 s."""


class RttEstimator:
    """Smoothed round trip, its deviation, and the timeout.

    Linux differs from RFC 6298, section 2, in that the minimum is one of the deviation's term, not of the sum:
    ``RTO = SRTT + max(4 RTTVAR, minimum)``. A deviation decays once per round trip; here, once per ``SRTT``.

    Attributes:
        srtt_ns: smoothed round trip; None before the first sample.
        min_ns: shortest round trip; None before the first sample.
        backoff: how often the timeout has doubled.
    """

    __slots__ = ("_deviation", "_max_rto_ns", "_peak", "_round_ns", "_rto_min_ns", "_variation", "backoff", "min_ns",
                 "srtt_ns")  # fmt: skip

    def __init__(self, rto_min_ns: int, tick_ns: int) -> None:
        """Create an estimator with the minimum ``rto_min_ns``; ``tick_ns`` is a millisecond of the host's clock."""
        self.srtt_ns: int | None = None
        self.min_ns: int | None = None
        self.backoff = 0
        self._rto_min_ns = rto_min_ns
        self._max_rto_ns = MAX_RTO_TICKS * tick_ns
        # Four times the mean deviation; its peak in this round trip; the smoothed peak, which counts.
        self._deviation = 0
        self._peak = self._variation = rto_min_ns
        self._round_ns = 0

    @property
    def rto_ns(self) -> int:
        """The timeout. Before the first sample it is the minimum, as after a handshake over an idle network."""
        return min(((self.srtt_ns or 0) + self._variation) << self.backoff, self._max_rto_ns)

    def sample(self, rtt_ns: int, now_ns: int) -> None:
        """Take a measured round trip and end the back-off."""
        self.backoff = 0
        rtt_ns = max(rtt_ns, 1)
        self.min_ns = rtt_ns if self.min_ns is None else min(self.min_ns, rtt_ns)
        if self.srtt_ns is None:
            self.srtt_ns = rtt_ns
            self._deviation = 2 * rtt_ns
            self._variation = self._peak = max(self._deviation, self._rto_min_ns)
            self._round_ns = now_ns + rtt_ns
            return
        error = rtt_ns - self.srtt_ns
        self.srtt_ns += error // 8
        if error < 0:
            # A shorter round trip widens the deviation only slowly (Linux, tcp_rtt_estimator).
            change = -error - self._deviation // 4
            self._deviation += change // 8 if change > 0 else change
        else:
            self._deviation += error - self._deviation // 4
        if self._deviation > self._peak:
            self._peak = self._deviation
            self._variation = max(self._variation, self._peak)
        if now_ns >= self._round_ns:
            if self._peak < self._variation:
                self._variation -= (self._variation - self._peak) // 4
            self._round_ns = now_ns + self.srtt_ns
            self._peak = self._rto_min_ns

    def back_off(self) -> None:
        """Double the timeout (RFC 6298, section 5.5)."""
        if self.rto_ns < self._max_rto_ns:
            self.backoff += 1
