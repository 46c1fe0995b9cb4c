"""The sending half of the simulated TCP: Linux's states from Open to Loss, with SACK, RACK-TLP, F-RTO and undo.

It knows no levels. A retransmission leaves at the level that its flow then has, segments that wait in lower queues
count as in flight, and nothing sends them again early. Segments are not cut anew when they are sent again.
"""

from __future__ import annotations

import enum
from collections import deque

from mfs_eval.packet_level.hosts.segment_header import FIN, RETRANSMISSION, SEQUENCE_MAX
from mfs_eval.packet_level.hosts.sender import Segment
from mfs_eval.packet_level.hosts.tcp.congestion import Cubic, RateReduction
from mfs_eval.packet_level.hosts.tcp.header import NO_DUPLICATE, TCP_SEGMENT_BYTES, TcpAck
from mfs_eval.packet_level.hosts.tcp.recovery import Rack
from mfs_eval.packet_level.hosts.tcp.rtt import RttEstimator
from mfs_eval.packet_level.hosts.tcp.scoreboard import News, Scoreboard, Sent
from mfs_eval.packet_level.hosts.tcp.undo import Undo
from mfs_eval.packet_level.hosts.transport import TransportCounters, TransportError, check_message
from mfs_eval.setup.run_settings import TcpSettings

TIMER_SLACK_TICKS = 2
"""What Linux adds to its reordering and probe timers, in milliseconds."""


class State(enum.IntEnum):
    """Linux's states of congestion control (without CWR, which ends at once without ECN)."""

    OPEN = 0
    DISORDER = 1
    RECOVERY = 2
    LOSS = 3


class Timer(enum.Enum):
    """What the connection's only timer is set for."""

    RETRANSMISSION = "retransmission"
    PROBE = "probe"
    REORDERING = "reordering"


class Connection:
    """What a connection learns about its path and keeps between flows: round trips, window, reordering."""

    __slots__ = ("cubic", "idle_since_ns", "rack", "rtt")

    def __init__(self, settings: TcpSettings) -> None:
        self.rtt = RttEstimator(settings.rto_min_ns, settings.tick_ns)
        self.cubic = Cubic(settings.initial_window, 1000 * settings.tick_ns)
        self.rack = Rack()
        self.idle_since_ns: int | None = None


class TcpSender:
    """The sending half of one flow on a connection.

    Attributes:
        unsent_bytes: bytes that are written and not sent.
        sends_on: after :meth:`next_segment`, whether another segment can follow.
        queued: segments in the host's own queue.
        connection: what outlives the flow.
        state: state of congestion control.
        counters: counts retransmissions and timeouts.
    """

    def __init__(
        self,
        settings: TcpSettings,
        counters: TransportCounters | None = None,
        connection: Connection | None = None,
        segment_bytes: int = TCP_SEGMENT_BYTES,
    ) -> None:
        """Create a sender, on a new connection if none is given.

        Raises:
            TransportError: ``segment_bytes`` is not positive.
        """
        if segment_bytes < 1:
            raise TransportError(f"segment_bytes must be positive, not {segment_bytes}")
        self.counters = counters or TransportCounters()
        self.connection = connection or Connection(settings)
        self.state = State.OPEN
        self.unsent_bytes = 0
        self.sends_on = False
        self.queued = 0
        self._timestamps = settings.timestamps
        self._tick_ns = settings.tick_ns
        self._rto_min_ns = settings.rto_min_ns
        self._segment_bytes = segment_bytes
        self._receive_window = max(1, settings.receive_window_bytes // segment_bytes)
        # Offsets at which messages start that are not sent.
        self._starts: deque[int] = deque()
        self._written = 0
        self._closed = self._fin_sent = False
        self._offset = 0
        self._board = Scoreboard()
        # Recovery and loss end when this segment is acknowledged.
        self._high = 0
        self._reduction: RateReduction | None = None
        self._undo = Undo(settings.timestamps)
        self._timeouts = 0
        self._frto = self._new_first = False
        self._forced: Sent | None = None
        self._force_new = False
        self._probe_end: int | None = None
        self._probe_repeats = False
        self._timer: Timer | None = None
        self._due_ns = 0

    # --- the application ---------------------------------------------------------------------------------------------

    def write(self, byte_count: int) -> None:
        """Append a message of ``byte_count`` bytes. TCP is a stream, so a segment may hold parts of two messages.

        Raises:
            TransportError: the flow is closed, the message is empty, or sequence numbers run out.
        """
        check_message(self._closed, byte_count)
        if (self._written + byte_count) // self._segment_bytes > SEQUENCE_MAX // 2:
            raise TransportError(f"a flow has at most {SEQUENCE_MAX // 2} segments; open another one")
        self._starts.append(self._written)
        self._written += byte_count
        self.unsent_bytes += byte_count

    def close(self) -> None:
        """Note that nothing more will be written. May be called twice."""
        self._closed = True

    @property
    def done(self) -> bool:
        """Whether the flow is closed and everything is acknowledged."""
        return self._fin_sent and not self._board.unacked

    # --- what agent and meter ask ------------------------------------------------------------------------------------

    @property
    def at_boundary(self) -> bool:
        """Whether the next segment is new and holds the start of a message, so that the level may rise."""
        return self._starts_within(self._segment_bytes) and self._to_repeat() is None

    @property
    def waits_only(self) -> bool:
        """False: TCP is not asked to rescue what waits in lower queues."""
        return False

    @property
    def in_flight_bytes(self) -> int:
        """Bytes sent and not acknowledged."""
        return sum(sent.length for sent in self._board.unacked.values())

    def rescue(self, now_ns: int, level: int) -> None:
        """Do nothing: TCP does not know levels."""

    def behind(self, level: int) -> dict[int, int]:
        """Return the bytes, by sequence number, of segments that have not arrived and were sent below ``level``."""
        unacked = self._board.unacked.values()
        return {sent.sequence: sent.length for sent in unacked if sent.level < level and not sent.sacked}

    def awaits(self, sequence: int) -> bool:
        """Return whether the segment has been sent but not acknowledged."""
        sent = self._board.unacked.get(sequence)
        return sent is not None and not sent.sacked

    # --- sending -----------------------------------------------------------------------------------------------------

    def stamp(self, now_ns: int) -> int:
        """Return the host's clock as a time stamp, which is never 0."""
        return now_ns // self._tick_ns + 1

    def can_send(self, level: int) -> bool:  # noqa: ARG002
        """Return whether :meth:`next_segment` returns a segment; ``level`` does not matter."""
        return self._to_repeat() is not None or self._may_send_new()

    def next_segment(self, now_ns: int, level: int) -> Segment | None:
        """Return the segment that enters the host's queue now, for ``level``; None if there is none or no window.

        The owner calls :meth:`left` when it leaves the queue.
        """
        sent = self._to_repeat()
        starts = False
        flags = 0
        if sent is not None:
            flags = RETRANSMISSION
            self._repeat(sent, now_ns)
        elif self._may_send_new():
            sent, starts = self._cut(now_ns)
        else:
            return None
        sent.level = level
        sent.sent_ns = now_ns
        sent.queued += 1
        self.queued += 1
        if self._reduction is not None:
            self._reduction.out += 1
        self.sends_on = self.can_send(level)
        return Segment(sent.sequence, sent.offset, sent.length, flags | sent.fin, starts)

    def left(self, sequence: int) -> None:
        """Note that the segment has left the host's queue."""
        self.queued -= 1
        sent = self._board.unacked.get(sequence)
        if sent is not None and sent.queued:
            sent.queued -= 1

    def _starts_within(self, byte_count: int) -> bool:
        return bool(self._starts) and self._starts[0] < self._offset + byte_count

    def _new_available(self) -> bool:
        something = self.unsent_bytes or (self._closed and not self._fin_sent)
        return bool(something) and self._board.next - self._board.una < self._receive_window

    def _may_send_new(self) -> bool:
        return self._new_available() and (self._force_new or self._board.pipe < int(self.connection.cubic.cwnd))

    def _to_repeat(self) -> Sent | None:
        """Return the segment to send again: that of a timeout or probe, or the first lost one if the window allows."""
        if self._forced is not None:
            return self._forced
        if (
            self._board.lost <= self._board.repeating
            or self._board.pipe >= int(self.connection.cubic.cwnd)
            or (self._new_first and self._new_available())
        ):
            return None
        return self._board.first_lost()

    def _repeat(self, sent: Sent, now_ns: int) -> None:
        probe = self._forced is sent and self._timer is not Timer.RETRANSMISSION
        self._forced = None
        self.counters.retransmissions += 1
        self._board.repeat(sent)
        self._undo.repeated(self.stamp(now_ns))
        if probe:
            self._probe_repeats = True
            self._end_of_probe(now_ns)
        elif sent.sequence == self._board.una and self._timer is not Timer.REORDERING:
            self._set(Timer.RETRANSMISSION, now_ns + self.connection.rtt.rto_ns)

    def _cut(self, now_ns: int) -> tuple[Sent, bool]:
        connection = self.connection
        if connection.idle_since_ns is not None:
            connection.cubic.idled(now_ns - connection.idle_since_ns)
            connection.idle_since_ns = None
        length = min(self.unsent_bytes, self._segment_bytes)
        starts = self._starts_within(length)
        while self._starts_within(length):
            self._starts.popleft()
        self.unsent_bytes -= length
        fin = FIN if self._closed and not self.unsent_bytes else 0
        self._fin_sent = bool(fin)
        first = not self._board.unacked
        sent = self._board.append(self._offset, length, fin)
        self._offset += length
        sent.sent_ns = now_ns
        if self._force_new:
            self._force_new = False
            self._probe_repeats = False
            self._end_of_probe(now_ns)
        else:
            if first or self._timer is Timer.PROBE:
                self._set_retransmission(now_ns)
            self._set_probe(now_ns, restart=False)
        return sent, starts

    # --- the timer ---------------------------------------------------------------------------------------------------

    @property
    def next_timeout_ns(self) -> int | None:
        """When :meth:`on_timeout` is due; None while nothing is in flight."""
        return None if self._timer is None else self._due_ns

    def on_timeout(self, now_ns: int) -> bool:
        """Let the timer expire if it is due; return whether it did."""
        if self._timer is None or now_ns < self._due_ns:
            return False
        if self._timer is Timer.REORDERING:
            before = self._board.pipe
            self.connection.rack.advanced = True
            self._find_losses(now_ns)
            if self._board.pipe != before:
                if self.state is not State.RECOVERY:
                    self._enter_recovery()
                self._reduce(1, clean=False)
            self._set_retransmission(now_ns)
        elif self._timer is Timer.PROBE:
            self._probe(now_ns)
        else:
            self._expire(now_ns)
        return True

    def _set(self, timer: Timer, due_ns: int) -> None:
        self._timer = timer
        self._due_ns = due_ns

    def _set_retransmission(self, now_ns: int) -> None:
        """Set the timer to the timeout, from the first segment's last transmission if it was set for something else."""
        if not self._board.unacked:
            self._timer = None
            return
        due_ns = now_ns + self.connection.rtt.rto_ns
        if self._timer in (Timer.REORDERING, Timer.PROBE):
            head = self._board.unacked[self._board.una]
            due_ns = max(head.sent_ns + self.connection.rtt.rto_ns, now_ns + self._tick_ns)
        self._set(Timer.RETRANSMISSION, due_ns)

    def _set_probe(self, now_ns: int, restart: bool) -> bool:
        """Set the timer to a tail loss probe (RFC 8985, section 7.2) if one is allowed; ``restart`` the timeout."""
        if not self._board.unacked or self.state is not State.OPEN or self._probe_end is not None or self._board.sacked:
            return False
        rtt = self.connection.rtt
        if rtt.srtt_ns is None:
            wait_ns = 5 * self._rto_min_ns
        else:
            # A lone segment's acknowledgement may be delayed.
            wait_ns = 2 * rtt.srtt_ns
            wait_ns += self._rto_min_ns if len(self._board.unacked) == 1 else TIMER_SLACK_TICKS * self._tick_ns
        left_ns = rtt.rto_ns if restart else self._board.unacked[self._board.una].sent_ns + rtt.rto_ns - now_ns
        if left_ns > 0:
            wait_ns = min(wait_ns, left_ns)
        self._set(Timer.PROBE, now_ns + wait_ns)
        return True

    def _probe(self, now_ns: int) -> None:
        """Send a probe: new data if there are any, else the last segment (RFC 8985, section 7.3)."""
        last = self._board.last
        if self._probe_end is not None:
            # The probe still waits for room in the host's queue.
            self._forced, self._force_new = None, False
            self._end_of_probe(now_ns)
            return
        if self._new_available():
            self._force_new = True
        elif last.queued or last.sacked:
            self._set_retransmission(now_ns)
            return
        else:
            self._forced = last
        # Until it leaves, which is at once unless the host's queue is full.
        self._set_retransmission(now_ns)
        self._timer = Timer.PROBE
        self._probe_end = self._board.next

    def _end_of_probe(self, now_ns: int) -> None:
        """Note that the probe has left: the timeout starts anew."""
        self._probe_end = self._board.next
        self._timer = None
        self._set_retransmission(now_ns)

    def _expire(self, now_ns: int) -> None:
        """Take the timeout: everything that has not arrived is lost (RFC 6298, section 5; Linux's tcp_enter_loss)."""
        self.counters.timeouts += 1
        fresh = self.state < State.RECOVERY
        self._probe_end = self._forced = None
        self._force_new = self._new_first = False
        self._board.lose_all()
        self._reduction = None
        cubic = self.connection.cubic
        if fresh or self._board.una >= self._high or (self.state is State.LOSS and not self._timeouts):
            cubic.reduce()
            self._undo.begin(self._board.una, 0)
        cubic.collapse(1)
        self._frto = fresh or self._timeouts > 0
        self.state = State.LOSS
        self._high = self._board.next
        self._timeouts += 1
        head = self._board.head
        assert head is not None
        if not head.queued:
            self._forced = head
        # Otherwise it is sent again when it has left the host: until then Linux only backs off.
        self.connection.rtt.back_off()
        self._set(Timer.RETRANSMISSION, now_ns + self.connection.rtt.rto_ns)

    # --- acknowledgements --------------------------------------------------------------------------------------------

    def on_ack(self, ack: TcpAck, now_ns: int) -> bool:
        """Process an acknowledgement and return whether it contains news. Impossible and old ones are ignored."""
        if not self._board.una <= ack.cumulative <= self._board.next or ack.highest >= max(self._board.next, 1):
            return False
        connection = self.connection
        self._new_first = False
        before = len(self._board.unacked)
        limited = self._board.pipe >= int(connection.cubic.cwnd) or (
            connection.cubic.slow_start and connection.cubic.cwnd < 2 * before
        )
        lost_before = self._board.lost
        rack = connection.rack
        news = self._board.take(ack, now_ns, rack, connection.rtt.min_ns or 0, self._high)
        if self._forced is not None and (self._forced.sacked or self._forced.sequence < self._board.una):
            self._forced = None
        if news.advanced:
            self._timeouts = 0
        self._measure(news, now_ns)
        if ack.duplicate != NO_DUPLICATE:
            rack.duplicate(now_ns, connection.rtt.srtt_ns or 0)
            rack.reordering_seen = True
            self._undo.answered(ack.duplicate)
            news.duplicate = True
        if news.overtaken:
            rack.reordering_seen = True
        if self._probe_end is not None:
            self._judge_probe(ack.cumulative, news)
        if news.sacked or news.duplicate or not news.delivered or self.state is not State.OPEN:
            news.rearm &= not self._alert(news, now_ns)
        if news.rearm and not self._set_probe(now_ns, restart=True):
            self._set_retransmission(now_ns)
        if not self._board.unacked:
            self._timer = self._forced = None
            connection.idle_since_ns = now_ns
        if self.state is State.RECOVERY:
            self._reduce(news.delivered, clean=news.advanced and self._board.lost <= lost_before)
        elif limited and (news.advanced or (rack.reordering_seen and news.delivered)):
            connection.cubic.on_ack(news.delivered, now_ns, connection.rtt.srtt_ns or 0)
        return news.delivered > 0

    def _measure(self, news: News, now_ns: int) -> None:
        """Take a round trip from segments sent once (Karn), else from the echoed time stamp (RFC 7323, section 4)."""
        rtt_ns = news.rtt_ns
        if rtt_ns is None and news.advanced and self._timestamps and news.echo:
            rtt_ns = max(self.stamp(now_ns) - news.echo, 1) * self._tick_ns
        if rtt_ns is not None:
            self.connection.rtt.sample(rtt_ns, now_ns)

    def _judge_probe(self, cumulative: int, news: News) -> None:
        """End a probe that is acknowledged. One that repaired a loss counts as congestion (RFC 8985, section 7.4)."""
        assert self._probe_end is not None
        if self._forced is not None or self._force_new or cumulative < self._probe_end:
            return
        if self._probe_repeats and not news.duplicate:
            if cumulative == self._probe_end:
                if not news.delivered:
                    self._probe_end = None
                return
            cubic = self.connection.cubic
            cubic.reduce()
            cubic.cwnd = cubic.ssthresh
        self._probe_end = None

    def _alert(self, news: News, now_ns: int) -> bool:
        """Follow Linux's tcp_fastretrans_alert; return whether the timer is set for reordering."""
        if self.state is State.RECOVERY and self._board.una >= self._high:
            self._end_recovery(news)
        if self.state is State.OPEN and not self._board.repeating:
            self._undo.forget_repetitions()
        if self.state is State.RECOVERY:
            if news.advanced and self._undo.delayed(news.echo):
                # A segment sent before the first retransmission moved the acknowledgement.
                if not self._board.repeating:
                    self._revert(clear=True)
                    self._keep_open()
                return False
            if self._undo.all_answered:
                self._revert(clear=False)
                self._keep_open()
            armed, _ = self._find_losses(now_ns)
            # After an undo there may be new losses.
            if self.state is not State.RECOVERY and self._board.lost:
                self._enter_recovery()
            return armed
        if self.state is State.LOSS:
            self._in_loss(news)
            armed, again = self._find_losses(now_ns)
            if self.state is State.LOSS and not again:
                return armed
        else:
            if self._undo.all_answered:
                self._revert(clear=False)
            armed, _ = self._find_losses(now_ns)
        if self._board.lost:
            self._enter_recovery()
        else:
            self._keep_open()
        return armed

    def _keep_open(self) -> None:
        if not self._board.repeating and self.state is not State.OPEN:
            head = self._board.head
            if head is None or not head.repeated:
                self._undo.forget_repetitions()
        state = State.DISORDER if self._board.sacked or self._board.lost or self._board.repeating else State.OPEN
        self._reduction = None
        if state is not self.state:
            self.state = state
            self._high = self._board.next

    def _enter_recovery(self) -> None:
        if not self._board.repeating:
            self._undo.forget_repetitions()
        self._reduction = RateReduction(self.connection.cubic.cwnd)
        self.connection.cubic.reduce()
        self._undo.begin(self._board.una, self._board.repeating)
        self._probe_end = None
        self._high = self._board.next
        self.state = State.RECOVERY

    def _end_recovery(self, news: News) -> None:
        if self._undo.possible(news.echo):
            self._revert(clear=False)
        else:
            self.connection.rack.recovered()
            if self.state is State.RECOVERY:
                self.connection.cubic.cwnd = self.connection.cubic.ssthresh
        self._reduction = None
        self.state = State.OPEN

    def _in_loss(self, news: News) -> None:
        """Process an acknowledgement after a timeout, with F-RTO (RFC 5682, section 3.1)."""
        recovered = self._board.una >= self._high
        if (news.advanced and self._undo.possible(news.echo)) or (self._frto and news.original):
            self._revert(clear=True)
            self._timeouts = 0
            self.state = State.OPEN
            return
        if self._frto:
            if self._board.next > self._high:
                if news.sacked or not news.delivered:
                    self._frto = False
            elif news.advanced and not recovered:
                self._high = self._board.next
                if self._new_available():
                    self._new_first = True
                    return
                self._frto = False
        if recovered:
            self._end_recovery(news)

    def _revert(self, clear: bool) -> None:
        """Restore the window; with ``clear``, also regard nothing as lost."""
        if clear:
            self._board.forgive()
        self.connection.cubic.undo()
        self._undo.end()
        self.connection.rack.advanced = True

    def _find_losses(self, now_ns: int) -> tuple[bool, bool]:
        """Mark segments as lost by time (RACK); return whether the timer is set, and whether a repetition is lost."""
        connection = self.connection
        rack, rtt = connection.rack, connection.rtt
        if not rack.advanced:
            return False, False
        rack.advanced = False
        window_ns = rack.window_ns(self.state >= State.RECOVERY, self._board.sacked, rtt.min_ns or 0, rtt.srtt_ns or 0)
        latest = 0
        again = False
        for sent in self._board.unacked.values():
            if sent.sacked or (sent.lost and not sent.repeating):
                continue
            wait_ns = rack.lost_after_ns(sent.sent_ns, sent.sequence, now_ns, window_ns)
            if wait_ns is None:
                continue
            if wait_ns:
                latest = max(latest, wait_ns)
                continue
            again |= self._board.lose(sent)
        if latest:
            self._set(Timer.REORDERING, now_ns + latest + TIMER_SLACK_TICKS * self._tick_ns)
        return bool(latest), again

    def _reduce(self, delivered: int, clean: bool) -> None:
        if self._reduction is None:
            return
        cubic = self.connection.cubic
        window = self._reduction.window(delivered, self._board.pipe, cubic.ssthresh, clean)
        if window is not None:
            cubic.cwnd = max(window, 1.0)
