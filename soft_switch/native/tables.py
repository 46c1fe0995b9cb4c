"""Tables as machine code searches them: copies of the control plane's tables, updated after a change."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from soft_switch.ir.expressions import PARAMETERS
from soft_switch.native.module import RecordLayout
from soft_switch.native.numbers import modular
from soft_switch.tables.entry import Entry
from soft_switch.tables.lookup import bits_by_interval, bits_by_mask, cut, few_masks, mask_groups, single_intervals
from soft_switch.tables.matches import Exact, Lpm, Match, mask_of
from soft_switch.tables.table import GROUP, Result, Table

MEMO_SLOTS = 4096
"""Results that a table with a costly search remembers; a power of two."""
_NONE, _EXACT, _INTERVALS, _BITS, _MASKS, _PREFIXES = range(6)
_REMOVED = 1 << 62
_MISS = 0
_WORD = (1 << 64) - 1

_Key: TypeAlias = tuple[tuple[Match, ...], int]
"""Match and priority of an entry."""


class TableImage:
    """A table in memory that machine code reads. ``made`` is the C struct to fill in.

    Tables whose fields are all exact, or exact and one prefix, follow single changes. In other tables only the records
    do: the search structure is rebuilt when an entry is added or removed. A change in a table with an action profile
    copies the table again.
    """

    def __init__(self, ffi: Any, library: Any, made: Any, table: Table, layout: RecordLayout) -> None:
        self._ffi = ffi
        self._library = library
        self._made = made
        self._table = table
        self._layout = layout
        self._key_words = [modular(width).bits // 64 for width in table.key_widths]
        self._alive: list[Any] = []
        self._records: array[int] = array("Q")
        self._used = 0
        self._rows: dict[_Key, int] = {}
        self._free: list[int] = []
        self._prefixes: dict[int, _Prefixes] = {}
        self._slots: array[int] = array("Q")
        made.words = sum(self._key_words)
        made.stride = layout.stride
        made.miss = _MISS
        memo = array("Q", bytes(8 * MEMO_SLOTS * (made.words + 2)))
        self._memo = ffi.from_buffer("uint64_t[]", memo)
        self.copy()

    def copy(self) -> None:
        """Copy the whole table."""
        table = self._table
        entries = table.ranked()
        results = [table.result(entry) for entry in entries]
        rows = 1 + len(results) + sum(len(result[3]) for result in results if result[0] == GROUP)
        self._alive = []
        # Room for twice as many entries, so that copies of a growing table stay rare.
        self._records = array("Q", bytes(8 * self._layout.stride * (2 * rows + 16)))
        self._used, self._free = 0, []
        self._made.records = self._address(self._records)
        self._add(table.result(None))
        self._rows = {_key(entry): self._add(result) for entry, result in zip(entries, results, strict=True)}
        self._search(entries)

    def _search(self, entries: Sequence[Entry]) -> None:
        """Build the search structure for the records."""
        table = self._table
        self._made.kind = _NONE
        if not entries or not table.key_widths:
            return
        matches, found = [entry.match for entry in entries], list(self._rows.values())
        self._made.memo = self._memo
        self._made.memo_mask = MEMO_SLOTS - 1
        self._made.generation += 1
        if table.is_exact:
            self._hash(matches, found)
        elif "lpm" in table.match_kinds and not table.prioritised:
            self._by_prefix(entries)
        elif single_intervals(matches, table.key_widths):
            self._intervals([match[0] for match in matches], found)
        else:
            self._made.winners = self._address(array("Q", found))
            self._made.count = len(found)
            if few_masks(matches, table.key_widths):
                self._masks(matches)
            else:
                self._bits(matches)

    def follow(self, changed: Iterable[Entry]) -> None:
        """Update single entries."""
        single = {_key(entry): entry for entry in changed}
        follow = {_EXACT: self._follow_exact, _PREFIXES: self._follow_prefix}.get(self._made.kind)
        if self._table.profile is not None:
            self.copy()
        elif follow is not None:
            if not all(follow(entry) for entry in single.values()):
                self.copy()
            self._made.generation += 1
        else:
            self._follow_any(single)

    def _follow_exact(self, changed: Entry) -> bool:
        """Update an entry; False if there is no room for it."""
        key, entry = _key(changed), self._table.get(changed.match, changed.priority)
        row = self._rows.get(key)
        if row is not None:
            # A removed entry keeps its row, which then holds the result of a miss.
            self._write(row, self._table.result(entry))
            return True
        if entry is None:
            return True
        if not self._has_row() or 2 * (len(self._rows) + 1) * (sum(self._key_words) + 1) > len(self._slots):
            return False
        row = self._rows[key] = self._add(self._table.result(entry))
        self._put(entry.match, row)
        return True

    def _follow_prefix(self, changed: Entry) -> bool:
        """Update an entry; False if there is no room for it, or no group for prefixes of its length."""
        key, entry = _key(changed), self._table.get(changed.match, changed.priority)
        row, length = self._rows.get(key), _prefix_len(changed)
        prefixes = self._prefixes.get(length)
        if entry is not None and row is not None:
            self._write(row, self._table.result(entry))
        elif entry is not None:
            if prefixes is None or not self._has_row() or prefixes.is_full:
                return False
            row = self._rows[key] = self._add(self._table.result(entry))
            self._put_prefix(prefixes, entry, row)
            prefixes.used += 1
        elif row is not None and prefixes is not None:
            self._put_prefix(prefixes, changed, _REMOVED)
            self._free.append(self._rows.pop(key))
        return True

    def _follow_any(self, single: dict[_Key, Entry]) -> None:
        same = True
        for key, changed in single.items():
            entry = self._table.get(changed.match, changed.priority)
            row = self._rows.get(key)
            if entry is not None and row is not None:
                self._write(row, self._table.result(entry))
            elif entry is not None:
                if not self._has_row():
                    self.copy()
                    return
                self._rows[key] = self._add(self._table.result(entry))
                same = False
            elif row is not None:
                self._free.append(self._rows.pop(key))
                same = False
        if not same:
            entries = self._table.ranked()
            self._rows = {key: self._rows[key] for key in map(_key, entries)}
            self._alive = [self._ffi.from_buffer("uint64_t[]", self._records)]
            self._made.records = self._alive[0]
            self._search(entries)

    def _has_row(self) -> bool:
        return bool(self._free) or (self._used + 1) * self._layout.stride <= len(self._records)

    def _address(self, memory: array[int]) -> Any:
        view = self._ffi.from_buffer("uint64_t[]", memory)
        self._alive.append(view)
        return view

    def _add(self, result: Result) -> int:
        """Add a record; return its number."""
        if self._free and result[0] != GROUP:
            row = self._free.pop()
        else:
            row = self._used
            self._used += 1
        if result[0] == GROUP:
            choices = [self._add(choice) for choice in result[3]]
            self._write(row, (*result[:3], choices[0], len(choices)))
        else:
            self._write(row, result)
        return row

    def _write(self, row: int, result: Result) -> None:
        action, hit, entry, *parameters = result
        words = [action & _WORD, int(hit), entry.cells.buffer_info()[0] if entry is not None else 0]
        if action == GROUP:
            words += parameters
        else:
            for value, (at, count, _) in zip(parameters, self._layout.places, strict=False):
                assert at == len(words)
                words += [value >> 64 * i & _WORD for i in range(count)]
        words += [0] * (self._layout.stride - len(words))
        assert len(words) == self._layout.stride >= PARAMETERS
        begin = row * self._layout.stride
        for index, word in enumerate(words):
            self._records[begin + index] = word

    def words_of(self, values: Sequence[int]) -> list[int]:
        """Return the values of the key fields as words."""
        return [
            value >> 64 * i & _WORD for value, count in zip(values, self._key_words, strict=True) for i in range(count)
        ]

    def _put(self, match: tuple[Match, ...], row: int) -> None:
        words = self.words_of([part.value for part in match if isinstance(part, Exact)])
        self._library.pipeline_put(self._made.slots, self._made.slot_mask, words, len(words), row)

    def _hash(self, matches: Sequence[tuple[Match, ...]], found: Sequence[int]) -> None:
        count = _slots_for(2 * len(matches))
        self._slots = array("Q", bytes(8 * count * (self._made.words + 1)))
        self._made.slots = self._address(self._slots)
        self._made.slot_mask = count - 1
        for match, row in zip(matches, found, strict=True):
            self._put(match, row)
        self._made.kind = _EXACT

    def _by_prefix(self, entries: Sequence[Entry]) -> None:
        of_length: dict[int, list[Entry]] = {}
        for entry in entries:
            of_length.setdefault(_prefix_len(entry), []).append(entry)
        groups = self._ffi.new("struct group[]", len(of_length))
        self._alive.append(groups)
        self._prefixes = {}
        for group, (length, some) in zip(groups, sorted(of_length.items(), reverse=True), strict=True):
            masks = [mask for _, mask in _masked(some[0], self._table.key_widths)]
            # Room for twice as many.
            count = _slots_for(2 * len(some))
            slots = self._address(array("Q", bytes(8 * count * (self._made.words + 1))))
            group.masks, group.slots, group.slot_mask = (
                self._address(array("Q", self.words_of(masks))),
                slots,
                count - 1,
            )
            self._prefixes[length] = prefixes = _Prefixes(slots, count - 1, len(some))
            for entry in some:
                self._put_prefix(prefixes, entry, self._rows[_key(entry)])
        self._made.groups, self._made.group_count = groups, len(of_length)
        self._made.kind = _PREFIXES

    def _put_prefix(self, prefixes: _Prefixes, entry: Entry, number: int) -> None:
        words = self.words_of([value for value, _ in _masked(entry, self._table.key_widths)])
        self._library.pipeline_put(prefixes.slots, prefixes.slot_mask, words, len(words), number)

    def _intervals(self, matches: Sequence[Match], found: Sequence[int]) -> None:
        starts, ranks = cut(matches, self._table.key_widths[0])
        # The last interval may begin beyond the values of the field.
        words = [word for start in starts for word in self._field_words(start, 0)]
        self._made.starts = self._address(array("Q", words))
        self._made.winners = self._address(array("Q", [_MISS if rank is None else found[rank] for rank in ranks]))
        self._made.count = sum(1 for start in starts if start < 1 << 64 * self._key_words[0])
        self._made.kind = _INTERVALS

    def _field_words(self, value: int, field: int) -> list[int]:
        return [value >> 64 * i & _WORD for i in range(self._key_words[field])]

    def _masks(self, matches: Sequence[tuple[Match, ...]]) -> None:
        ordered = mask_groups(matches, self._table.key_widths)
        groups = self._ffi.new("struct group[]", len(ordered))
        self._alive.append(groups)
        words = self._made.words
        for group, (best, masks, ranks) in zip(groups, ordered, strict=True):
            count = _slots_for(len(ranks))
            group.best = best
            group.masks = self._address(array("Q", self.words_of(masks)))
            group.slot_mask = count - 1
            slots = self._address(array("Q", bytes(8 * count * (words + 1))))
            group.slots = slots
            for values, rank in ranks.items():
                self._library.pipeline_put(slots, count - 1, self.words_of(values), words, rank)
        self._made.groups = groups
        self._made.group_count = len(ordered)
        self._made.kind = _MASKS

    def _bits(self, matches: Sequence[tuple[Match, ...]]) -> None:
        widths = self._table.key_widths
        set_words = (len(matches) + 63) // 64
        columns = self._ffi.new("struct column[]", len(widths))
        self._alive.append(columns)
        at = 0
        for field, (column, width) in enumerate(zip(columns, widths, strict=True)):
            column.word, column.words = at, self._key_words[field]
            at += column.words
            parts = [match[field] for match in matches]
            pieces = bits_by_interval(parts, width)
            if pieces is not None:
                starts, sets = pieces
                inside = [i for i, start in enumerate(starts) if start < 1 << 64 * column.words]
                column.parts = len(inside)
                column.starts = self._address(
                    array("Q", [w for i in inside for w in self._field_words(starts[i], field)])
                )
                column.sets = self._address(array("Q", [w for i in inside for w in _set_words(sets[i], set_words)]))
                continue
            groups = bits_by_mask(parts, width)
            values = [(value, bits) for group in groups.values() for value, bits in sorted(group.items())]
            bounds = [0]
            for group in groups.values():
                bounds.append(bounds[-1] + len(group))
            column.parts = len(groups)
            column.masks = self._address(array("Q", [w for mask in groups for w in self._field_words(mask, field)]))
            column.bounds = self._address(array("Q", bounds))
            column.starts = self._address(
                array("Q", [w for value, _ in values for w in self._field_words(value, field)])
            )
            column.sets = self._address(array("Q", [w for _, bits in values for w in _set_words(bits, set_words)]))
        self._made.columns = columns
        self._made.column_count = len(widths)
        self._made.set_words = set_words
        self._made.kind = _BITS


@dataclass(slots=True)
class _Prefixes:
    """The hash table of the prefixes of one length. ``used`` counts its slots, including those of removed entries."""

    slots: Any
    slot_mask: int
    used: int

    @property
    def is_full(self) -> bool:
        """Whether another prefix would fill more than half of it."""
        return 2 * (self.used + 1) > self.slot_mask + 1


def _key(entry: Entry) -> _Key:
    return entry.match, entry.priority


def _prefix_len(entry: Entry) -> int:
    return next(part.prefix_len for part in entry.match if isinstance(part, Lpm))


def _masked(entry: Entry, widths: Sequence[int]) -> list[tuple[int, int]]:
    """Return (value, mask) of each field."""
    pairs = [mask_of(part, width) for part, width in zip(entry.match, widths, strict=True)]
    return [pair for pair in pairs if pair is not None]


def _slots_for(count: int) -> int:
    """Return the number of slots of a hash table that is at most half full: a power of two."""
    return 1 << (2 * count + 1).bit_length()


def _set_words(bits: int, words: int) -> list[int]:
    return [bits >> 64 * i & _WORD for i in range(words)]
