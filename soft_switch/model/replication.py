"""Packets that are copied or re-enter: clone sessions, multicast groups, resubmission, recirculation.

The packets that the program makes are collected in ``spawned``, which the caller of the pipeline empties after each
call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_ROUNDS = 64
"""Number of times that a packet may be resubmitted or recirculated; bmv2 has no limit."""


class Ingressed(NamedTuple):
    """A packet between ingress and egress.

    Attributes:
        egress_port: the port that the program chose.
        priority: the queue that the program chose (0..7).
        length: bytes of the packet when it arrived.
        state: opaque data for egress.
    """

    egress_port: int
    priority: int
    length: int
    state: tuple[Any, ...]


class Reentry(NamedTuple):
    """A packet that goes through ingress again; ``again`` is the metadata that it carries."""

    port: int
    data: bytes
    again: tuple[Any, ...]


class Replica(NamedTuple):
    """A copy: the port where it leaves, and the replication id that egress sees as egress_rid."""

    port: int
    rid: int = 0


@dataclass(frozen=True, slots=True)
class CloneSession:
    """Destinations of clones: the session's own replicas, and those of a multicast group.

    Attributes:
        replicas: the session's own.
        group: a multicast group.
        class_of_service: priority of the clones (0..7); 0 keeps that of the program.
        most_bytes: length to which clones are truncated; 0 for no limit.
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
        spawned: copies to be queued and packets that re-enter.
        too_many_rounds: packets dropped because they re-entered too often.
        rid_at: position of egress_rid in a packet's state, for ``with_field``; None if egress does not read it.
        priority_at: position of the priority, likewise.
        with_field: maps (state, position, value) to the state with that value at the position.
    """

    groups: dict[int, tuple[Replica, ...]] = field(default_factory=dict)
    sessions: dict[int, CloneSession] = field(default_factory=dict)
    spawned: list[Ingressed | Reentry] = field(default_factory=list)
    too_many_rounds: int = 0
    rid_at: Any = None
    priority_at: Any = None
    with_field: Callable[[tuple[Any, ...], Any, int], tuple[Any, ...]] = field(default_factory=lambda: _with)

    def cut(self, session: int, data: bytes) -> bytes:
        """Return the part of a packet, as it arrived, that a clone session keeps."""
        config = self.sessions.get(session)
        return data[: config.most_bytes] if config is not None and config.most_bytes else data

    def cut_end(self, session: int, data: bytes, offset: int, length: int) -> tuple[bytes, int]:
        """Truncate a packet of ``length`` bytes that ends with ``data[offset:]``; return the new data and length.

        Only that end is cut, so headers stay complete.
        """
        config = self.sessions.get(session)
        if config is None or not 0 < config.most_bytes < length:
            return data, length
        end = max(offset, len(data) - (length - config.most_bytes))
        return data[:end], length - (len(data) - end)

    def clone(self, session: int, priority: int, length: int, state: tuple[Any, ...]) -> None:
        """Make the copies of a clone session; none if it does not exist."""
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
        """Make the copies of a multicast group; none if it does not exist."""
        self._copies(self.groups.get(group, ()), priority, length, state)

    def again(self, port: int, data: bytes, again: tuple[Any, ...]) -> None:
        """Let a packet re-enter. ``again`` starts with its instance type and the number of rounds."""
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
