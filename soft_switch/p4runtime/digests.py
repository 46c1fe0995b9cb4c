"""Digests: which are enabled, what waits to be sent, what awaits acknowledgement (specification, "DigestEntry").

Pure logic on a clock that is passed in (nanoseconds, any origin); the caller sends the lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.digest_data import DigestShape
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.status import ALREADY_EXISTS, RequestError, invalid, not_found

# Size of a list that is sent at once where the client sets no limit (max_list_size 0).
LARGEST_LIST = 1000
# Bounds on memory where a client asks for larger lists, or never acknowledges any.
MOST_WAITING = 10_000
MOST_UNACKNOWLEDGED = 1000


@dataclass(slots=True)
class _Channel:
    """An enabled digest. ``waiting`` is in order of arrival; ``unacknowledged`` has (values, time sent) by list id."""

    config: p4runtime_pb2.DigestEntry.Config
    waiting: dict[tuple[int, ...], None] = field(default_factory=dict)
    waiting_since_ns: int = 0
    unacknowledged: dict[int, tuple[frozenset[tuple[int, ...]], int]] = field(default_factory=dict)

    def forget_expired(self, now_ns: int) -> None:
        """Drop lists whose acknowledgement is overdue, or that exceed the limit; their values may be sent again."""
        expired = [
            list_id
            for list_id, (_, sent_ns) in self.unacknowledged.items()
            if now_ns - sent_ns >= self.config.ack_timeout_ns
        ]
        for list_id in expired:
            del self.unacknowledged[list_id]
        while len(self.unacknowledged) > MOST_UNACKNOWLEDGED:
            del self.unacknowledged[next(iter(self.unacknowledged))]

    def full(self) -> bool:
        """Return whether the waiting list is due because of its size."""
        limit = min(self.config.max_list_size or LARGEST_LIST, MOST_WAITING)
        return self.config.max_timeout_ns == 0 or len(self.waiting) >= limit


class DigestBook:
    """All digests of a program."""

    def __init__(self, shapes: dict[int, DigestShape]) -> None:
        self._shapes = shapes
        self._ids = {shape.name: digest_id for digest_id, shape in shapes.items()}
        self._channels: dict[int, _Channel] = {}
        self._next_list_id = 1

    def write(self, update_type: int, entry: p4runtime_pb2.DigestEntry) -> None:
        """Carry out an update of a DigestEntry.

        Raises:
            RequestError: with the code that the specification demands.
        """
        name = self.name(entry.digest_id)
        channel = self._channels.get(entry.digest_id)
        if update_type == p4runtime_pb2.Update.INSERT:
            if channel is not None:
                raise RequestError(ALREADY_EXISTS, f"digest {name} is already enabled; use MODIFY to change it")
            self._channels[entry.digest_id] = _Channel(_checked_config(entry, name))
            return
        if channel is None:
            raise not_found(f"digest {name} is not enabled; use INSERT first")
        if update_type == p4runtime_pb2.Update.MODIFY:
            channel.config = _checked_config(entry, name)
        else:
            del self._channels[entry.digest_id]

    def save(self) -> Callable[[], None]:
        """Save which digests are enabled, and how; the function returned restores that."""
        channels = dict(self._channels)
        configs = [(channel, channel.config) for channel in channels.values()]

        def restore() -> None:
            self._channels = channels
            for channel, config in configs:
                channel.config = config

        return restore

    def read(self, entry: p4runtime_pb2.DigestEntry, found: ReadResponses) -> None:
        """Read all enabled digests, or the one that ``entry`` names.

        Raises:
            RequestError: NOT_FOUND if that one does not exist or is not enabled.
        """
        if entry.digest_id:
            name = self.name(entry.digest_id)
            if entry.digest_id not in self._channels:
                raise not_found(f"digest {name} is not enabled")
        for digest_id, channel in self._channels.items():
            if entry.digest_id in (0, digest_id):
                message = found.add().digest_entry
                message.digest_id = digest_id
                message.config.CopyFrom(channel.config)

    def name(self, digest_id: int) -> str:
        """Return the name of a digest.

        Raises:
            RequestError: NOT_FOUND if the P4Info has no digest with this id, INVALID_ARGUMENT for id 0.
        """
        if digest_id in self._shapes:
            return self._shapes[digest_id].name
        if digest_id == 0:
            raise invalid("no digest id given; it must not be 0 here")
        known = ", ".join(f"{shape.name} ({each})" for each, shape in self._shapes.items()) or "none"
        raise not_found(f"the P4Info has no digest with id {digest_id}; it has: {known}")

    def offer(self, name: str, values: tuple[int, ...], now_ns: int) -> bool:
        """Take a digest message of the data plane; return whether a list is now due because of its size."""
        channel = self._channels.get(self._ids.get(name, 0))
        if channel is None:
            return False
        channel.forget_expired(now_ns)
        if values in channel.waiting or any(values in sent for sent, _ in channel.unacknowledged.values()):
            return False
        if not channel.waiting:
            channel.waiting_since_ns = now_ns
        channel.waiting[values] = None
        return channel.full()

    def next_due_ns(self) -> int | None:
        """Return the time at which the oldest waiting message must be sent; None if none waits."""
        due = [
            channel.waiting_since_ns + int(channel.config.max_timeout_ns)
            for channel in self._channels.values()
            if channel.waiting
        ]
        return min(due, default=None)

    def take_due(self, now_ns: int, epoch_ns: int) -> list[p4runtime_pb2.DigestList]:
        """Return the lists that are due, with time stamp ``epoch_ns``; they then await acknowledgement."""
        lists = []
        for digest_id, channel in self._channels.items():
            waited_ns = now_ns - channel.waiting_since_ns
            if not channel.waiting or not (channel.full() or waited_ns >= channel.config.max_timeout_ns):
                continue
            message = p4runtime_pb2.DigestList(digest_id=digest_id, list_id=self._next_list_id, timestamp=epoch_ns)
            message.data.extend(self._shapes[digest_id].encode(values) for values in channel.waiting)
            if channel.config.ack_timeout_ns > 0:
                channel.unacknowledged[self._next_list_id] = (frozenset(channel.waiting), now_ns)
            self._next_list_id += 1
            channel.waiting = {}
            lists.append(message)
        return lists

    def acknowledge(self, ack: p4runtime_pb2.DigestListAck) -> None:
        """Note that the client has handled a list, so that its values may be sent again.

        An unknown list id is ignored: its list expired.

        Raises:
            RequestError: INVALID_ARGUMENT for a digest that the P4Info does not have.
        """
        if ack.digest_id not in self._shapes:
            raise invalid(f"the P4Info has no digest with id {ack.digest_id}")
        channel = self._channels.get(ack.digest_id)
        if channel is not None:
            channel.unacknowledged.pop(ack.list_id, None)

    def forget(self, message: p4runtime_pb2.DigestList) -> None:
        """Stop awaiting acknowledgement of a list that had no receiver."""
        self._channels[message.digest_id].unacknowledged.pop(message.list_id, None)

    def forget_sent(self) -> None:
        """Stop awaiting acknowledgements: a new primary must learn everything itself."""
        for channel in self._channels.values():
            channel.unacknowledged.clear()


def _checked_config(entry: p4runtime_pb2.DigestEntry, name: str) -> p4runtime_pb2.DigestEntry.Config:
    config = p4runtime_pb2.DigestEntry.Config()
    config.CopyFrom(entry.config)
    for part in ("max_timeout_ns", "max_list_size", "ack_timeout_ns"):
        if getattr(config, part) < 0:
            raise invalid(f"digest {name}: {part} must be 0 or more, not {getattr(config, part)}")
    return config
