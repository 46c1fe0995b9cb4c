"""Digests: which are enabled, what waits to be sent, what awaits its acknowledgement (specification, "DigestEntry").

Pure logic on a clock that is passed in (nanoseconds, any origin); the caller sends the lists that come out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.digest_data import DigestShape
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.status import ALREADY_EXISTS, RequestError, invalid, not_found

# Bounds what a digest may hold while nobody asks for smaller lists (max_list_size 0).
LARGEST_LIST = 1000
# Bounds the same where a client asks for larger lists, or never acknowledges any.
MOST_WAITING = 10_000
MOST_UNACKNOWLEDGED = 1000


@dataclass(slots=True)
class _Channel:
    """One enabled digest. `waiting` keeps the order of arrival; `unacknowledged` is list id -> (values, sent at)."""

    config: p4runtime_pb2.DigestEntry.Config
    waiting: dict[tuple[int, ...], None] = field(default_factory=dict)
    waiting_since_ns: int = 0
    unacknowledged: dict[int, tuple[frozenset[tuple[int, ...]], int]] = field(default_factory=dict)

    def forget_expired(self, now_ns: int) -> None:
        """Drop lists whose acknowledgement is overdue, or that are too many: their values may be sent again."""
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
        """Whether what waits is to be sent without waiting longer."""
        limit = min(self.config.max_list_size or LARGEST_LIST, MOST_WAITING)
        return self.config.max_timeout_ns == 0 or len(self.waiting) >= limit


class DigestBook:
    """All digests of one program."""

    def __init__(self, shapes: dict[int, DigestShape]) -> None:
        self._shapes = shapes
        self._ids = {shape.name: digest_id for digest_id, shape in shapes.items()}
        self._channels: dict[int, _Channel] = {}
        self._next_list_id = 1

    def write(self, update_type: int, entry: p4runtime_pb2.DigestEntry) -> None:
        """Carry out one update of a DigestEntry; raises RequestError with the code of the specification."""
        name = self.name(entry.digest_id)
        channel = self._channels.get(entry.digest_id)
        if update_type == p4runtime_pb2.Update.INSERT:
            if channel is not None:
                raise RequestError(ALREADY_EXISTS, f"digest {name} is enabled already; use MODIFY to change it")
            self._channels[entry.digest_id] = _Channel(_checked_config(entry, name))
            return
        if channel is None:
            raise not_found(f"digest {name} is not enabled; use INSERT first")
        if update_type == p4runtime_pb2.Update.MODIFY:
            channel.config = _checked_config(entry, name)
        else:
            del self._channels[entry.digest_id]

    def save(self) -> Callable[[], None]:
        """Keep what is enabled, and how; the function returned puts it back."""
        channels = dict(self._channels)
        configs = [(channel, channel.config) for channel in channels.values()]

        def restore() -> None:
            self._channels = channels
            for channel, config in configs:
                channel.config = config

        return restore

    def read(self, entry: p4runtime_pb2.DigestEntry, found: ReadResponses) -> None:
        """The enabled digests, or the one that `entry` names; NOT_FOUND when that one is unknown or not enabled."""
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
        """The name of a digest; NOT_FOUND when the P4Info has none of that id."""
        if digest_id in self._shapes:
            return self._shapes[digest_id].name
        if digest_id == 0:
            raise invalid("no digest id given; it must not be 0 here")
        known = ", ".join(f"{shape.name} ({each})" for each, shape in self._shapes.items()) or "none"
        raise not_found(f"the P4Info has no digest with id {digest_id}; it has: {known}")

    def offer(self, name: str, values: tuple[int, ...], now_ns: int) -> bool:
        """Take one digest message of the data plane; True when a list has become ready to be sent."""
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
        """The time at which the oldest waiting message must be sent; None when nothing waits."""
        due = [
            channel.waiting_since_ns + int(channel.config.max_timeout_ns)
            for channel in self._channels.values()
            if channel.waiting
        ]
        return min(due, default=None)

    def take_due(self, now_ns: int, epoch_ns: int) -> list[p4runtime_pb2.DigestList]:
        """The lists that are to be sent now, stamped `epoch_ns`; they count as sent, and await acknowledgement."""
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
        """The client has acted on a list: its values may be sent anew. An unknown list id is ignored (it expired).

        Raises RequestError INVALID_ARGUMENT for a digest that the P4Info does not have.
        """
        if ack.digest_id not in self._shapes:
            raise invalid(f"the P4Info has no digest with id {ack.digest_id}")
        channel = self._channels.get(ack.digest_id)
        if channel is not None:
            channel.unacknowledged.pop(ack.list_id, None)

    def forget(self, message: p4runtime_pb2.DigestList) -> None:
        """Await no acknowledgement of a list that went to nobody."""
        self._channels[message.digest_id].unacknowledged.pop(message.list_id, None)

    def forget_sent(self) -> None:
        """Await no acknowledgement any more: a new primary is to learn everything itself."""
        for channel in self._channels.values():
            channel.unacknowledged.clear()


def _checked_config(entry: p4runtime_pb2.DigestEntry, name: str) -> p4runtime_pb2.DigestEntry.Config:
    config = p4runtime_pb2.DigestEntry.Config()
    config.CopyFrom(entry.config)
    for part in ("max_timeout_ns", "max_list_size", "ack_timeout_ns"):
        if getattr(config, part) < 0:
            raise invalid(f"digest {name}: {part} must be 0 or more, not {getattr(config, part)}")
    return config
