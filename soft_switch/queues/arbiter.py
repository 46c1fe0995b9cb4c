"""Which of several queues sends next: strict priority, and a small guaranteed share for each.

The same decision is made at a switch port and in a host's network interface, so it lives here, in the base package.
It knows neither packets nor clocks. Its time is the count of bytes that all queues together have sent: a backlogged
queue of share ``s`` that was last settled at byte ``b`` falls *due* with a head of ``h`` bytes at byte ``b + h / s``.
The queue that fell due first goes first; while none is due, the highest busy queue goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

DEFAULT_SHARE = Fraction(1, 256)
"""The share that every queue is guaranteed unless it is given another."""

_NEVER = 1 << 62


class ArbiterError(ValueError):
    """Shares that cannot be guaranteed; the message says why."""


class PriorityArbiter:
    """Strict priority (the highest index first) with a guaranteed share per queue, work conserving.

    Over any time in which queue ``i`` is backlogged it gets at least ``share[i]`` of the bytes sent, less one packet
    of its own and, when all fall due at once, ``share[i]`` of one packet of each of the others. Its share is no
    credit for later: a queue that runs empty starts again. Only a queue that falls due overtakes a higher one.
    """

    __slots__ = ("_busy", "_cost", "_due", "_next_due", "_next_queue", "_sent")

    def __init__(self, shares: Sequence[Fraction | float]) -> None:
        """``shares``: one for each queue, fractions of the bytes sent; 0 guarantees nothing.

        Raises:
            ArbiterError: a share outside 0..1, or more than 1 in all.
        """
        exact = [Fraction(share).limit_denominator(1 << 20) for share in shares]
        if any(share < 0 for share in exact) or sum(exact) > 1:
            raise ArbiterError(
                f"guaranteed shares {[str(share) for share in exact]} must be 0 or more, together at most 1"
            )
        # Bytes that all queues may send for each byte of this one, as a fraction.
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
        """``queue`` was empty and now has a head of ``head_bytes``."""
        self._busy |= 1 << queue
        denominator, numerator = self._cost[queue]
        if numerator:
            self._due[queue] = due = self._sent + head_bytes * denominator // numerator
            if due < self._next_due:
                self._next_due = due
                self._next_queue = queue

    def choose(self) -> int:
        """The queue that sends next; -1 when all are empty."""
        if self._sent >= self._next_due:
            return self._next_queue
        return self._busy.bit_length() - 1

    def served(self, queue: int, sent_bytes: int, head_bytes: int) -> None:
        """``queue`` sent ``sent_bytes``; its next head has ``head_bytes``, 0 when it is empty now."""
        self._sent = sent = self._sent + sent_bytes
        if not head_bytes:
            self.emptied(queue)
            return
        denominator, numerator = self._cost[queue]
        if not numerator:
            return
        # Settled at its due byte if that is past; served beyond its share, it has no debt, but no credit either.
        due = self._due[queue]
        self._due[queue] = due = (due if due < sent else sent) + head_bytes * denominator // numerator
        if queue == self._next_queue:
            self._find_next()
        elif due < self._next_due:
            self._next_due = due
            self._next_queue = queue

    def emptied(self, queue: int) -> None:
        """``queue`` has nothing to send any more."""
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
            # One queue or none: the common case.
            self._next_queue = queue = busy.bit_length() - 1
            self._next_due = self._due[queue] if busy else _NEVER
