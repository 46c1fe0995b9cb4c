"""Load of an interface by traffic that goes first: the rho of the urgency formula, as a host measures it."""

from __future__ import annotations

from host_agent.protocol.units import LOAD_LIMIT, NS_PER_S


class LoadMeter:
    """Exponentially smoothed load of a link, computed from counted bytes. Times are in nanoseconds."""

    __slots__ = ("_bytes", "_interval_ns", "_rate_bps", "_since_ns", "_weight", "load")

    def __init__(self, rate_bps: int, interval_ns: int = 20_000_000, weight: float = 0.2) -> None:
        """Create a meter; ``weight`` is that of the newest interval, above 0 and at most 1."""
        self.load = 0.0
        self._rate_bps = rate_bps
        self._interval_ns = interval_ns
        self._weight = weight
        self._bytes = 0
        self._since_ns = 0

    def count(self, byte_count: int) -> None:
        """Count ``byte_count`` wire bytes of traffic that goes first."""
        self._bytes += byte_count

    def update(self, now_ns: int) -> bool:
        """Update the load from the counted bytes if an interval is over; return whether it was updated."""
        elapsed_ns = now_ns - self._since_ns
        if elapsed_ns < self._interval_ns:
            return False
        now_load = self._bytes * 8 * NS_PER_S / (self._rate_bps * elapsed_ns)
        # A long pause counts as several intervals with its mean load.
        weight = 1 - (1 - self._weight) ** (elapsed_ns // self._interval_ns)
        self.load = min(LOAD_LIMIT, self.load + weight * (now_load - self.load))
        self._bytes = 0
        self._since_ns = now_ns
        return True
