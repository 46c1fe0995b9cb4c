"""The gate: which messages a sender may post, for engines that can wait. Pure logic.

RDMA work requests leave in the order in which they were posted, and nothing overtakes within a NIC's queue. So an
engine submits a message before it posts it, posts it when it is permitted, and reports its completion. Messages are
permitted in the order of their levels, with bounded bytes in flight: what is not in the NIC can still be overtaken (the
paper's message-level ordering at the sender).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from host_agent.protocol.errors import RequestError
from host_agent.protocol.units import NS_PER_S

GATE_NS = 1_000_000
"""What the link sends in this time may be in flight, if no limit is given."""
LOWEST_LIMIT_BYTES = 1 << 20
"""The least that is in flight: below, the NIC idles between messages."""

Rank = Callable[[int], tuple[int, int]]
"""Level and deadline (nanoseconds) of a flow, now."""


def default_limit(rate_bps: int) -> int:
    """Return the bytes that may be in flight on a link of ``rate_bps`` bits per second."""
    return max(LOWEST_LIMIT_BYTES, rate_bps * GATE_NS // (8 * NS_PER_S))


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a flow, ``size`` bytes long; ``owner`` is who submitted it."""

    number: int
    flow: int
    size: int
    owner: object


class Gate:
    """Messages that wait and messages that are in flight."""

    def __init__(self, limit_bytes: int, rank: Rank) -> None:
        """Permit up to ``limit_bytes`` in flight, but always one message; ``rank`` orders flows."""
        self.limit_bytes = limit_bytes
        self.in_flight_bytes = 0
        self._rank = rank
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Message] = {}
        self._in_flight: dict[int, Message] = {}
        self._untold: dict[object, list[int]] = {}

    @property
    def waiting(self) -> int:
        """Number of messages that wait."""
        return len(self._waiting)

    def submit(self, flow: int, size: int, owner: object) -> int:
        """Queue a message and return its number."""
        message = Message(next(self._numbers), flow, size, owner)
        self._waiting[message.number] = message
        return message.number

    def complete(self, number: int, owner: object) -> Message:
        """End a message that is in flight, and return it.

        Raises:
            RequestError: ``owner`` has no such message in flight.
        """
        message = self._in_flight.get(number)
        if message is None or message.owner is not owner:
            raise RequestError(f"no message {number!r} of this client is in flight")
        self._end(message)
        return message

    def turn(self) -> list[Message]:
        """Permit what may go now, and return it: the most urgent first, and none before those above it.

        Flows are ranked now. Messages of one flow keep their order, because a queue pair sends in order.
        """
        ranks: dict[int, tuple[int, int]] = {}
        for message in self._waiting.values():
            if message.flow not in ranks:
                level, deadline_ns = self._rank(message.flow)
                ranks[message.flow] = -level, deadline_ns
        permitted = []
        for message in sorted(self._waiting.values(), key=lambda one: (ranks[one.flow], one.number)):
            if self.in_flight_bytes and self.in_flight_bytes + message.size > self.limit_bytes:
                break
            del self._waiting[message.number]
            self._in_flight[message.number] = message
            self.in_flight_bytes += message.size
            self._untold.setdefault(message.owner, []).append(message.number)
            permitted.append(message)
        return permitted

    def permitted(self, owner: object) -> list[int]:
        """Return the messages of ``owner`` that were permitted since the last call."""
        return self._untold.pop(owner, [])

    def forget_flow(self, flow: int) -> None:
        """Drop the messages of a flow that ended."""
        self._forget(lambda message: message.flow == flow)

    def forget_owner(self, owner: object) -> None:
        """Drop the messages of a client that is gone."""
        self._forget(lambda message: message.owner is owner)
        self._untold.pop(owner, None)

    def _forget(self, chosen: Callable[[Message], bool]) -> None:
        for message in [one for one in self._in_flight.values() if chosen(one)]:
            self._end(message)
        for message in [one for one in self._waiting.values() if chosen(one)]:
            del self._waiting[message.number]

    def _end(self, message: Message) -> None:
        del self._in_flight[message.number]
        self.in_flight_bytes -= message.size
