"""Which unit holds which KV blocks: one least-recently-used cache per prefill unit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mfs_eval.errors import ServingError
from mfs_eval.serving.trace import BLOCK_TOKENS, Request


@dataclass(frozen=True, slots=True)
class Reuse:
    """Part of a prompt that a unit can reuse.

    Attributes:
        local_tokens: tokens at the beginning of the prompt whose KV the unit holds.
        remote_tokens: tokens after those whose KV is fetched from another unit.
        holder: the unit that they are fetched from, or None.
    """

    local_tokens: int
    remote_tokens: int
    holder: int | None

    @property
    def tokens(self) -> int:
        """All tokens that do not have to be computed."""
        return self.local_tokens + self.remote_tokens


class PrefixCache:
    """The KV blocks that each unit holds.

    Args:
        units: number of units.
        capacity_blocks: blocks that a unit can hold; None means no limit.
    """

    def __init__(self, units: int, capacity_blocks: int | None = None) -> None:
        if capacity_blocks is not None and capacity_blocks < 0:
            raise ServingError(f"the capacity of a unit's cache must not be negative, it is {capacity_blocks} blocks")
        self._blocks: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(units)]
        self._capacity = capacity_blocks

    def prefix_blocks(self, unit: int, blocks: Sequence[int]) -> int:
        """Return the length of the longest prefix of ``blocks`` that the unit holds."""
        held = self._blocks[unit]
        count = 0
        for block in blocks:
            if block not in held:
                break
            count += 1
        return count

    def reuse(self, unit: int, request: Request) -> Reuse:
        """Return what ``unit`` can reuse for ``request``: its own prefix, extended by the longest one of another unit.

        The lowest unit number wins ties. The last token of a prompt is always computed, because its result is needed.
        """
        return _reuse(self._lengths(request), unit, request)

    def reuses(self, request: Request) -> list[Reuse]:
        """Return :meth:`reuse` for each unit."""
        lengths = self._lengths(request)
        return [_reuse(lengths, unit, request) for unit in range(len(self._blocks))]

    def _lengths(self, request: Request) -> list[int]:
        return [self.prefix_blocks(unit, request.blocks) for unit in range(len(self._blocks))]

    def insert(self, unit: int, blocks: Iterable[int]) -> None:
        """Note that ``unit`` holds the KV of ``blocks`` and has just used it; evict the least recently used blocks.

        The first blocks of a prompt count as used last, because the later ones are worthless without them.
        """
        held = self._blocks[unit]
        for block in reversed(list(blocks)):
            held[block] = None
            held.move_to_end(block)
        if self._capacity is not None:
            while len(held) > self._capacity:
                held.popitem(last=False)

    def warm(self, requests: Iterable[Request]) -> None:
        """Fill the caches as if the units had served ``requests`` in turn."""
        for position, request in enumerate(requests):
            self.insert(position % len(self._blocks), request.blocks)


def _reuse(lengths: Sequence[int], unit: int, request: Request) -> Reuse:
    most = request.prompt_tokens - 1
    local = min(lengths[unit] * BLOCK_TOKENS, most)
    longest = max(lengths)
    remote = min(longest * BLOCK_TOKENS, most) - local
    return Reuse(local, remote, lengths.index(longest) if remote else None)
