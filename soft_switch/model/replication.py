"""Packets that become several, or come in again: clone sessions, multicast groups, resubmission, recirculation.

What the program asks for is collected in ``spawned``, which whoever runs the pipeline empties after each call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_ROUNDS = 64
"""How often one packet may be resubmitted or recirculated; bmv2 would go on for ever."""


class Ingressed(NamedTuple):
    """A packet between ingress and egress.

    ``egress_port`` and ``priority`` (0..7) are what the program chose, ``length`` the bytes that came in, ``state``
    what egress needs and is nobody else's business.
    """

    egress_port: int
    priority: int
    length: int
    state: tuple[Any, ...]


class Reentry(NamedTuple):
    """A packet that goes through ingress again; ``again`` is what it takes along."""

    port: int
    data: bytes
    again: tuple[Any, ...]


class Replica(NamedTuple):
    """One copy: where it leaves, and the replication id that egress sees as egress_rid."""

    port: int
    rid: int = 0


@dataclass(frozen=True, slots=True)
class CloneSession:
    """Where a clone goes: to replicas of its own, and to those of a multicast group.

    ``class_of_service`` is its priority (0..7); 0 leaves it as the program has it. A clone of more than ``most_bytes``
    is cut to that length; 0 leaves it whole.
    """

    replicas: tuple[Replica, ...] = ()
    group: int | None = None
    class_of_service: int = 0
    most_bytes: int = 0


@dataclass(slots=True)
class Replication:
    """The packet replication engine of a pipeline.

    Attributes:
        groups: multicast groups by number.
        sessions: clone sessions by number.
        spawned: copies to be queued and packets to come in again.
        too_many_rounds: packets dropped because they came in again too often.
        rid_at: where egress_rid is in a packet's state, as ``with_field`` knows it; None where egress does not read it.
        priority_at: where priority is, likewise.
        with_field: (state, where, value) to the state with another value there.
    """

    groups: dict[int, tuple[Replica, ...]] = field(default_factory=dict)
    sessions: dict[int, CloneSession] = field(default_factory=dict)
    spawned: list[Ingressed | Reentry] = field(default_factory=list)
    too_many_rounds: int = 0
    rid_at: Any = None
    priority_at: Any = None
    with_field: Callable[[tuple[Any, ...], Any, int], tuple[Any, ...]] = field(default_factory=lambda: _with)

    def cut(self, session: int, data: bytes) -> bytes:
        """What a clone session lets through of a packet as it came in."""
        config = self.sessions.get(session)
        return data[: config.most_bytes] if config is not None and config.most_bytes else data

    def cut_end(self, session: int, data: bytes, offset: int, length: int) -> tuple[bytes, int]:
        """The same for a packet of ``length`` bytes that ends with ``data[offset:]``: new data, new length.

        Only that end is cut, so headers stay whole.
        """
        config = self.sessions.get(session)
        if config is None or not 0 < config.most_bytes < length:
            return data, length
        end = max(offset, len(data) - (length - config.most_bytes))
        return data[:end], length - (len(data) - end)

    def clone(self, session: int, priority: int, length: int, state: tuple[Any, ...]) -> None:
        """Copies for a clone session; none where nobody has set it up."""
        config = self.sessions.get(session)
        if config is not None:
            if config.class_of_service:
                priority = config.class_of_service
                if self.priority_at is not None:
                    state = self.with_field(state, self.priority_at, priority)
            if config.group is not None:
                self.multicast(config.group, priority, length, state)
            self._copies(config.replicas, priority, length, state)

    def multicast(self, group: int, priority: int, length: int, state: tuple[Any, ...]) -> None:
        """Copies for a multicast group; none where there is no such group."""
        self._copies(self.groups.get(group, ()), priority, length, state)

    def again(self, port: int, data: bytes, again: tuple[Any, ...]) -> None:
        """A packet that is to come in again. ``again`` begins with its instance type and the number of rounds."""
        if again[1] > MAX_ROUNDS:
            self.too_many_rounds += 1
        else:
            self.spawned.append(Reentry(port, data, again))

    def _copies(self, replicas: Sequence[Replica], priority: int, length: int, state: tuple[Any, ...]) -> None:
        at = self.rid_at
        for port, rid in replicas:
            own = state if at is None else self.with_field(state, at, rid)
            self.spawned.append(Ingressed(port, priority, length, own))


def _with(state: tuple[Any, ...], at: int, value: int) -> tuple[Any, ...]:
    return (*state[:at], value, *state[at + 1 :])
