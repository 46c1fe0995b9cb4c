"""Tables as machine code searches them: copied from the tables of the control plane after a change."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from soft_switch.lookup import bits_by_interval, bits_by_mask, cut, few_masks, mask_groups, single_intervals
from soft_switch.matches import Exact, Match
from soft_switch.native.numbers import modular
from soft_switch.native.translator import PARAMETERS, RecordLayout
from soft_switch.tables import GROUP, Entry, Result, Table

MEMO_SLOTS = 4096
"""Results that a table with a costly search keeps; a power of two."""
_NONE, _EXACT, _INTERVALS, _BITS, _MASKS = range(5)
_MISS = 0
_WORD = (1 << 64) - 1


class TableImage:
    """One table in memory that machine code reads. ``made`` is the C struct that is filled in.

    Tables whose fields are all exact follow single changes; others are copied anew.
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
        self._rows: dict[tuple[Match, ...], int] = {}
        self._slots: array[int] = array("Q")
        made.words = sum(self._key_words)
        made.stride = layout.stride
        made.miss = _MISS
        memo = array("Q", bytes(8 * MEMO_SLOTS * (made.words + 2)))
        self._memo = ffi.from_buffer("uint64_t[]", memo)
        self.copy()

    def copy(self) -> None:
        """Copies the whole table."""
        table = self._table
        entries = table.ranked()
        results = [table.result(entry) for entry in entries]
        rows = 1 + len(results) + sum(len(result[3]) for result in results if result[0] == GROUP)
        self._alive = []
        # Room for as many more as there are: each copy of an exact table is paid for by what is added to it.
        self._records = array("Q", bytes(8 * self._layout.stride * (2 * rows + 16)))
        self._used = 0
        self._made.records = self._address(self._records)
        self._add(table.result(None))
        found = [self._add(result) for result in results]
        self._made.kind = _NONE
        if not entries or not table.key_widths:
            return
        matches = [entry.match for entry in entries]
        if table.is_exact:
            self._hash(matches, found)
        elif single_intervals(matches, table.key_widths):
            self._intervals([match[0] for match in matches], found)
        else:
            self._made.memo = self._memo
            self._made.memo_mask = MEMO_SLOTS - 1
            self._made.generation += 1
            self._made.winners = self._address(array("Q", found))
            self._made.count = len(found)
            if few_masks(matches, table.key_widths):
                self._masks(matches)
            else:
                self._bits(matches)

    def follow(self, changed: Iterable[Entry]) -> None:
        """Brings single entries up to date."""
        table = self._table
        if not table.is_exact or table.profile is not None or self._made.kind != _EXACT:
            self.copy()
            return
        for match in dict.fromkeys(entry.match for entry in changed):
            row, entry = self._rows.get(match), table.at(match)
            if row is None:
                if entry is None:
                    continue
                if (self._used + 1) * self._layout.stride > len(self._records) or self._is_full():
                    self.copy()
                    return
                row = self._rows[match] = self._add(table.result(entry))
                self._put(match, row)
            else:
                # What was removed keeps its row, which then says what a miss does.
                self._write(row, table.result(entry))

    def _is_full(self) -> bool:
        return 2 * (len(self._rows) + 1) * (sum(self._key_words) + 1) > len(self._slots)

    def _address(self, memory: array[int]) -> Any:
        view = self._ffi.from_buffer("uint64_t[]", memory)
        self._alive.append(view)
        return view

    def _add(self, result: Result) -> int:
        """The number of a new record."""
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
        """The values of the key fields as words."""
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
        self._rows = dict(zip(matches, found, strict=True))
        for match, row in self._rows.items():
            self._put(match, row)
        self._made.kind = _EXACT

    def _intervals(self, matches: Sequence[Match], found: Sequence[int]) -> None:
        starts, ranks = cut(matches, self._table.key_widths[0])
        # The last may begin beyond the field's values.
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


def _slots_for(count: int) -> int:
    """Slots of a hash table that is at most half full; a power of two."""
    return 1 << (2 * count + 1).bit_length()


def _set_words(bits: int, words: int) -> list[int]:
    return [bits >> 64 * i & _WORD for i in range(words)]
