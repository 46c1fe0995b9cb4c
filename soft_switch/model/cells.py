"""Memory that the control plane shares with the generated code, in Python or C."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TypeAlias, overload

WORD_BITS = 64


class WideCells:
    """A list of unsigned numbers of more than 64 bits, each in ``words`` words, the least significant first."""

    def __init__(self, size: int, width: int) -> None:
        self.words = -(-width // WORD_BITS)
        self.memory = array("Q", bytes(8 * size * self.words))

    def __len__(self) -> int:
        return len(self.memory) // self.words

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> list[int]: ...

    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        at = range(len(self))[index] * self.words
        return int.from_bytes(self.memory[at : at + self.words].tobytes(), "little")

    def __setitem__(self, index: int | slice, value: int | Iterable[int]) -> None:
        if isinstance(index, slice):
            assert not isinstance(value, int)
            for number, one in zip(range(*index.indices(len(self))), value, strict=True):
                self[number] = one
            return
        assert isinstance(value, int)
        at = range(len(self))[index] * self.words
        self.memory[at : at + self.words] = array("Q", value.to_bytes(8 * self.words, "little"))

    def __iter__(self) -> Iterator[int]:
        return iter(self[:])


Cells: TypeAlias = "WideCells | array[int]"
"""A list of unsigned numbers with a fixed length."""


def cells(size: int, width: int = WORD_BITS) -> Cells:
    """Return ``size`` numbers of ``width`` bits, all 0."""
    return array("Q", bytes(8 * size)) if width <= WORD_BITS else WideCells(size, width)
