"""State that all functions of a translated program share: tables, cells, requests, and the state of a packet."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from soft_switch.ir.expressions import PARAMETERS
from soft_switch.ir.program import Generated
from soft_switch.model.cells import WideCells
from soft_switch.native import numbers
from soft_switch.native.numbers import Kind, kind_of
from soft_switch.tables.table import Table

_MEMORY_BITS = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Request:
    """Something that Python does for a packet.

    Attributes:
        kind: what to do.
        fixed: arguments that are the same for every packet.
        values: for each argument that C computes, its 64-bit words and whether it is signed.
    """

    kind: str
    fixed: tuple[Any, ...]
    values: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Places of the parameters in a table's records of ``stride`` words: (first word, words, bits) of each."""

    places: tuple[tuple[int, int, int], ...]
    stride: int


@dataclass(slots=True)
class Translated:
    """The C of a program, and what belongs to it.

    Attributes:
        source: the C, which goes after ``runtime.h``.
        cells: the memory that C and Python share, by number.
        tables: the tables, by number.
        requests: requests of C to Python, by number.
        rid_bytes: how many bytes egress_rid has in a packet's state; None if it is not in it.
        priority_bytes: how many bytes priority has there; None if it is not in it.
        header_bytes: most bytes by which a packet may grow between arrival and departure.
    """

    source: str = ""
    cells: list[array[int]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    rid_bytes: int | None = None
    priority_bytes: int | None = None
    header_bytes: int = 0


class Module:
    """The functions of a program: they share the variables that a packet takes from ingress to egress."""

    def __init__(self, generated: Generated) -> None:
        self.generated = generated
        self.types = generated.types
        self.result = Translated()
        self._layouts: dict[Table, RecordLayout] = {}

    def kind(self, name: str) -> Kind:
        """Return the type of a variable that holds a number."""
        return kind_of(*self.types.numbers[name])

    def table(self, table: Table) -> int:
        """Return the number of a table."""
        if table not in self.result.tables:
            self.result.tables.append(table)
        return self.result.tables.index(table)

    def layout(self, table: Table) -> RecordLayout:
        """Return where parameters are in the records of a table."""
        if table not in self._layouts:
            self._layouts[table] = layout_of(table)
        return self._layouts[table]

    def memory(self, words: array[int]) -> str:
        """Return the address in C of memory that Python owns."""
        number = next((i for i, known in enumerate(self.result.cells) if known is words), len(self.result.cells))
        if number == len(self.result.cells):
            self.result.cells.append(words)
        return f"s->cells[{number}]"

    def cells(self, name: str) -> tuple[str, int, int]:
        """Return (address in C, cells, words of each) of an array of cells."""
        thing = self.generated.objects[name]
        if isinstance(thing, WideCells):
            return self.memory(thing.memory), len(thing), thing.words
        return self.memory(thing), len(thing), 1

    def request(self, request: Request) -> int:
        """Return the number of a request."""
        self.result.requests.append(request)
        return len(self.result.requests) - 1

    def memory_type(self, name: str) -> str:
        """Return the type of a variable in the state."""
        low, high = self.types.numbers[name]
        if low >= 0:
            for bits in _MEMORY_BITS:
                if high < 1 << bits:
                    return f"u{bits}"
        return self.kind(name).name

    def state(self) -> str:
        """Return the struct that holds the state of a packet, as C; the packet's bytes are beside it."""
        sized = []
        for name in self.generated.carried:
            if name in self.types.numbers:
                sized.append((self._bytes(name), f"    {self.memory_type(name)} v_{name};"))
            elif name != "data":
                sized.append((4, f"    u32 v_{name}, v_{name}_n;"))
        lines = [line for _, line in sorted(sized, key=lambda item: -item[0])] or ["    u8 nothing;"]
        return "\n".join(["struct carried {", *lines, "};"])

    def _bytes(self, name: str) -> int:
        text = self.memory_type(name)
        return int(text[1:]) * 8 if text[0] == "w" else int(text[1:]) // 8

    def place(self, word: str, position: int | None) -> tuple[str, int | None]:
        """Return (a C function that says where a variable is in the state, how many bytes it has there)."""
        at, size = "0", None
        if position is not None:
            name = self.generated.carried[position]
            size, at = self._bytes(name), f"__builtin_offsetof(struct carried, v_{name})"
        return f"u64 pipeline_{word}_at(void) {{ return {at}; }}", size


def layout_of(table: Table) -> RecordLayout:
    """Return where machine code finds the parameters of a table's actions."""
    positions: list[int] = []
    for _, widths in table.actions.values():
        for index, width in enumerate(widths):
            if index == len(positions):
                positions.append(1)
            positions[index] = max(positions[index], width)
    places, at = [], PARAMETERS
    for width in positions:
        words = numbers.modular(width).bits // 64
        places.append((at, words, width))
        at += words
    return RecordLayout(tuple(places), max(at, PARAMETERS + 2))
