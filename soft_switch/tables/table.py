"""Match-action tables: their entries, and the lookups that the generated code makes.

A lookup is ``table.results[key]``, a dict that computes what it does not hold; ``key`` is the value of the only key
field, the tuple of several, or 0 for none. It gives a tuple (action id, hit, entry, arguments...). For an entry that
leads to a group the action id is :data:`GROUP` and the fourth element the tuple of results to choose from.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from soft_switch.errors import ConstTableError, EntryExistsError, EntryNotFoundError, InvalidEntryError, TableFullError
from soft_switch.model.externs import METER_WORDS, MeterBuckets, MeterConfig, describe_meter
from soft_switch.tables.action_profile import ActionProfile, GroupState
from soft_switch.tables.lookup import build_search
from soft_switch.tables.matches import ActionCall, Exact, Group, Lpm, Match, Member, Range, Target, Ternary, canonical

__all__ = [
    "ActionCall",
    "ActionProfile",
    "Entry",
    "Exact",
    "Group",
    "GroupState",
    "Lpm",
    "Match",
    "Member",
    "Range",
    "Table",
    "Target",
    "Ternary",
]

NOTHING: Final = -1
"""Action id of a result that does nothing: an empty group, or a miss in a table without default action."""
GROUP: Final = -2
"""Action id of a result that is still to be chosen from a group."""
MEMO_LIMIT: Final = 65_536
"""Results that a table keeps before it forgets them all."""
NO_ACTION: Final = ActionCall("NoAction", ())

Result = tuple[Any, ...]
METER_AT: Final = 2
"""Where in the cells of an entry its direct meter begins; before it are packets and bytes of its direct counter."""
LAST_HIT_AT: Final = METER_AT + METER_WORDS
"""Where the time of its last hit is."""


class Entry:
    """A table entry.

    ``cells`` is the memory of its direct counter, its direct meter and the time of its last hit; ``buckets`` are the
    meter's. In a table that ages ``last_hit_ns`` is when a packet last hit it, by the clock of the packets, or when it
    was written. The other times are those of :class:`~soft_switch.tables.idle.IdleWatch`.
    """

    __slots__ = (
        "_meter",
        "buckets",
        "cells",
        "idle_timeout_ns",
        "is_const",
        "looked_at_ns",
        "match",
        "metadata",
        "notified_ns",
        "priority",
        "target",
    )

    def __init__(self, match: tuple[Match, ...], priority: int, target: Target, is_const: bool = False) -> None:
        self.match = match
        self.priority = priority
        self.target = target
        self.is_const = is_const
        self.metadata = b""
        self.cells: array[int] = array("Q", bytes(8 * (LAST_HIT_AT + 1)))
        self.idle_timeout_ns = 0
        self.notified_ns = 0
        self.looked_at_ns: int | None = None
        self.buckets: MeterBuckets | None = None
        self._meter: MeterConfig | None = None

    @property
    def packets(self) -> int:
        """What the direct counter has counted."""
        return self.cells[0]

    @packets.setter
    def packets(self, value: int) -> None:
        self.cells[0] = value

    @property
    def bytes(self) -> int:
        """Bytes of these packets."""
        return self.cells[1]

    @bytes.setter
    def bytes(self, value: int) -> None:
        self.cells[1] = value

    @property
    def last_hit_ns(self) -> int:
        """When a packet last hit the entry, in a table that ages."""
        return self.cells[LAST_HIT_AT]

    @last_hit_ns.setter
    def last_hit_ns(self, time_ns: int) -> None:
        self.cells[LAST_HIT_AT] = time_ns

    @property
    def meter(self) -> MeterConfig | None:
        """The configuration of the direct meter; setting it fills the buckets."""
        return self._meter

    @meter.setter
    def meter(self, config: MeterConfig | None) -> None:
        self._meter = config
        describe_meter(self.cells, METER_AT, config)

    def save(self) -> Callable[[], None]:
        """Keeps all that the control plane can change; the function returned puts it back."""
        cells = self.cells[:]
        kept = [(name, getattr(self, name)) for name in _CHANGING]

        def restore() -> None:
            self.cells[:] = cells
            for name, value in kept:
                setattr(self, name, value)

        return restore


_CHANGING = ("target", "_meter", "metadata", "buckets", "idle_timeout_ns", "notified_ns")


class Results(dict[Any, Result]):
    """Memo of lookups in ``table``; the generated code keeps a reference to it, so it is emptied, never replaced."""

    __slots__ = ("compute", "table")

    def __init__(self, table: Table, compute: Callable[[Any], Result]) -> None:
        super().__init__()
        self.table = table
        self.compute = compute

    def __missing__(self, key: Any) -> Result:
        result = self.compute(key)
        if len(self) >= MEMO_LIMIT:
            self.clear()
        self[key] = result
        return result


class Table:
    """A match-action table as the control plane sees it.

    ``match_kinds`` and ``key_widths`` describe the key fields in order. ``actions`` maps the names of the actions that
    the table may run to (id, widths of the parameters in bits).
    """

    def __init__(
        self,
        name: str,
        size: int,
        match_kinds: tuple[str, ...],
        key_widths: tuple[int, ...],
        actions: Mapping[str, tuple[int, tuple[int, ...]]],
        *,
        has_counter: bool = False,
        ages: bool = False,
        meter_name: str | None = None,
        profile: ActionProfile | None = None,
        default: ActionCall = NO_ACTION,
        default_is_const: bool = False,
        prioritised: bool | None = None,
    ) -> None:
        self.name = name
        self.size = size
        self.match_kinds = match_kinds
        self.key_widths = key_widths
        self.actions = dict(actions)
        self.has_counter = has_counter
        self.ages = ages
        self.meter_name = meter_name
        self.profile = profile
        self.is_const = False
        self.default_is_const = default_is_const
        self.default = self.initial_default = default
        if prioritised is None:
            prioritised = "ternary" in match_kinds or "range" in match_kinds
        self.prioritised = prioritised
        """Whether entries have a priority: there is a ternary (or optional) or a range field."""
        self._entries: dict[Any, Entry] = {}
        self._by_key: dict[Any, Entry] = {}
        self._exact = all(kind == "exact" for kind in match_kinds)
        self._lpm = match_kinds.index("lpm") if "lpm" in match_kinds else None
        self.results = Results(self, self._first_lookup)
        self.on_change: Callable[[Table, Entry | None], None] | None = None
        """Called after a change, with the entry if it is one of a single entry (added, another action, removed)."""
        if profile is not None:
            profile.on_change(self._changed)
            profile.check_action = self._checked_call

    def insert(self, match: tuple[Match, ...], priority: int, target: Target) -> Entry:
        """Adds an entry. Raises EntryExistsError, TableFullError, ConstTableError, InvalidEntryError, or what the
        action profile raises for a member or group that it does not have."""
        match = self._checked_match(match, priority)
        self._check_mutable()
        if self._id(match, priority) in self._entries:
            raise EntryExistsError(f"table {self.name} already has an entry with this match and priority")
        if len(self._entries) >= self.size:
            raise TableFullError(f"table {self.name} is full with {self.size} entries")
        return self._add(Entry(match, priority, self._acquired(target)))

    def modify(self, match: tuple[Match, ...], priority: int, target: Target) -> Entry:
        """Gives an entry another action; its counter and meter stay. Raises EntryNotFoundError, else as insert."""
        match = self._checked_match(match, priority)
        self._check_mutable()
        entry = self._existing(match, priority)
        new = self._acquired(target)
        self._released(entry.target)
        entry.target = new
        self._changed(entry)
        return entry

    def delete(self, match: tuple[Match, ...], priority: int) -> None:
        """Removes an entry. Raises EntryNotFoundError, ConstTableError."""
        match = self._checked_match(match, priority)
        self._check_mutable()
        entry = self._existing(match, priority)
        self._released(entry.target)
        del self._entries[self._id(match, priority)]
        self._by_key.pop(_exact_key(match), None)
        self._changed(entry)

    def get(self, match: tuple[Match, ...], priority: int) -> Entry | None:
        """The entry with this match and priority, const entries included."""
        return self._entries.get(self._id(self._checked_match(match, priority), priority))

    def entries(self) -> Iterator[Entry]:
        """All entries, const ones included, in the order in which they were added."""
        return iter(list(self._entries.values()))

    def set_default(self, call: ActionCall | None) -> None:
        """Another default action; None for the program's own. Raises ConstTableError, InvalidEntryError."""
        if self.default_is_const:
            if call is None or call == self.default:
                return
            raise ConstTableError(f"the default action of table {self.name} is fixed by the program")
        self.default = self.initial_default if call is None else self._checked_call(call)
        self._changed()

    def save(self) -> Callable[[], None]:
        """Keeps which entries there are, and the default action; the function returned puts them back.

        What is in an entry that is changed meanwhile is kept by :meth:`Entry.save`, before.
        """
        entries, by_key, default = dict(self._entries), dict(self._by_key), self.default

        def restore() -> None:
            self._entries, self._by_key, self.default = entries, by_key, default
            self._changed()

        return restore

    def set_const_entries(self, entries: list[tuple[tuple[Match, ...], int, ActionCall]]) -> None:
        """The entries that the program fixes; afterwards nobody can write any."""
        for match, priority, call in entries:
            match = self._checked_match(match, priority)
            if self._id(match, priority) in self._entries:
                raise EntryExistsError(f"table {self.name} has two const entries with the same match and priority")
            self._add(Entry(match, priority, self._checked_call(call), is_const=True))
        self.is_const = True

    def _add(self, entry: Entry) -> Entry:
        self._entries[self._id(entry.match, entry.priority)] = entry
        if self._exact:
            self._by_key[_exact_key(entry.match)] = entry
        self._changed(entry)
        return entry

    def _changed(self, entry: Entry | None = None) -> None:
        self.results.clear()
        self.results.compute = self._first_lookup
        if self.on_change is not None:
            self.on_change(self, entry)

    def _id(self, match: tuple[Match, ...], priority: int) -> Any:
        return (match, priority) if self.prioritised else match

    def _existing(self, match: tuple[Match, ...], priority: int) -> Entry:
        entry = self._entries.get(self._id(match, priority))
        if entry is None:
            raise EntryNotFoundError(f"table {self.name} has no entry with this match and priority")
        return entry

    def _check_mutable(self) -> None:
        if self.is_const:
            raise ConstTableError(f"the entries of table {self.name} are fixed by the program")

    def _checked_match(self, match: tuple[Match, ...], priority: int) -> tuple[Match, ...]:
        if len(match) != len(self.match_kinds):
            raise InvalidEntryError(f"table {self.name} has {len(self.match_kinds)} key fields, not {len(match)}")
        if not match:
            raise InvalidEntryError(f"table {self.name} has no key: it has a default action, and no entries")
        if self.prioritised and priority < 0:
            raise InvalidEntryError(f"table {self.name}: negative priority {priority}")
        return tuple(
            canonical(m, kind, width, f"table {self.name}, key field {number}")
            for number, (m, kind, width) in enumerate(
                zip(match, self.match_kinds, self.key_widths, strict=True), start=1
            )
        )

    def _checked_call(self, call: ActionCall) -> ActionCall:
        if call.action not in self.actions:
            if call == NO_ACTION and self.profile is not None:
                return call
            raise InvalidEntryError(f"table {self.name} has no action {call.action!r}")
        widths = self.actions[call.action][1]
        if len(call.args) != len(widths):
            raise InvalidEntryError(f"action {call.action} takes {len(widths)} arguments, not {len(call.args)}")
        for value, width in zip(call.args, widths, strict=True):
            if not 0 <= value < 1 << width:
                raise InvalidEntryError(f"action {call.action}: {value} does not fit in {width} bits")
        return call

    def _acquired(self, target: Target) -> Target:
        if isinstance(target, ActionCall):
            if self.profile is not None:
                raise InvalidEntryError(f"table {self.name} takes members or groups of {self.profile.name}")
            return self._checked_call(target)
        if self.profile is None:
            raise InvalidEntryError(f"table {self.name} has no action profile")
        self.profile.acquire(target)
        return target

    def _released(self, target: Target) -> None:
        if self.profile is not None and not isinstance(target, ActionCall):
            self.profile.release(target)

    @property
    def is_exact(self) -> bool:
        """Whether every key field is matched exactly."""
        return self._exact

    def _call_result(self, call: ActionCall, entry: Entry | None) -> Result:
        action_id = self.actions[call.action][0] if call.action in self.actions else NOTHING
        return (action_id, entry is not None, entry, *call.args)

    def result(self, entry: Entry | None) -> Result:
        """What a lookup gives that finds ``entry``, or none."""
        if entry is None:
            return self._call_result(self.default, None)
        target = entry.target
        if isinstance(target, ActionCall):
            return self._call_result(target, entry)
        if self.profile is None:  # pragma: no cover - _acquired refuses such targets
            raise InvalidEntryError(f"table {self.name} has no action profile")
        choices = tuple(self._call_result(call, entry) for call in self.profile.choices(target))
        if isinstance(target, Member):
            return choices[0]
        return (GROUP, True, entry, choices) if choices else (NOTHING, True, entry)

    def _first_lookup(self, key: Any) -> Result:
        """The lookup after a change: finds out how to search from now on."""
        if self._exact:
            self.results.compute = self._exact_lookup
        else:
            ordered = self.ranked()
            self.results.compute = build_search(
                [e.match for e in ordered], [self.result(e) for e in ordered], self.result(None), self.key_widths
            )
        return self.results.compute(key)

    def ranked(self) -> list[Entry]:
        """All entries, in the order in which the first that matches is found."""
        ordered = list(self._entries.values())
        if self.prioritised:
            ordered.sort(key=lambda e: -e.priority)
        elif self._lpm is not None:
            ordered.sort(key=self._prefix_rank)
        return ordered

    def _exact_lookup(self, key: Any) -> Result:
        return self.result(self._by_key.get(key))

    def _prefix_rank(self, entry: Entry) -> int:
        match = entry.match[self._lpm or 0]
        return -match.prefix_len if isinstance(match, Lpm) else 0


def _exact_key(match: tuple[Match, ...]) -> Any:
    """The key with which the generated code looks up what only ``match`` accepts."""
    values = tuple(part.value for part in match if isinstance(part, Exact))
    return values[0] if len(values) == 1 else values
