"""Both ends of a reliable connection that goes back N: what arrives out of order is dropped, and asked for again."""

from __future__ import annotations

from collections import deque

from mfs_eval.packet_level.hosts.rocev2.header import SEGMENT_BYTES, SEQUENCES, acknowledgement, ahead
from mfs_eval.packet_level.hosts.segment_header import ACK_REQUEST, FIN, RETRANSMISSION
from mfs_eval.packet_level.hosts.sender import Segment
from mfs_eval.packet_level.hosts.transport import MAX_BACKOFF, TransportCounters, TransportError


class QueuePairEnd:
    """The sending end of a queue pair, which serves one flow after the other.

    Attributes:
        number: of the destination queue pair.
        sequence: of the next packet.
    """

    __slots__ = ("number", "sequence")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence = 0


class _Packet:
    """A packet that is not acknowledged."""

    __slots__ = ("ends", "fin", "length", "level", "message", "offset", "sent_ns", "sequence", "starts")

    def __init__(
        self, sequence: int, offset: int, length: int, message: int, starts: bool, ends: bool, fin: bool
    ) -> None:
        self.sequence = sequence
        self.offset = offset
        self.length = length
        self.message = message
        self.starts = starts
        self.ends = ends
        self.fin = fin
        self.level = 0
        self.sent_ns = 0


class RdmaSender:
    """The sending half of a flow: a :class:`~mfs_eval.packet_level.hosts.sending_end.SendingEnd`.

    There is no limit of retries, and no congestion control but the window.

    Attributes:
        pair: the queue pair that the flow has for itself while it lasts.
        last: the packet that :meth:`next_segment` returned.
    """

    def __init__(self, window: int, rto_ns: int, counters: TransportCounters, pair: QueuePairEnd) -> None:
        self.pair = pair
        self.counters = counters
        self.unsent_bytes = 0
        self.sends_on = False
        self.last: _Packet | None = None
        self._window = window
        self._rto_ns = rto_ns
        self._messages: deque[int] = deque()
        self._sent_of_message = 0
        self._offset = 0
        self._closed = False
        self._fin_sent = False
        self._unacknowledged: deque[_Packet] = deque()
        # Packets from this place on are to be sent again.
        self._again = 0
        self._unrequested = 0
        self._backoff = 0

    def write(self, byte_count: int) -> None:
        """Append a message.

        Raises:
            TransportError: the flow is closed, or the message is empty.
        """
        if self._closed or byte_count < 1:
            raise TransportError(f"a message of {byte_count} bytes cannot be written; the flow is open until close()")
        self._messages.append(byte_count)
        self.unsent_bytes += byte_count

    def close(self) -> None:
        """Note that nothing more will be written."""
        self._closed = True

    @property
    def done(self) -> bool:
        """Whether everything is sent and acknowledged."""
        return self._closed and not self._messages and not self._unacknowledged

    @property
    def at_boundary(self) -> bool:
        """Whether the next packet begins a message."""
        if self._again < len(self._unacknowledged):
            return self._unacknowledged[self._again].starts
        return not self._sent_of_message

    @property
    def waits_only(self) -> bool:
        """A NIC does not send anything again before it has to."""
        return False

    @property
    def in_flight(self) -> int:
        """Packets that are sent and not acknowledged."""
        return self._again

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of the packets in flight."""
        return sum(packet.length for packet in list(self._unacknowledged)[: self._again])

    def behind(self, level: int) -> dict[int, int]:
        """Return the bytes, by sequence number, of packets in flight below ``level``."""
        sent = list(self._unacknowledged)[: self._again]
        return {packet.sequence: packet.length for packet in sent if packet.level < level}

    def awaits(self, sequence: int) -> bool:
        """Return whether the packet is not acknowledged."""
        return any(packet.sequence == sequence for packet in self._unacknowledged)

    def rescue(self, now_ns: int, level: int) -> None:
        """Do nothing; see :attr:`waits_only`."""

    def can_send(self, level: int) -> bool:  # noqa: ARG002
        """Return whether the window is open and there is something to send."""
        return self._again < self._window and (self._again < len(self._unacknowledged) or bool(self._messages))

    def next_segment(self, now_ns: int, level: int) -> Segment | None:
        """Return the packet that leaves now; the details are in :attr:`last`."""
        if not self.can_send(level):
            return None
        flags = 0
        if self._again < len(self._unacknowledged):
            packet = self._unacknowledged[self._again]
            flags = RETRANSMISSION
            self.counters.retransmissions += 1
            self.unsent_bytes -= packet.length
        else:
            packet = self._cut()
            self._unacknowledged.append(packet)
        self._again += 1
        packet.level = level
        packet.sent_ns = now_ns
        self.last = packet
        self._unrequested += 1
        self.sends_on = self.can_send(level)
        if not self.sends_on or 2 * self._unrequested >= self._window:
            flags |= ACK_REQUEST
            self._unrequested = 0
        return Segment(
            packet.sequence,
            packet.offset,
            packet.length,
            flags | (FIN if packet.fin else 0),
            packet.starts and not flags & RETRANSMISSION,
        )

    def acknowledged(self, sequence: int, negative: bool) -> None:
        """Process an acknowledgement up to ``sequence``, or a negative one, which asks for it and what follows."""
        upto = (sequence - 1) % SEQUENCES if negative else sequence
        while self._unacknowledged and ahead(upto, self._unacknowledged[0].sequence) >= 0:
            packet = self._unacknowledged.popleft()
            if self._again:
                self._again -= 1
            else:
                self.unsent_bytes -= packet.length
            self._backoff = 0
        if negative and self._again:
            self.counters.go_backs += 1
            self._go_back()

    @property
    def next_timeout_ns(self) -> int | None:
        """When :meth:`on_timeout` is due; None while nothing is in flight."""
        if not self._again:
            return None
        return self._unacknowledged[0].sent_ns + (self._rto_ns << self._backoff)

    def on_timeout(self, now_ns: int) -> bool:
        """Send everything in flight again if the oldest packet has timed out; return whether it has."""
        due_ns = self.next_timeout_ns
        if due_ns is None or now_ns < due_ns:
            return False
        self._backoff = min(self._backoff + 1, MAX_BACKOFF)
        self.counters.timeouts += 1
        self._go_back()
        return True

    def _go_back(self) -> None:
        self.unsent_bytes += self.in_flight_bytes
        self._again = 0
        self._unrequested = 0

    def _cut(self) -> _Packet:
        message = self._messages[0]
        starts = not self._sent_of_message
        length = min(SEGMENT_BYTES, message - self._sent_of_message)
        self._sent_of_message += length
        self.unsent_bytes -= length
        ends = self._sent_of_message == message
        if ends:
            self._messages.popleft()
            self._sent_of_message = 0
        fin = ends and self._closed and not self._messages
        packet = _Packet(self.pair.sequence, self._offset, length, message, starts, ends, fin)
        self.pair.sequence = (self.pair.sequence + 1) % SEQUENCES
        self._offset += length
        return packet


class RdmaReceiver:
    """The receiving end of a queue pair.

    Attributes:
        ack_due: whether an acknowledgement is due.
    """

    __slots__ = ("_asked", "_expected", "_negative", "ack_due", "counters", "number")

    def __init__(self, number: int, counters: TransportCounters) -> None:
        self.number = number
        self.counters = counters
        self.ack_due = False
        self._expected = 0
        self._negative = False
        # Once asked for what is missing, a receiver waits for it.
        self._asked = False

    def on_packet(self, sequence: int, ack_request: bool) -> bool:
        """Process a packet; return whether it was the expected one. Others are dropped."""
        gap = ahead(sequence, self._expected)
        if gap < 0:
            self.counters.duplicates += 1
            self.ack_due = True
            return False
        if gap:
            self.counters.reordered += 1
            if not self._asked:
                self._asked = self._negative = self.ack_due = True
            return False
        self._expected = (self._expected + 1) % SEQUENCES
        self._asked = self._negative = False
        self.ack_due = self.ack_due or ack_request
        return True

    def packed_ack(self) -> bytes:
        """Return the acknowledgement that is due."""
        negative, self._negative, self.ack_due = self._negative, False, False
        return acknowledgement(self.number, self._expected if negative else (self._expected - 1) % SEQUENCES, negative)
