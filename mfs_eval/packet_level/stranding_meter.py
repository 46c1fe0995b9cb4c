"""Segments that promotions strand in lower queues, and the resulting reordering.

A segment is *stranded* if its flow is promoted while it is in flight at a lower level. A promotion's delay lasts until
the last segment that it stranded is acknowledged, whether as first sent or as a retransmission.
"""

from __future__ import annotations

from dataclasses import dataclass

from mfs_eval.packet_level.hosts.segment_header import RETRANSMISSION
from mfs_eval.packet_level.hosts.sending_end import SendingEnd


@dataclass(slots=True)
class StrandingCounters:
    """Counters over all connections.

    Attributes:
        raised: promotions, whether they stranded segments or not.
        promotions: promotions that stranded segments.
        stranded_bytes: payload of the stranded segments, each counted once.
        delays: promotions whose stranded segments are all acknowledged.
        delay_ns: sum of the delays of those promotions.
        reordered_within_message: segments, retransmissions excluded, that arrived after a later one of their message.
    """

    raised: int = 0
    promotions: int = 0
    stranded_bytes: int = 0
    delays: int = 0
    delay_ns: int = 0
    reordered_within_message: int = 0

    @property
    def delay_mean_ns(self) -> float:
        """Mean delay of the promotions that stranded segments; 0 without any."""
        return self.delay_ns / self.delays if self.delays else 0.0


class StrandingMeter:
    """Observer of the senders and receivers of all hosts of a network."""

    def __init__(self) -> None:
        self.counters = StrandingCounters()
        # By connection: the time of each promotion and the segments that it stranded.
        self._stranded: dict[int, list[tuple[int, frozenset[int]]]] = {}
        self._message_segments: dict[int, int] = {}
        # By connection and message: the latest segment that has arrived.
        self._latest: dict[int, dict[int, int]] = {}

    def opened(self, connection: int, message_segments: int) -> None:
        """Note a new connection whose messages have ``message_segments`` segments each."""
        self._message_segments[connection] = message_segments

    def promoted(self, connection: int, sender: SendingEnd, level: int, now_ns: int) -> None:
        """Note that the connection's next segment leaves at ``level``, which is higher than that of the one before."""
        self.counters.raised += 1
        behind = sender.behind(level)
        for _, known in self._stranded.get(connection, ()):
            for sequence in known & behind.keys():
                del behind[sequence]
        if behind:
            self.counters.promotions += 1
            self.counters.stranded_bytes += sum(behind.values())
            self._stranded.setdefault(connection, []).append((now_ns, frozenset(behind)))

    def acknowledged(self, connection: int, sender: SendingEnd, now_ns: int) -> None:
        """Note an acknowledgement for the connection."""
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
        """Note the first arrival of a segment."""
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
        """Note that all of the connection has arrived."""
        self._message_segments.pop(connection, None)
        self._latest.pop(connection, None)
