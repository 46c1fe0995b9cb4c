"""What agents, meters and hosts need of the sending half of a flow, whichever transport it belongs to."""

from __future__ import annotations

from typing import Protocol

from mfs_eval.packet_level.hosts.sender import Segment


class SendingEnd(Protocol):
    """Interface of :class:`~mfs_eval.packet_level.hosts.sender.Sender`, without acknowledgements."""

    unsent_bytes: int
    sends_on: bool

    def write(self, byte_count: int) -> None:
        """Append a message."""
        ...

    def close(self) -> None:
        """Note that nothing more will be written."""
        ...

    @property
    def done(self) -> bool:
        """Whether the flow is closed and everything is acknowledged."""
        ...

    @property
    def at_boundary(self) -> bool:
        """Whether the level may rise with the next segment."""
        ...

    @property
    def waits_only(self) -> bool:
        """Whether everything is sent, and stranded segments may be rescued."""
        ...

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of the segments in flight."""
        ...

    def behind(self, level: int) -> dict[int, int]:
        """Return the bytes, by sequence number, of unacknowledged segments that were sent below ``level``."""
        ...

    def awaits(self, sequence: int) -> bool:
        """Return whether the segment has been sent but not acknowledged."""
        ...

    def rescue(self, now_ns: int, level: int) -> None:
        """Schedule what is stranded below ``level`` to be sent again."""
        ...

    def can_send(self, level: int) -> bool:
        """Return whether :meth:`next_segment` returns a segment for this level."""
        ...

    def next_segment(self, now_ns: int, level: int) -> Segment | None:
        """Return the segment that is sent now."""
        ...

    @property
    def next_timeout_ns(self) -> int | None:
        """When :meth:`on_timeout` is due; None while nothing is in flight."""
        ...

    def on_timeout(self, now_ns: int) -> bool:
        """Let the timer expire if it is due; return whether it did."""
        ...
