"""The sending half of the transport: which segment goes next, what is in flight, and what is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from host_agent.protocol.stamp import LEVELS
from mfs_eval.packet_level.hosts.segment_header import ACK_REQUEST, CE_ECHO, FIN, RETRANSMISSION, SEQUENCE_MAX, Ack
from mfs_eval.packet_level.hosts.transport import (
    DEFAULT_RTO_NS,
    DEFAULT_WINDOW,
    MAX_AHEAD,
    MAX_BACKOFF,
    REORDERING_SEGMENTS,
    STRANDED_SHARE,
    TransportCounters,
    TransportError,
    check_message,
)


class Segment(NamedTuple):
    """A segment to send.

    Attributes:
        sequence: sequence number.
        offset, length: bytes of the flow's data.
        flags: see :mod:`mfs_eval.packet_level.hosts.segment_header`.
        starts_message: set on the first transmission of a message's first segment, and where a rescue starts.
    """

    sequence: int
    offset: int
    length: int
    flags: int
    starts_message: bool


class _Sent:
    """A segment that has not been acknowledged."""

    __slots__ = ("fin", "index", "length", "level", "offset", "sent_ns", "sequence")

    def __init__(self, sequence: int, offset: int, length: int, fin: int) -> None:
        self.sequence = sequence
        self.offset = offset
        self.length = length
        self.fin = fin
        self.index = 0  # number of segments that the flow had sent before, retransmissions included
        self.level = 0
        self.sent_ns = 0


class Sender:
    """The sending half of one connection.

    Attributes:
        window: segments that may be in flight at the flow's level or above; congestion marks halve it.
        unsent_bytes: bytes that are written and have to be sent, or sent again.
        sends_on: after :meth:`next_segment`, whether another segment can follow at the same level.
        counters: counts retransmissions and timeouts.
    """

    __slots__ = (
        "_acked_in_window", "_backoff", "_closed", "_cumulative", "_cut_index", "_fin_sent", "_head_bytes",
        "_in_flight", "_index", "_lost", "_message_starts", "_messages", "_next_offset", "_next_sequence",
        "_outstanding", "_reached", "_rescuing", "_rto_ns", "_segment_bytes", "_unrequested", "_window_limit",
        "counters", "sends_on", "unsent_bytes", "window",
    )  # fmt: skip

    def __init__(
        self,
        segment_bytes: int,
        window: int = DEFAULT_WINDOW,
        rto_ns: int = DEFAULT_RTO_NS,
        counters: TransportCounters | None = None,
    ) -> None:
        """Create a sender.

        Args:
            segment_bytes: payload of a full segment.
            window: largest window, in segments.
            rto_ns: retransmission timeout.
            counters: counters to share with other connections.

        Raises:
            TransportError: a value is not positive.
        """
        if segment_bytes < 1 or window < 1 or rto_ns < 1:
            raise TransportError(f"segment_bytes {segment_bytes}, window {window} and rto_ns {rto_ns} must be positive")
        self._segment_bytes = segment_bytes
        self._window_limit = window
        self._rto_ns = rto_ns
        self.window = window
        self.unsent_bytes = 0
        self.sends_on = False
        self.counters = counters or TransportCounters()
        # Unsent data: the rest of the current message, and the messages after it.
        self._head_bytes = 0
        self._message_starts = False
        self._messages: deque[int] = deque()
        self._closed = False
        self._fin_sent = False
        self._next_sequence = 0
        self._next_offset = 0
        # Segments in flight in the order of their latest transmission, and those believed lost.
        self._outstanding: dict[int, _Sent] = {}
        self._in_flight = [0] * LEVELS
        self._lost: dict[int, _Sent] = {}
        self._cumulative = 0
        self._index = 0
        # By level: the latest send index that is acknowledged.
        self._reached = [-1] * LEVELS
        self._unrequested = 0
        self._backoff = 0
        self._acked_in_window = 0
        self._cut_index = 0
        # Stranded segments have to be sent again, and the first of them has not been sent.
        self._rescuing = False

    def write(self, byte_count: int) -> None:
        """Append a message of ``byte_count`` bytes.

        Raises:
            TransportError: the flow is closed, the message is empty, or sequence numbers run out.
        """
        check_message(self._closed, byte_count)
        if self._next_sequence + (self.unsent_bytes + byte_count) // self._segment_bytes > SEQUENCE_MAX - MAX_AHEAD:
            raise TransportError(f"a flow has at most {SEQUENCE_MAX - MAX_AHEAD} segments; open another one")
        self.unsent_bytes += byte_count
        if self._head_bytes:
            self._messages.append(byte_count)
        else:
            self._head_bytes = byte_count
            self._message_starts = True

    def close(self) -> None:
        """Note that nothing more will be written. May be called twice."""
        self._closed = True

    @property
    def done(self) -> bool:
        """Whether the flow is closed and everything is acknowledged."""
        return self._fin_sent and not self._outstanding and not self._lost

    @property
    def in_flight(self) -> tuple[int, ...]:
        """Segments in flight, by the level at which they were sent."""
        return tuple(self._in_flight)

    @property
    def at_boundary(self) -> bool:
        """Whether the level may rise with the next segment, which starts a message or a rescue."""
        return self._rescuing or (self._message_starts and not self._lost)

    @property
    def waits_only(self) -> bool:
        """Whether everything is sent and only acknowledgements are missing."""
        return self._fin_sent and not self._lost

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of the segments in flight."""
        return sum(sent.length for sent in self._outstanding.values())

    def behind(self, level: int) -> dict[int, int]:
        """Return the bytes, by sequence number, of unacknowledged segments that were sent below ``level``."""
        return {
            sequence: sent.length
            for held in (self._outstanding, self._lost)
            for sequence, sent in held.items()
            if sent.level < level
        }

    def awaits(self, sequence: int) -> bool:
        """Return whether the segment has been sent but not acknowledged."""
        return sequence in self._outstanding or sequence in self._lost

    def rescue(self, now_ns: int, level: int) -> None:
        """Schedule what is stranded below ``level`` to be sent again, for a flow that has sent everything.

        Strict priority starves a low queue, so a flow that is promoted after its last segments have left would wait for
        a queue that it no longer belongs to. Only overdue segments are sent again; see :data:`STRANDED_SHARE`.
        """
        sent_before_ns = now_ns - self._rto_ns // STRANDED_SHARE
        stranded = [s.sequence for s in self._outstanding.values() if s.level < level and s.sent_ns <= sent_before_ns]
        self._lose(stranded)
        self._rescuing = bool(stranded)

    def can_send(self, level: int) -> bool:
        """Return whether :meth:`next_segment` returns a segment for this level."""
        if not self._lost and (
            not (self._head_bytes or (self._closed and not self._fin_sent))
            or self._next_sequence - self._cumulative >= MAX_AHEAD
        ):
            return False
        return self._window_open(level)

    def next_segment(self, now_ns: int, level: int) -> Segment | None:
        """Return the segment that leaves now at ``level``, lost ones first; None if there is none or no window."""
        if not self.can_send(level):
            return None
        starts_message = False
        if self._lost:
            sent = self._lost.pop(next(iter(self._lost)))
            self.unsent_bytes -= sent.length
            flags = RETRANSMISSION
            starts_message, self._rescuing = self._rescuing, False
            self.counters.retransmissions += 1
        else:
            sent, starts_message = self._cut()
            flags = 0
        sent.index = self._index
        sent.level = level
        sent.sent_ns = now_ns
        self._index += 1
        self._outstanding[sent.sequence] = sent
        self._in_flight[level] += 1
        self._unrequested += 1
        self.sends_on = sends_on = self.can_send(level)
        if not sends_on or 2 * self._unrequested >= self.window:
            flags |= ACK_REQUEST
            self._unrequested = 0
        return Segment(sent.sequence, sent.offset, sent.length, flags | sent.fin, starts_message)

    def on_ack(self, ack: Ack) -> bool:
        """Process an acknowledgement and return whether it contains news. Impossible ones are ignored."""
        ack_flags, _, cumulative, highest, bitmap = ack
        if cumulative > self._next_sequence or highest >= self._next_sequence:
            return False
        if cumulative > self._cumulative:
            self._cumulative = cumulative
        acked = 0
        for held in (self._outstanding, self._lost) if self._lost else (self._outstanding,):
            if cumulative > highest:
                here = [s for s in held if s < cumulative]
            else:
                here = [s for s in held if s < cumulative or (s <= highest and bitmap >> (highest - s) & 1)]
            for sequence in here:
                sent = held.pop(sequence)
                if held is self._outstanding:
                    self._in_flight[sent.level] -= 1
                else:
                    self.unsent_bytes -= sent.length
                if sent.index > self._reached[sent.level]:
                    self._reached[sent.level] = sent.index
                acked += 1
        if acked:
            self._backoff = 0
            # The segments to be rescued may have arrived after all.
            self._rescuing = self._rescuing and bool(self._lost)
            if cumulative <= highest:
                self._find_losses()
        marked = ack_flags & CE_ECHO
        if marked or self.window < self._window_limit:
            self._adapt_window(bool(marked), acked)
        return acked > 0

    @property
    def next_timeout_ns(self) -> int | None:
        """When :meth:`on_timeout` is due; None while nothing is in flight."""
        for sent in self._outstanding.values():
            return sent.sent_ns + (self._rto_ns << self._backoff)
        return None

    def on_timeout(self, now_ns: int) -> bool:
        """Declare the oldest segment in flight lost if it has timed out; return whether it has."""
        due_ns = self.next_timeout_ns
        if due_ns is None or now_ns < due_ns:
            return False
        self._lose((next(iter(self._outstanding)),))
        self._backoff = min(self._backoff + 1, MAX_BACKOFF)
        self.counters.timeouts += 1
        return True

    def _window_open(self, level: int) -> bool:
        return len(self._outstanding) < self.window or sum(self._in_flight[level:]) < self.window

    def _cut(self) -> tuple[_Sent, bool]:
        """Cut the next segment off the unsent data."""
        starts_message = self._message_starts
        length = min(self._head_bytes, self._segment_bytes)
        self._head_bytes -= length
        self.unsent_bytes -= length
        self._message_starts = False
        if not self._head_bytes and self._messages:
            self._head_bytes = self._messages.popleft()
            self._message_starts = True
        fin = FIN if self._closed and not self._head_bytes else 0
        self._fin_sent = bool(fin)
        sent = _Sent(self._next_sequence, self._next_offset, length, fin)
        self._next_sequence += 1
        self._next_offset += length
        return sent, starts_message

    def _find_losses(self) -> None:
        latest = [-1] * LEVELS  # by level: the latest index acknowledged at this level or below
        so_far = -1
        for level, index in enumerate(self._reached):
            so_far = max(so_far, index)
            latest[level] = so_far
        self._lose([s.sequence for s in self._outstanding.values() if latest[s.level] >= s.index + REORDERING_SEGMENTS])

    def _lose(self, sequences: Iterable[int]) -> None:
        for sequence in sequences:
            sent = self._outstanding.pop(sequence)
            self._in_flight[sent.level] -= 1
            self._lost[sequence] = sent
            self.unsent_bytes += sent.length

    def _adapt_window(self, marked: bool, acked: int) -> None:
        if marked:
            self._acked_in_window = 0
            # Once per window: not again before a segment that was sent after the cut is acknowledged.
            if max(self._reached) >= self._cut_index:
                self.window = max(1, self.window // 2)
                self._cut_index = self._index
        else:
            self._acked_in_window += acked
            if self._acked_in_window >= self.window:
                self._acked_in_window = 0
                self.window += 1
