"""The traffic manager: an egress port with eight queues and a constant bit rate. Pure: time is passed in.

The wire bytes of a frame are its length, padded to the Ethernet minimum, plus FCS, preamble and interframe gap (IEEE
802.3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from soft_switch.errors import SwitchError
from soft_switch.queues.arbiter import DEFAULT_SHARE, ArbiterError, PriorityArbiter

T = TypeVar("T")

QUEUES = 8
"""Queues of a port; the highest number goes first."""
WIRE_OVERHEAD_BYTES = 24
"""Link time of a frame beyond its own bytes: FCS (4), preamble (8) and interframe gap (12), IEEE 802.3."""
MINIMUM_FRAME_BYTES = 60
"""Shorter frames are padded to this; without FCS."""

QUEUE_BYTES = 256 * 1024
"""Bytes that a queue holds unless configured otherwise."""

_NS_BITS = 8 * 1_000_000_000


class PortConfigError(SwitchError):
    """A rate, limit or share is invalid."""


def wire_bytes(length: int) -> int:
    """Return the bytes of link time that a frame of ``length`` bytes (without FCS) takes."""
    return (length if length > MINIMUM_FRAME_BYTES else MINIMUM_FRAME_BYTES) + WIRE_OVERHEAD_BYTES


class LinkTimer:
    """Transmission times at a constant bit rate, exact over a busy period.

    Each time is rounded up to a whole nanosecond, and the excess is subtracted from the next. So ``n`` back-to-back
    frames take the time of all their bits, rounded up once: the rate is never exceeded, and the last frame is less than
    1 ns late.
    """

    __slots__ = ("_excess", "rate_bps")

    def __init__(self, rate_bps: int) -> None:
        """Create a timer; ``rate_bps`` is in bits per second.

        Raises:
            PortConfigError: it is not positive.
        """
        if rate_bps <= 0:
            raise PortConfigError(f"a rate of {rate_bps} b/s sends nothing; give 1 or more")
        self.rate_bps = rate_bps
        self._excess = 0  # in 1/rate_bps nanoseconds

    def transmission_ns(self, length: int) -> int:
        """Return how long a frame of ``length`` bytes occupies the link, back to back with the previous one."""
        rate = self.rate_bps
        wire = (length if length > MINIMUM_FRAME_BYTES else MINIMUM_FRAME_BYTES) + WIRE_OVERHEAD_BYTES
        need = wire * _NS_BITS - self._excess
        duration = -(-need // rate)
        self._excess = duration * rate - need
        return duration

    def idle(self) -> None:
        """Note that the link pauses; the next frame starts a new busy period."""
        self._excess = 0


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """Configuration of a queue: its guaranteed share of the port's rate, and how many bytes it holds."""

    guaranteed_share: Fraction | float = DEFAULT_SHARE
    limit_bytes: int = QUEUE_BYTES


@dataclass(slots=True)
class QueueCounters:
    """Packets and bytes (frame lengths when enqueued) since the port was made."""

    enqueued_packets: int = 0
    enqueued_bytes: int = 0
    dequeued_packets: int = 0
    dequeued_bytes: int = 0
    dropped_packets: int = 0
    dropped_bytes: int = 0


class Dequeued(NamedTuple, Generic[T]):
    """A packet that left its queue. The depths are in packets: before it was enqueued, and after it was dequeued."""

    item: T
    queue: int
    enqueued_ns: int
    enq_qdepth: int
    deq_qdepth: int


class Port(Generic[T]):
    """Eight queues in front of one link: strict priority, a guaranteed share each, tail drop at a byte limit.

    The owner calls :meth:`next` when the link is free, then :meth:`transmission_ns` with the length that is actually
    sent, and :meth:`next` again after that time. ``T`` is the type of what is queued.
    """

    __slots__ = (
        "_arbiter",
        "_bytes",
        "_limits",
        "_queues",
        "_timer",
        "configs",
        "counters",
        "sent_bytes",
        "sent_packets",
    )

    def __init__(self, rate_bps: int, queues: Sequence[QueueConfig] | None = None) -> None:
        """Create a port; ``rate_bps`` is in bits of wire bytes per second; ``queues`` are eight, queue 0 first.

        Raises:
            PortConfigError: there are not eight queues, a limit is negative, the shares exceed 1, or the rate is 0.
        """
        configs = tuple(queues) if queues is not None else (QueueConfig(),) * QUEUES
        if len(configs) != QUEUES or any(config.limit_bytes < 0 for config in configs):
            raise PortConfigError(f"a port has {QUEUES} queues with limits of 0 bytes or more, not {configs}")
        try:
            self._arbiter = PriorityArbiter([config.guaranteed_share for config in configs])
        except ArbiterError as error:
            raise PortConfigError(str(error)) from None
        self._timer = LinkTimer(rate_bps)
        self._queues: list[deque[tuple[T, int, int, int]]] = [deque() for _ in configs]
        self._limits = [config.limit_bytes for config in configs]
        self._bytes = [0] * QUEUES
        self.configs = configs
        self.counters = tuple(QueueCounters() for _ in configs)
        self.sent_packets = 0
        self.sent_bytes = 0

    @property
    def rate_bps(self) -> int:
        """Bits of wire bytes per second."""
        return self._timer.rate_bps

    def enqueue(self, item: T, length: int, priority: int, now_ns: int) -> bool:
        """Append a packet of ``length`` bytes to queue ``priority`` (0..7); return False if it is dropped."""
        counters = self.counters[priority]
        held = self._bytes[priority] + length
        if held > self._limits[priority]:
            counters.dropped_packets += 1
            counters.dropped_bytes += length
            return False
        self._bytes[priority] = held
        counters.enqueued_packets += 1
        counters.enqueued_bytes += length
        queue = self._queues[priority]
        if not queue:
            self._arbiter.backlogged(priority, wire_bytes(length))
        queue.append((item, length, now_ns, len(queue)))
        return True

    def next(self) -> Dequeued[T] | None:
        """Take the packet to send now; None if all queues are empty, and then the link pauses."""
        index = self._arbiter.choose()
        if index < 0:
            self._timer.idle()
            return None
        queue = self._queues[index]
        item, length, enqueued_ns, enq_qdepth = queue.popleft()
        left = len(queue)
        # Shares are of wire bytes; a head of 0 bytes means that the queue is empty.
        wire = (length if length > MINIMUM_FRAME_BYTES else MINIMUM_FRAME_BYTES) + WIRE_OVERHEAD_BYTES
        self._arbiter.served(index, wire, wire_bytes(queue[0][1]) if left else 0)
        self._bytes[index] -= length
        counters = self.counters[index]
        counters.dequeued_packets += 1
        counters.dequeued_bytes += length
        return Dequeued(item, index, enqueued_ns, enq_qdepth, left)

    def transmission_ns(self, length: int) -> int:
        """Count a frame of ``length`` bytes as sent; return how long it occupies the link."""
        self.sent_packets += 1
        self.sent_bytes += (length if length > MINIMUM_FRAME_BYTES else MINIMUM_FRAME_BYTES) + WIRE_OVERHEAD_BYTES
        return self._timer.transmission_ns(length)

    def occupancy(self) -> tuple[int, ...]:
        """Return the bytes that wait in each queue."""
        return tuple(self._bytes)

    def __len__(self) -> int:
        """Return the number of packets that wait in all queues."""
        return sum(map(len, self._queues))


NewPort: TypeAlias = Callable[[int, int, Sequence[QueueConfig] | None], Port[Any]]
"""Makes a port from its number, rate (bits per second) and queues."""
