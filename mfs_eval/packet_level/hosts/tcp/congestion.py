"""CUBIC (RFC 9438) with slow start, and proportional rate reduction (RFC 6937). Windows are in segments."""

from __future__ import annotations

import math

C = 0.4
"""Segments per second cubed (RFC 9438, section 5)."""
BETA = 0.7
"""What a reduction leaves of the window (section 4.6)."""
ALPHA = 3 * (1 - BETA) / (1 + BETA)
"""Growth of the Reno-friendly estimate, in segments per window (section 4.3)."""
MAX_GROWTH = 1.5
"""Bound of the target over the window (section 4.2)."""
MIN_SSTHRESH = 2.0


class Cubic:
    """The congestion window of a connection. HyStart is not modelled.

    Attributes:
        cwnd: congestion window.
        ssthresh: slow-start threshold.
    """

    __slots__ = ("_epoch_cwnd", "_epoch_ns", "_estimate", "_k", "_last_w_max", "_second_ns", "_undo", "_w_max", "cwnd",
                 "ssthresh")  # fmt: skip

    def __init__(self, initial_window: int, second_ns: int) -> None:
        """Create a window. ``second_ns`` is a second of real time on the caller's clock, for CUBIC's constant."""
        self.cwnd = float(initial_window)
        self.ssthresh = math.inf
        self._second_ns = second_ns
        self._w_max = self._last_w_max = 0.0
        self._epoch_ns: int | None = None
        self._epoch_cwnd = self._estimate = self._k = 0.0
        self._undo: tuple[float, float] | None = None

    @property
    def slow_start(self) -> bool:
        """Whether the window is below the threshold."""
        return self.cwnd < self.ssthresh

    def on_ack(self, acked: int, now_ns: int, srtt_ns: int) -> None:
        """Grow by ``acked`` segments that have arrived, while the window is what limits the sender."""
        left = float(acked)
        if self.slow_start:
            grown = min(left, self.ssthresh - self.cwnd)
            self.cwnd += grown
            left -= grown
        if left <= 0 or self.slow_start:
            return
        if self._epoch_ns is None:
            self._epoch_ns = now_ns
            self._epoch_cwnd = self._estimate = self.cwnd
            self._w_max = max(self._w_max, self.cwnd)
            self._k = math.cbrt((self._w_max - self.cwnd) / C)
        target = self.cubic_window(now_ns - self._epoch_ns + srtt_ns)
        target = min(max(target, self.cwnd), MAX_GROWTH * self.cwnd)
        growth = ALPHA if self._estimate < self._w_max else 1.0
        self._estimate += growth * left / self.cwnd
        self.cwnd += (target - self.cwnd) / self.cwnd * left
        self.cwnd = max(self.cwnd, self._estimate)

    def cubic_window(self, elapsed_ns: int) -> float:
        """Return W_cubic of section 4.2, ``elapsed_ns`` after the start of the epoch."""
        return C * (elapsed_ns / self._second_ns - self._k) ** 3 + self._w_max

    def reduce(self) -> None:
        """Note a congestion event: remember the state for :meth:`undo`, lower the threshold, start a new epoch."""
        self._undo = (self.cwnd, self.ssthresh)
        self._epoch_ns = None
        # Fast convergence, section 4.7.
        self._w_max = self.cwnd * (1 + BETA) / 2 if self.cwnd < self._last_w_max else self.cwnd
        self._last_w_max = self.cwnd
        self.ssthresh = max(self.cwnd * BETA, MIN_SSTHRESH)

    def collapse(self, window: int) -> None:
        """Continue with ``window`` segments after a timeout."""
        self.cwnd = float(window)
        self._epoch_ns = None
        self._w_max = self._last_w_max = 0.0

    def undo(self) -> None:
        """Restore window and threshold from before :meth:`reduce`, which was a mistake (RFC 4015)."""
        if self._undo is not None:
            cwnd, ssthresh = self._undo
            self.cwnd = max(self.cwnd, cwnd)
            self.ssthresh = max(self.ssthresh, ssthresh)
            self._undo = None

    def idled(self, idle_ns: int) -> None:
        """Let the epoch stand still for an idle time. The window is kept: no slow start after idle."""
        if self._epoch_ns is not None:
            self._epoch_ns += idle_ns


class RateReduction:
    """Proportional rate reduction with slow-start reduction bound (RFC 6937) of one recovery."""

    __slots__ = ("_delivered", "_prior", "out")

    def __init__(self, prior_cwnd: float) -> None:
        """Start at the window ``prior_cwnd``."""
        self._prior = max(int(prior_cwnd), 1)
        self._delivered = 0
        self.out = 0

    def window(self, delivered: int, pipe: int, ssthresh: float, clean: bool) -> float | None:
        """Return the window after ``delivered`` more segments; None if it does not change.

        ``clean`` says that the cumulative acknowledgement advanced and no new loss was found.
        """
        if delivered <= 0:
            return None
        self._delivered += delivered
        target = int(ssthresh)
        if pipe > target:
            allowed = (target * self._delivered + self._prior - 1) // self._prior - self.out
        else:
            allowed = max(self._delivered - self.out, delivered) + clean
            allowed = min(target - pipe, allowed)
        return float(pipe + max(allowed, 0 if self.out else 1))
