"""The receiving half of the simulated TCP: delayed acknowledgements, SACK, DSACK, time stamps and PAWS."""

from __future__ import annotations

from mfs_eval.packet_level.hosts.segment_header import ACK, FIN, RETRANSMISSION, with_arrival
from mfs_eval.packet_level.hosts.tcp.header import NO_DUPLICATE, TCP_ACK_LAYOUT, TcpAck
from mfs_eval.packet_level.hosts.transport import TransportCounters
from mfs_eval.setup.run_settings import TcpSettings

DELAYED_ACK_TICKS = 40
"""Linux's shortest delay of an acknowledgement, in milliseconds."""
ACK_EVERY = 2
"""Segments in order that are acknowledged at once (RFC 5681, section 4.2)."""
PAWS_TICKS = 1
"""A time stamp may be older than the latest by this much (Linux's TCP_PAWS_WINDOW)."""


class TcpReceiver:
    """The receiving half of one connection. It keeps no payload: the application reads everything at once.

    Attributes:
        complete: whether everything up to the last segment has arrived.
        ack_due: whether an acknowledgement, made by :meth:`ack`, is due now.
        ack_by_ns: when a delayed acknowledgement is due; None without one.
        counters: counts duplicate, reordered and stale segments.
    """

    __slots__ = (
        "_ack_every", "_bitmap", "_cumulative", "_delay_ns", "_duplicate", "_fin", "_held", "_highest", "_last_acked",
        "_recent", "_timestamps", "_unacked", "ack_by_ns", "ack_due", "complete", "connection", "counters",
    )  # fmt: skip

    def __init__(self, connection: int, settings: TcpSettings, counters: TransportCounters | None = None) -> None:
        self.connection = connection
        self.counters = counters or TransportCounters()
        self.complete = False
        self.ack_due = False
        self.ack_by_ns: int | None = None
        self._timestamps = settings.timestamps
        merging = settings.merged_segments > 1
        self._ack_every = max(ACK_EVERY, settings.merged_segments)
        self._delay_ns = settings.merge_ns if merging else DELAYED_ACK_TICKS * settings.tick_ns
        self._cumulative = 0
        self._highest = -1
        self._bitmap = 0
        self._held: set[int] = set()
        self._fin = -1
        self._recent = 0
        self._last_acked = 0
        self._unacked = 0
        self._duplicate = NO_DUPLICATE

    def on_segment(self, sequence: int, flags: int, stamp: int, now_ns: int) -> bool:
        """Process a segment with the time stamp ``stamp``; return whether it is new.

        One that is stale (RFC 7323, section 5.3) is dropped and acknowledged.
        """
        if self._timestamps:
            if stamp < self._recent - PAWS_TICKS:
                self.counters.stale += 1
                self.ack_due = True
                if self.has(sequence):
                    self._duplicate = sequence
                return False
            if sequence <= self._last_acked:
                self._recent = max(self._recent, stamp)
        if self.has(sequence):
            self.counters.duplicates += 1
            self._duplicate = sequence
            self.ack_due = True
            return False
        if flags & FIN:
            self._fin = sequence
        ahead = sequence - self._highest
        if ahead > 0:
            self._highest = sequence
        elif not flags & RETRANSMISSION:
            self.counters.reordered += 1
        self._bitmap = with_arrival(self._bitmap, ahead)
        if self._held or sequence != self._cumulative:
            self.ack_due = True  # a gap, or a part of one that is filled
        self._held.add(sequence)
        while self._cumulative in self._held:
            self._held.remove(self._cumulative)
            self._cumulative += 1
        self.complete = 0 <= self._fin < self._cumulative
        self._unacked += 1
        if self._unacked >= self._ack_every:
            self.ack_due = True
        elif self.ack_by_ns is None:
            self.ack_by_ns = now_ns + self._delay_ns
        return True

    def has(self, sequence: int) -> bool:
        """Return whether the segment has arrived."""
        return sequence < self._cumulative or sequence in self._held

    def ack(self) -> TcpAck:
        """Return the acknowledgement of what has arrived, which may be nothing."""
        duplicate, self._duplicate = self._duplicate, NO_DUPLICATE
        self.ack_due = False
        self.ack_by_ns = None
        self._unacked = 0
        self._last_acked = self._cumulative
        return TcpAck(
            ACK, self.connection, self._cumulative, max(self._highest, 0), self._bitmap, self._recent, duplicate
        )

    def packed_ack(self) -> bytes:
        """Return :meth:`ack` as bytes."""
        return TCP_ACK_LAYOUT.pack(*self.ack())
