"""What promotions leave behind in lower queues, and what comes out of order for it.

A segment is *stranded* when its flow is promoted while it is under way at a lower level. A promotion's delay lasts
until the last segment that it stranded is acknowledged, be it as it was sent first or as it was sent again.
"""

from __future__ import annotations

from dataclasses import dataclass

from mfs_eval.packet_level.hosts.segment_header import RETRANSMISSION
from mfs_eval.packet_level.hosts.transport import Sender


@dataclass(slots=True)
class StrandingCounters:
    """What happened on all connections.

    Attributes:
        promotions: that stranded something.
        stranded_bytes: payload of the segments that they stranded, each counted once.
        delays: promotions whose stranded segments are acknowledged, and ``delay_ns`` the sum of their delays.
        reordered_within_message: segments, none of them sent again, that arrived after a later one of their message.
    """

    promotions: int = 0
    stranded_bytes: int = 0
    delays: int = 0
    delay_ns: int = 0
    reordered_within_message: int = 0

    @property
    def delay_mean_ns(self) -> float:
        """Mean delay of a promotion that stranded something; 0 without any."""
        return self.delay_ns / self.delays if self.delays else 0.0


class StrandingMeter:
    """Watches the senders and receivers of all hosts of a network."""

    def __init__(self) -> None:
        self.counters = StrandingCounters()
        # By connection: for each promotion its time and the segments that it stranded.
        self._stranded: dict[int, list[tuple[int, frozenset[int]]]] = {}
        self._message_segments: dict[int, int] = {}
        # By connection and message: the last segment that has arrived.
        self._latest: dict[int, dict[int, int]] = {}

    def opened(self, connection: int, message_segments: int) -> None:
        """A connection whose messages have so many segments each."""
        self._message_segments[connection] = message_segments

    def promoted(self, connection: int, sender: Sender, level: int, now_ns: int) -> None:
        """The connection's next segment leaves at ``level``, higher than the one before it."""
        behind = sender.behind(level)
        for _, known in self._stranded.get(connection, ()):
            for sequence in known & behind.keys():
                del behind[sequence]
        if behind:
            self.counters.promotions += 1
            self.counters.stranded_bytes += sum(behind.values())
            self._stranded.setdefault(connection, []).append((now_ns, frozenset(behind)))

    def acknowledged(self, connection: int, sender: Sender, now_ns: int) -> None:
        """An acknowledgement came in for the connection."""
        open_promotions = self._stranded.get(connection)
        if not open_promotions:
            return
        still = []
        for promotion in open_promotions:
            if any(map(sender.awaits, promotion[1])):
                still.append(promotion)
            else:
                self.counters.delays += 1
                self.counters.delay_ns += now_ns - promotion[0]
        if still:
            self._stranded[connection] = still
        else:
            del self._stranded[connection]

    def arrived(self, connection: int, sequence: int, flags: int) -> None:
        """A segment arrived that was not there yet."""
        segments = self._message_segments.get(connection)
        if segments is None or flags & RETRANSMISSION:
            return
        latest = self._latest.setdefault(connection, {})
        message = sequence // segments
        if sequence < latest.get(message, -1):
            self.counters.reordered_within_message += 1
        else:
            latest[message] = sequence

    def completed(self, connection: int) -> None:
        """All of the connection has arrived."""
        self._message_segments.pop(connection, None)
        self._latest.pop(connection, None)
