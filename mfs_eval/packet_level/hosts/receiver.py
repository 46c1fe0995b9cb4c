"""The receiving half of the transport: puts segments in order and makes acknowledgements."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from mfs_eval.packet_level.hosts.segment_header import (
    ACK,
    ACK_LAYOUT,
    ACK_REQUEST,
    CE_ECHO,
    FIN,
    RETRANSMISSION,
    Ack,
    with_arrival,
)
from mfs_eval.packet_level.hosts.transport import MAX_AHEAD, TransportCounters

T = TypeVar("T")


class ReceivingEnd(Protocol):
    """What a host needs of the receiving half of a connection, whichever transport it belongs to."""

    def packed_ack(self) -> bytes:
        """Return an acknowledgement of what has arrived as bytes."""
        ...


class Receiver(Generic[T]):
    """The receiving half of one connection; ``T`` is the owner's type of a segment's payload.

    Attributes:
        complete: whether everything up to the last segment has arrived.
        ack_due: whether an acknowledgement, made by :meth:`ack`, is due.
        counters: counts duplicate, reordered and marked segments.
    """

    __slots__ = (
        "_bitmap", "_ce", "_cumulative", "_fin", "_held", "_highest", "ack_due", "complete", "connection",
        "counters",
    )  # fmt: skip

    def __init__(self, connection: int, counters: TransportCounters | None = None) -> None:
        self.connection = connection
        self.counters = counters or TransportCounters()
        self.complete = False
        self.ack_due = False
        self._cumulative = 0
        self._highest = -1
        self._bitmap = 0
        self._held: dict[int, T] = {}
        self._fin = -1
        self._ce = False

    def on_segment(self, sequence: int, flags: int, item: T, ce: bool = False) -> tuple[T, ...]:
        """Process a segment and return the items that are now in order, each exactly once.

        ``flags`` are those of the header; ``ce`` says that the segment carries a congestion mark.
        """
        if ce:
            self._ce = True
            self.counters.marked += 1
        if flags & ACK_REQUEST:
            self.ack_due = True
        cumulative = self._cumulative
        if sequence < cumulative or sequence in self._held:
            self.counters.duplicates += 1
            self.ack_due = True  # its acknowledgement was lost
            return ()
        ahead = sequence - self._highest
        if ahead > 0:
            if sequence - cumulative >= MAX_AHEAD:
                return ()
            if ahead > 1:
                self.ack_due = True  # report the gap early
            self._highest = sequence
        elif not flags & RETRANSMISSION:
            self.counters.reordered += 1
        self._bitmap = with_arrival(self._bitmap, ahead)
        if flags & FIN:
            self._fin = sequence
        if sequence != cumulative:
            self._held[sequence] = item
            return ()
        ready = [item]
        cumulative += 1
        while self._held and cumulative in self._held:
            ready.append(self._held.pop(cumulative))
            cumulative += 1
        self._cumulative = cumulative
        self.complete = cumulative - 1 == self._fin
        return tuple(ready)

    def has(self, sequence: int) -> bool:
        """Return whether the segment has arrived."""
        return sequence < self._cumulative or sequence in self._held

    def ack(self) -> Ack:
        """Return the acknowledgement of what has arrived, which may be nothing."""
        flags = ACK | CE_ECHO if self._ce else ACK
        self._ce = False
        self.ack_due = False
        return Ack(flags, self.connection, self._cumulative, max(self._highest, 0), self._bitmap)

    def packed_ack(self) -> bytes:
        """Return :meth:`ack` as bytes."""
        return ACK_LAYOUT.pack(*self.ack())
