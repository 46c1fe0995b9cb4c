"""The order in which a host's interface sends: eight levels, round robin among the flows of a level."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Generic, Protocol, TypeVar

from host_agent.protocol.level import GUARANTEED_SHARE
from host_agent.protocol.stamp import LEVELS
from soft_switch.queues.arbiter import PriorityArbiter

DEFAULT_SHARES: Sequence[Fraction] = (GUARANTEED_SHARE,) * LEVELS

NOT_WAITING = -1
"""``ring`` of an entry that is in no ring."""


class Waiting(Protocol):
    """An entry that waits for its turn; ``ring`` belongs to the :class:`SendOrder`."""

    ring: int


W = TypeVar("W", bound=Waiting)


class SendOrder(Generic[W]):
    """Rings of flows by level: strict priority between levels with a guaranteed share each, one packet per turn."""

    __slots__ = ("_arbiter", "_packet_bytes", "_rings")

    def __init__(self, packet_bytes: int, shares: Sequence[Fraction | float] = DEFAULT_SHARES) -> None:
        """Create an order without flows.

        Args:
            packet_bytes: size of a full packet.
            shares: guaranteed share of each level; see :class:`~soft_switch.queues.arbiter.PriorityArbiter`.
        """
        self._arbiter = PriorityArbiter(shares)
        self._packet_bytes = packet_bytes
        self._rings: list[deque[W]] = [deque() for _ in range(LEVELS)]

    def add(self, flow: W, level: int, first: bool = False) -> None:
        """Add ``flow``, which is in no ring, at ``level``; with ``first``, in front of the others."""
        ring = self._rings[level]
        if not ring:
            self._arbiter.backlogged(level, self._packet_bytes)
        if first:
            ring.appendleft(flow)
        else:
            ring.append(flow)
        flow.ring = level

    def remove(self, flow: W) -> None:
        """Remove ``flow`` if it waits."""
        level = flow.ring
        if level == NOT_WAITING:
            return
        ring = self._rings[level]
        if ring[0] is flow:
            ring.popleft()
        else:
            ring.remove(flow)
        flow.ring = NOT_WAITING
        if not ring:
            self._arbiter.emptied(level)

    def first(self) -> W | None:
        """Return the flow whose turn it is; None if none waits."""
        level = self._arbiter.choose()
        return None if level < 0 else self._rings[level][0]

    def sent(self, flow: W, byte_count: int, more: bool, first: bool = False) -> None:
        """Account for ``byte_count`` bytes that ``flow`` sent at its turn.

        With ``more`` it waits again, in front of the others if ``first``.
        """
        level = flow.ring
        ring = self._rings[level]
        if more:
            if not first:
                ring.rotate(-1)
        else:
            ring.popleft()
            flow.ring = NOT_WAITING
        self._arbiter.served(level, byte_count, self._packet_bytes if ring else 0)

    def rerank(self, level_of: Callable[[W], int]) -> None:
        """Move all waiting flows to the level that ``level_of`` returns. Flows that stay keep their place."""
        for flow, level in [(flow, level_of(flow)) for flow in self]:
            if level != flow.ring:
                self.remove(flow)
                self.add(flow, level)

    def __iter__(self) -> Iterator[W]:
        """Yield all waiting flows, the highest level first."""
        for ring in reversed(self._rings):
            yield from ring

    def __len__(self) -> int:
        """Return the number of waiting flows."""
        return sum(map(len, self._rings))
