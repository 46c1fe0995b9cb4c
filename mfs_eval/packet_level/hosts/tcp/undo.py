"""Whether a recovery or a timeout was a mistake: by echoed time stamps and by duplicates that the receiver reports."""

from __future__ import annotations


class Undo:
    """Evidence about the episode in progress.

    Attributes:
        start: segment at which the episode began; None outside of one.
    """

    __slots__ = ("_first_stamp", "_time_stamps", "_unanswered", "start")

    def __init__(self, time_stamps: bool) -> None:
        self.start: int | None = None
        self._time_stamps = time_stamps
        # Retransmissions that no DSACK has answered; None before the first.
        self._unanswered: int | None = None
        # Time stamp of the first retransmission; 0 for none.
        self._first_stamp = 0

    def begin(self, start: int, repeating: int) -> None:
        """Begin an episode at segment ``start``, with this many retransmissions in flight."""
        self.start = start
        self._unanswered = repeating or None

    def end(self) -> None:
        """Note that the episode was undone."""
        self.start = None

    def repeated(self, stamp: int) -> None:
        """Note a retransmission with this time stamp."""
        self._first_stamp = self._first_stamp or stamp
        self._unanswered = (self._unanswered or 0) + 1

    def forget_repetitions(self) -> None:
        """Note that no retransmission is in flight, so that the next one is the first."""
        self._first_stamp = 0

    def answered(self, sequence: int) -> None:
        """Note a DSACK (RFC 3708)."""
        if self.start is not None and self._unanswered and sequence >= self.start:
            self._unanswered -= 1

    @property
    def all_answered(self) -> bool:
        """Whether every retransmission was a duplicate."""
        return self.start is not None and self._unanswered == 0

    def delayed(self, echo: int) -> bool:
        """Return whether ``echo`` is older than the first retransmission (Eifel detection, RFC 3522)."""
        return self._time_stamps and self.start is not None and 0 < echo < self._first_stamp

    def possible(self, echo: int) -> bool:
        """Return whether the episode was a mistake."""
        return self.all_answered or self.delayed(echo)
