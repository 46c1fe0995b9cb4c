"""Which of several queues sends next: strict priority, and a small guaranteed share for each.

Pure logic without packets or clocks, for switch ports and hosts' network interfaces. Its time is the number of bytes
that all queues have sent: a backlogged queue of share ``s`` that was last settled at byte ``b`` falls *due* with a head
of ``h`` bytes at byte ``b + h / s``. The queue that fell due first goes first. While none is due, the highest busy
queue goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

DEFAULT_SHARE = Fraction(1, 256)
"""The guaranteed share of a queue by default."""

_NEVER = 1 << 62


class ArbiterError(ValueError):
    """The shares cannot be guaranteed; the message says why."""


class PriorityArbiter:
    """Work-conserving strict priority (the highest index first) with a guaranteed share per queue.

    While queue ``i`` is backlogged it gets at least ``share[i]`` of the bytes sent, less one of its packets. When all
    queues fall due at once, it may also miss ``share[i]`` of one packet of each of the others. An unused share is not
    saved: a queue that runs empty starts over. A queue overtakes a higher one only when it falls due.
    """

    __slots__ = ("_busy", "_cost", "_due", "_next_due", "_next_queue", "_sent")

    def __init__(self, shares: Sequence[Fraction | float]) -> None:
        """Create an arbiter; ``shares`` has a fraction of the bytes sent for each queue; 0 guarantees nothing.

        Raises:
            ArbiterError: a share is negative, or they add up to more than 1.
        """
        exact = [Fraction(share).limit_denominator(1 << 20) for share in shares]
        if any(share < 0 for share in exact) or sum(exact) > 1:
            raise ArbiterError(
                f"guaranteed shares {[str(share) for share in exact]} must be 0 or more and add up to at most 1"
            )
        # Bytes that all queues together may send for each byte of this one, as a fraction.
        self._cost = [(share.denominator, share.numerator) for share in exact]
        self._due = [_NEVER] * len(exact)
        self._busy = 0
        self._sent = 0
        self._next_due = _NEVER
        self._next_queue = -1

    @property
    def busy(self) -> int:
        """Bit mask of the queues that have something to send."""
        return self._busy

    def backlogged(self, queue: int, head_bytes: int) -> None:
        """Note that ``queue`` was empty and now has a head of ``head_bytes``."""
        self._busy |= 1 << queue
        denominator, numerator = self._cost[queue]
        if numerator:
            self._due[queue] = due = self._sent + head_bytes * denominator // numerator
            if due < self._next_due:
                self._next_due = due
                self._next_queue = queue

    def choose(self) -> int:
        """Return the queue that sends next; -1 if all are empty."""
        if self._sent >= self._next_due:
            return self._next_queue
        return self._busy.bit_length() - 1

    def served(self, queue: int, sent_bytes: int, head_bytes: int) -> None:
        """Note that ``queue`` sent ``sent_bytes``; its next head has ``head_bytes``, 0 if it is empty now."""
        self._sent = sent = self._sent + sent_bytes
        if not head_bytes:
            self.emptied(queue)
            return
        denominator, numerator = self._cost[queue]
        if not numerator:
            return
        # Settled at its due byte if that is past: service beyond its share creates neither debt nor credit.
        due = self._due[queue]
        self._due[queue] = due = (due if due < sent else sent) + head_bytes * denominator // numerator
        if queue == self._next_queue:
            self._find_next()
        elif due < self._next_due:
            self._next_due = due
            self._next_queue = queue

    def emptied(self, queue: int) -> None:
        """Note that ``queue`` has nothing left to send."""
        self._busy &= ~(1 << queue)
        self._due[queue] = _NEVER
        if queue == self._next_queue:
            self._find_next()

    def _find_next(self) -> None:
        busy = self._busy
        if busy & (busy - 1):
            self._next_due = due = min(self._due)
            self._next_queue = self._due.index(due)
        else:
            # The common case: one busy queue or none.
            self._next_queue = queue = busy.bit_length() - 1
            self._next_due = self._due[queue] if busy else _NEVER
