"""Search structures for tables with a key field that is not exact. Built after each change of a table, then read-only.

:func:`build_search` chooses among three: sorted intervals for a single field, one hash table per combination of masks
("tuple space search"), and one bit per entry and field ("bit vectors") where ranges are involved.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from soft_switch.tables.matches import Match, Ternary, interval_of, mask_of

NARROW_BITS = 8
"""Fields of up to this many bits get an array with one slot per value."""
FEW_MASKS = 6
MANY_ENTRIES = 2048

R = TypeVar("R")
Matches = Sequence[tuple[Match, ...]]
Search = Callable[[Any], R]
"""Maps a key (the value of the only field, or the tuple of several) to the result of the first entry that matches."""


def build_search(matches: Matches, results: Sequence[R], otherwise: R, widths: Sequence[int]) -> Search[R]:
    """Build a search over entries, best first, each with its result; ``widths`` are those of the key fields in bits."""
    if single_intervals(matches, widths):
        return flat_intervals([match[0] for match in matches], results, otherwise, widths[0])
    if few_masks(matches, widths):
        return tuple_space(matches, results, otherwise, widths)
    return bit_vectors(matches, results, otherwise, widths)


def single_intervals(matches: Matches, widths: Sequence[int]) -> bool:
    """Return whether there is one field, and every entry accepts one interval of its values."""
    return len(widths) == 1 and all(interval_of(match[0], widths[0]) is not None for match in matches)


def _pairs(match: tuple[Match, ...], widths: Sequence[int]) -> list[tuple[int, int]] | None:
    pairs = []
    for part, width in zip(match, widths, strict=True):
        pair = mask_of(part, width)
        if pair is None:
            return None
        pairs.append(pair)
    return pairs


def few_masks(matches: Matches, widths: Sequence[int]) -> bool:
    """Return whether a hash table per combination of masks is the better search."""
    masks = _mask_combinations(matches, widths)
    return masks is not None and (len(masks) <= FEW_MASKS or len(matches) > MANY_ENTRIES)


def _mask_combinations(matches: Matches, widths: Sequence[int]) -> set[tuple[int, ...]] | None:
    result = set()
    for match in matches:
        pairs = _pairs(match, widths)
        if pairs is None:
            return None
        result.add(tuple(mask for _, mask in pairs))
    return result


def flat_intervals(matches: Sequence[Match], results: Sequence[R], otherwise: R, width: int) -> Search[R]:
    """Search one field: the number line cut where an entry begins or ends, each piece with its winner. O(log n)."""
    starts, ranks = cut(matches, width)
    # No key is below the first cut: keys are not negative, and 0 is a cut.
    winners: list[R] = [otherwise, *(otherwise if rank is None else results[rank] for rank in ranks)]
    return lambda key: winners[bisect_right(starts, key)]


def cut(matches: Sequence[Match], width: int) -> tuple[list[int], list[int | None]]:
    """Return where each piece of the line begins, from 0, and the number of the first entry that accepts it."""
    begins: dict[int, list[int]] = {}
    ends = []
    cuts = {0}
    for rank, match in enumerate(matches):
        interval = interval_of(match, width)
        if interval is None:
            raise ValueError("a mask that is not a prefix")
        begins.setdefault(interval[0], []).append(rank)
        ends.append(interval[1])
        cuts.update((interval[0], interval[1] + 1))
    starts = sorted(cuts)
    winners: list[int | None] = []
    alive: list[int] = []
    for start in starts:
        for rank in begins.get(start, ()):
            heapq.heappush(alive, rank)
        while alive and ends[alive[0]] < start:
            heapq.heappop(alive)
        winners.append(alive[0] if alive else None)
    return starts, winners


def tuple_space(matches: Matches, results: Sequence[R], otherwise: R, widths: Sequence[int]) -> Search[R]:
    """Search a hash table per combination of masks, in the order of the best entry in each."""
    ordered = mask_groups(matches, widths)
    none = len(matches)
    by_rank = [*results, otherwise]
    single = len(widths) == 1

    def search(key: Any) -> R:
        values = (key,) if single else key
        best = none
        for first, masks, group in ordered:
            if best < first:
                break
            rank = group.get(tuple([v & m for v, m in zip(values, masks, strict=True)]), none)
            if rank < best:
                best = rank
        return by_rank[best]

    return search


def mask_groups(
    matches: Matches, widths: Sequence[int]
) -> list[tuple[int, tuple[int, ...], dict[tuple[int, ...], int]]]:
    """Return for each combination of masks, best first: its best entry, the masks, first entry by masked values."""
    groups: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    for rank, match in enumerate(matches):
        pairs = _pairs(match, widths)
        if pairs is None:
            raise ValueError("a range that is not a mask")
        values, masks = (tuple(numbers) for numbers in zip(*pairs, strict=True))
        groups.setdefault(masks, {}).setdefault(values, rank)
    return sorted(((min(group.values()), masks, group) for masks, group in groups.items()), key=lambda g: g[0])


def bit_vectors(matches: Matches, results: Sequence[R], otherwise: R, widths: Sequence[int]) -> Search[R]:
    """Search sets of entries that accept a value, one per field, as the bits of a number; a lookup is their AND."""
    fields = [_bits_by_value([match[i] for match in matches], width) for i, width in enumerate(widths)]
    everything = (1 << len(matches)) - 1
    # The lowest bit that remains is the best entry; without any, the index is -1, the last element.
    by_rank = [*results, otherwise]
    single = len(widths) == 1

    def search(key: Any) -> R:
        bits = everything
        for accept, value in zip(fields, (key,) if single else key, strict=True):
            bits &= accept(value)
        return by_rank[(bits & -bits).bit_length() - 1]

    return search


def _bits_by_value(column: Sequence[Match], width: int) -> Callable[[int], int]:
    pieces = bits_by_interval(column, width)
    if pieces is None:
        return _bits_by_mask(column, width)
    starts, sets = pieces
    if width <= NARROW_BITS:
        return [sets[bisect_right(starts, value) - 1] for value in range(1 << width)].__getitem__
    return lambda value: sets[bisect_right(starts, value) - 1]


def bits_by_interval(column: Sequence[Match], width: int) -> tuple[list[int], list[int]] | None:
    """Return where each piece of the line begins and the entries that accept it; None if a mask is not a prefix."""
    intervals = [interval_of(match, width) for match in column]
    if any(interval is None for interval in intervals):
        return None
    changes: dict[int, int] = {0: 0}
    for number, interval in enumerate(intervals):
        if interval is not None:
            low, high = interval
            changes[low] = changes.get(low, 0) ^ (1 << number)
            changes[high + 1] = changes.get(high + 1, 0) ^ (1 << number)
    starts = sorted(changes)
    bits, sets = 0, []
    for start in starts:
        bits ^= changes[start]
        sets.append(bits)
    return starts, sets


def bits_by_mask(column: Sequence[Match], width: int) -> dict[int, dict[int, int]]:
    """Return for each mask the entries that accept each masked value."""
    groups: dict[int, dict[int, int]] = {}
    for number, match in enumerate(column):
        pair = mask_of(match, width)
        if pair is None:
            raise ValueError(f"{match} among {Ternary.__name__} matches")
        value, mask = pair
        group = groups.setdefault(mask, {})
        group[value] = group.get(value, 0) | 1 << number
    return groups


def _bits_by_mask(column: Sequence[Match], width: int) -> Callable[[int], int]:
    groups = bits_by_mask(column, width)

    def accept(value: int) -> int:
        bits = 0
        for mask, group in groups.items():
            bits |= group.get(value & mask, 0)
        return bits

    if width <= NARROW_BITS:
        return [accept(value) for value in range(1 << width)].__getitem__
    return accept
