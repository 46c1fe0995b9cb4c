"""Match-action tables: writing entries, and the lookups that the generated code makes.

A lookup is ``table.results[key]``, a dict that computes missing results. ``key`` is the value of a single key field,
the tuple of the values of several, or 0 for a table without key. The result is a tuple (action id, hit, entry,
arguments...). For an entry that leads to a group the action id is :data:`GROUP`, and the fourth element is the tuple of
results to choose from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from soft_switch.errors import ConstTableError, EntryExistsError, EntryNotFoundError, InvalidEntryError, TableFullError
from soft_switch.tables.action_profile import ActionProfile
from soft_switch.tables.entry import Entry
from soft_switch.tables.lookup import build_search
from soft_switch.tables.matches import ActionCall, Exact, Lpm, Match, Member, Target, canonical

NOTHING: Final = -1
"""Action id of a result that does nothing: an empty group, or a miss in a table without a default action."""
GROUP: Final = -2
"""Action id of a result from which a group member is still to be chosen."""
MEMO_LIMIT: Final = 65_536
"""Results that a table memoises; one more clears the memo."""
NO_ACTION: Final = ActionCall("NoAction", ())

Result = tuple[Any, ...]


class Results(dict[Any, Result]):
    """Memo of lookups in ``table``. The generated code holds a reference to it, so it is cleared, never replaced."""

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

    Attributes:
        match_kinds: ``exact``, ``lpm``, ``ternary`` or ``range`` for each key field.
        key_widths: width of each key field in bits.
        key_names: name of each key field; its number where the program gives none.
        actions: (id, widths of the parameters in bits) of each action that the table may run, by name.
        ages: whether the time of the last hit of each entry is kept.
        prioritised: whether entries have a priority: some key field is ternary (or optional) or range.
        is_const: whether the program fixes the entries.
        initial_default: the default action of the program.
        on_change: called after a change, with the entry if it concerns a single one (added, modified, removed).
    """

    def __init__(
        self,
        name: str,
        size: int,
        match_kinds: tuple[str, ...],
        key_widths: tuple[int, ...],
        actions: Mapping[str, tuple[int, tuple[int, ...]]],
        *,
        key_names: Sequence[str] | None = None,
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
        self.key_names = tuple(key_names or (str(number) for number in range(1, len(key_widths) + 1)))
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
        self._entries: dict[Any, Entry] = {}
        self._by_key: dict[Any, Entry] = {}
        self._exact = all(kind == "exact" for kind in match_kinds)
        self._lpm = match_kinds.index("lpm") if "lpm" in match_kinds else None
        self.results = Results(self, self._first_lookup)
        self.on_change: Callable[[Table, Entry | None], None] | None = None
        if profile is not None:
            profile.on_change(self._changed)
            profile.check_action = self._checked_call

    def insert(self, match: tuple[Match, ...], priority: int, target: Target) -> Entry:
        """Add an entry.

        Raises:
            InvalidEntryError: a match, a priority or the action does not fit the table.
            EntryExistsError: the table has an entry with this match and priority.
            TableFullError: the table is full.
            ConstTableError: the program fixes the entries.
            MemberNotFoundError: the action profile has no such member.
            GroupNotFoundError: the action selector has no such group.
        """
        match = self._checked_match(match, priority)
        self._check_mutable()
        if self._id(match, priority) in self._entries:
            raise EntryExistsError(f"table {self.name} already has an entry with this match and priority")
        if len(self._entries) >= self.size:
            raise TableFullError(f"table {self.name} is full with {self.size} entries")
        return self._add(Entry(match, priority, self._acquired(target)))

    def modify(self, match: tuple[Match, ...], priority: int, target: Target) -> Entry:
        """Give an entry another action; its counter and meter stay.

        Raises:
            EntryNotFoundError: there is no such entry; otherwise see :meth:`insert`.
        """
        match = self._checked_match(match, priority)
        self._check_mutable()
        entry = self._existing(match, priority)
        new = self._acquired(target)
        self._released(entry.target)
        entry.target = new
        self._changed(entry)
        return entry

    def delete(self, match: tuple[Match, ...], priority: int) -> None:
        """Remove an entry.

        Raises:
            EntryNotFoundError: there is no such entry.
            ConstTableError: the program fixes the entries.
        """
        match = self._checked_match(match, priority)
        self._check_mutable()
        entry = self._existing(match, priority)
        self._released(entry.target)
        del self._entries[self._id(match, priority)]
        self._by_key.pop(_exact_key(match), None)
        self._changed(entry)

    def get(self, match: tuple[Match, ...], priority: int) -> Entry | None:
        """Return the entry with this match and priority; const entries count."""
        return self._entries.get(self._id(self._checked_match(match, priority), priority))

    def entries(self) -> Iterator[Entry]:
        """Return all entries, const ones included, in the order in which they were added."""
        return iter(list(self._entries.values()))

    def set_default(self, call: ActionCall | None) -> None:
        """Set the default action; None restores the program's own.

        Raises:
            ConstTableError: the program fixes it.
            InvalidEntryError: the action does not fit the table.
        """
        if self.default_is_const:
            if call is None or call == self.default:
                return
            raise ConstTableError(f"the default action of table {self.name} is fixed by the program")
        self.default = self.initial_default if call is None else self._checked_call(call)
        self._changed()

    def save(self) -> Callable[[], None]:
        """Save the set of entries and the default action; the function returned restores them.

        The contents of an entry are not included: see :meth:`~soft_switch.tables.entry.Entry.save`.
        """
        entries, by_key, default = dict(self._entries), dict(self._by_key), self.default

        def restore() -> None:
            self._entries, self._by_key, self.default = entries, by_key, default
            self._changed()

        return restore

    def set_const_entries(self, entries: list[tuple[tuple[Match, ...], int, ActionCall]]) -> None:
        """Set the entries that the program fixes; from then on no entry can be written.

        Raises:
            InvalidEntryError: an entry does not fit the table.
            EntryExistsError: two entries have the same match and priority.
        """
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
            raise InvalidEntryError(f"table {self.name} has no key, so no entries; set its default action")
        if self.prioritised and priority < 0:
            raise InvalidEntryError(f"table {self.name}: negative priority {priority}")
        return tuple(
            canonical(m, kind, width, f"table {self.name}, key field {name}")
            for name, m, kind, width in zip(self.key_names, match, self.match_kinds, self.key_widths, strict=True)
        )

    def _checked_call(self, call: ActionCall) -> ActionCall:
        if call.action not in self.actions:
            if call == NO_ACTION and self.profile is not None:
                return call
            raise InvalidEntryError(
                f"table {self.name} has no action {call.action!r}; it has: {', '.join(self.actions)}"
            )
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
                raise InvalidEntryError(
                    f"table {self.name} takes members or groups of {self.profile.name}, not actions"
                )
            return self._checked_call(target)
        if self.profile is None:
            raise InvalidEntryError(f"table {self.name} has no action profile; give it an action")
        self.profile.acquire(target)
        return target

    def _released(self, target: Target) -> None:
        if self.profile is not None and not isinstance(target, ActionCall):
            self.profile.release(target)

    @property
    def is_exact(self) -> bool:
        """Whether every key field is exact."""
        return self._exact

    def _call_result(self, call: ActionCall, entry: Entry | None) -> Result:
        action_id = self.actions[call.action][0] if call.action in self.actions else NOTHING
        return (action_id, entry is not None, entry, *call.args)

    def result(self, entry: Entry | None) -> Result:
        """Return the result of a lookup that finds ``entry``, or none."""
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
        """Do the first lookup after a change, and decide how to search from then on."""
        if self._exact:
            self.results.compute = self._exact_lookup
        else:
            ordered = self.ranked()
            self.results.compute = build_search(
                [e.match for e in ordered], [self.result(e) for e in ordered], self.result(None), self.key_widths
            )
        return self.results.compute(key)

    def ranked(self) -> list[Entry]:
        """Return all entries in the order of precedence: the first that matches wins."""
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
    """Return the key with which the generated code looks up the one value that ``match`` accepts."""
    values = tuple(part.value for part in match if isinstance(part, Exact))
    return values[0] if len(values) == 1 else values
