"""Which segments have arrived, which count as lost, and which of those are sent again (RFC 6675, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from mfs_eval.packet_level.hosts.tcp.header import TcpAck
from mfs_eval.packet_level.hosts.tcp.recovery import Rack


class Sent:
    """A segment that is not acknowledged cumulatively.

    ``repeated``: has been sent again; ``repeating``: and that transmission is in flight; ``queued``: copies in the
    host's own queue.
    """

    __slots__ = ("fin", "length", "level", "lost", "offset", "queued", "repeated", "repeating", "sacked", "sent_ns",
                 "sequence")  # fmt: skip

    def __init__(self, sequence: int, offset: int, length: int, fin: int) -> None:
        self.sequence = sequence
        self.offset = offset
        self.length = length
        self.fin = fin
        self.level = 0
        self.sent_ns = 0
        self.queued = 0
        self.sacked = self.lost = self.repeated = self.repeating = False


@dataclass(slots=True)
class News:
    """What an acknowledgement says: newly arrived segments, and facts about them.

    Attributes:
        echo: the time stamp that it echoes; 0 for none.
        delivered: segments that have arrived, those out of order among them.
        sacked: segments that have arrived out of order.
        advanced: whether it moves the cumulative acknowledgement.
        original: whether a segment below the episode's end arrived that was sent once.
        overtaken: whether a segment arrived after one that was sent later.
        rtt_ns: a round trip of a segment that was sent once.
        rearm: whether the timeout starts anew.
        duplicate: whether it reports a segment that arrived twice.
    """

    echo: int
    delivered: int = 0
    sacked: int = 0
    advanced: bool = False
    original: bool = False
    overtaken: bool = False
    rtt_ns: int | None = None
    rearm: bool = False
    duplicate: bool = False


class Scoreboard:
    """The segments from the first that is not acknowledged to the last that was sent.

    Attributes:
        una: the first segment that is not acknowledged cumulatively.
        next: the one after the last segment sent.
        unacked: the segments between, in their order.
        sacked, lost, repeating: how many of them have arrived, count as lost, and are sent again and in flight.
    """

    __slots__ = ("_highest_sacked", "lost", "next", "repeating", "sacked", "una", "unacked")

    def __init__(self) -> None:
        self.una = self.next = 0
        self.unacked: dict[int, Sent] = {}
        self.sacked = self.lost = self.repeating = 0
        self._highest_sacked = -1

    @property
    def pipe(self) -> int:
        """Segments believed to be in the network (RFC 6675, section 4)."""
        return len(self.unacked) - self.sacked - self.lost + self.repeating

    @property
    def head(self) -> Sent | None:
        """The first segment that is not acknowledged."""
        return self.unacked.get(self.una)

    @property
    def last(self) -> Sent:
        """The last segment; there must be one."""
        return next(reversed(self.unacked.values()))

    def append(self, offset: int, length: int, fin: int) -> Sent:
        """Add the next segment."""
        sent = self.unacked[self.next] = Sent(self.next, offset, length, fin)
        self.next += 1
        return sent

    def first_lost(self) -> Sent | None:
        """Return the first lost segment that is not sent again, unless it has not left the host.

        Linux does not send again what has not left the host, nor anything after it.
        """
        for sent in self.unacked.values():
            if sent.lost and not sent.repeating:
                return None if sent.queued else sent
        return None

    def repeat(self, sent: Sent) -> None:
        """Note that ``sent`` is sent again."""
        sent.repeated = True
        if not sent.repeating:
            sent.repeating = True
            self.repeating += 1

    def lose(self, sent: Sent) -> bool:
        """Mark ``sent`` as lost; return whether it was lost before, so that its repetition is."""
        again = sent.repeating and sent.lost
        if sent.repeating:
            sent.repeating = False
            self.repeating -= 1
        if not sent.lost:
            sent.lost = True
            self.lost += 1
        return again

    def lose_all(self) -> None:
        """Mark everything that has not arrived as lost."""
        for sent in self.unacked.values():
            if not sent.sacked:
                sent.lost = True
                sent.repeating = False
        self.lost = len(self.unacked) - self.sacked
        self.repeating = 0

    def forgive(self) -> None:
        """Regard nothing as lost."""
        for sent in self.unacked.values():
            sent.lost = False
        self.lost = 0

    def take(self, ack: TcpAck, now_ns: int, rack: Rack, min_rtt_ns: int, episode_end: int) -> News:
        """Mark what has arrived, and tell ``rack``; ``episode_end`` is where the recovery or loss in progress ends."""
        _, _, cumulative, highest, bitmap, echo, _ = ack
        news = News(echo, advanced=cumulative > self.una)
        overtaking = self._highest_sacked
        gone: list[int] = []
        sack_rtt_ns: int | None = None
        for sequence, sent in self.unacked.items():
            if sequence < cumulative:
                gone.append(sequence)
                if sent.sacked:
                    self.sacked -= 1
                    continue
            elif sequence > highest:
                break
            elif sent.sacked or not bitmap >> (highest - sequence) & 1:
                continue
            else:
                sent.sacked = True
                self.sacked += 1
                self._highest_sacked = max(self._highest_sacked, sequence)
                news.sacked += 1
            news.delivered += 1
            if sent.lost:
                sent.lost = False
                self.lost -= 1
            if sent.repeating:
                sent.repeating = False
                self.repeating -= 1
            if not sent.repeated:
                news.overtaken |= sequence < overtaking
                news.original |= sequence < episode_end
                if sequence < cumulative and news.rtt_ns is None:
                    news.rtt_ns = now_ns - sent.sent_ns
                elif sequence >= cumulative and sack_rtt_ns is None:
                    sack_rtt_ns = now_ns - sent.sent_ns
            rack.delivered(sent.sent_ns, sequence, sent.repeated, now_ns, min_rtt_ns)
        for sequence in gone:
            del self.unacked[sequence]
        self.una = cumulative
        if news.rtt_ns is None:
            news.rtt_ns = sack_rtt_ns
        head = self.head
        # Segments sent after the first one's last transmission must not postpone its timeout.
        news.rearm = news.advanced or (
            head is not None and sack_rtt_ns is not None and sack_rtt_ns > now_ns - head.sent_ns
        )
        return news
