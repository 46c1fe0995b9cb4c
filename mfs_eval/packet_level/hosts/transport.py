"""A reliable windowed transport as two state machines, without I/O, clock or payload: what both halves share.

The sender (:mod:`.sender`) cuts messages into segments and picks the one that goes next; the receiver
(:mod:`.receiver`) puts them in order. A flow may change its level between messages, so segments of one flow regularly
overtake each other in the network:

* Segments sent at a lower level than the flow now has ("stranded") do not count against its window.
* A gap counts as a loss only if a segment that was sent later, at the same or a lower level, has arrived.

The sender requests acknowledgements, so that neither side needs a timer for them.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_WINDOW = 4
DEFAULT_RTO_NS = 1_000_000_000
"""The initial value of RFC 6298, section 2; long, because a packet that waits at a low level is not lost."""
STRANDED_SHARE = 8
"""A segment sent at a lower level is overdue after this fraction of the timeout, which is many round trips."""
REORDERING_SEGMENTS = 3
"""A segment counts as lost once one that was sent this many later, at no higher a level, has arrived."""
MAX_BACKOFF = 4
"""The retransmission timeout doubles at most this many times."""
MAX_AHEAD = 1 << 16
"""Distance from the first missing segment up to which a sender sends and a receiver keeps segments."""


class TransportError(ValueError):
    """The state of the connection does not allow the call; the message says why."""


def check_message(closed: bool, byte_count: int) -> None:
    """Check that a message may be written.

    Raises:
        TransportError: the flow is closed, or the message is empty.
    """
    if closed:
        raise TransportError("the flow is closed; write before close()")
    if byte_count < 1:
        raise TransportError(f"a message must have at least 1 byte, not {byte_count}")


@dataclass(slots=True)
class TransportCounters:
    """Counters of segments; one object may serve many connections.

    Attributes:
        retransmissions: sent again.
        timeouts: declared lost by the timeout.
        duplicates: received more than once.
        reordered: received after a later one, retransmissions excluded.
        marked: received with a congestion mark.
        stale: dropped on arrival for an old time stamp.
        go_backs: times that everything in flight was sent again because a receiver missed a packet (RoCEv2).
    """

    retransmissions: int = 0
    timeouts: int = 0
    duplicates: int = 0
    reordered: int = 0
    marked: int = 0
    stale: int = 0
    go_backs: int = 0
