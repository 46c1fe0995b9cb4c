"""What all functions of a translated program share: variables, tables, cells, requests, and a packet's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from soft_switch.codegen.functions import Generated
from soft_switch.model.externs import RegisterArray
from soft_switch.native import numbers
from soft_switch.native.numbers import Kind, kind_of
from soft_switch.tables.table import Results, Table

PARAMETERS = 3
"""Where the parameters of an action begin in a record."""
COUNTS = (0, (1 << 32) - 1)
TIMES = (0, (1 << 63) - 1)
_ROUNDS = 6
_WIDEST = (-(1 << 62), 1 << 62)
_MEMORY_BITS = (8, 16, 32)

Interval: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Request:
    """Something that Python does for a packet: ``kind``, what is fixed, and for each value its words and whether it is
    signed."""

    kind: str
    fixed: tuple[Any, ...]
    values: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Where the parameters are in a table's records: (first word, words, bits) of each position."""

    places: tuple[tuple[int, int, int], ...]
    stride: int


@dataclass(slots=True)
class Translated:
    """The C of a program, and what belongs to it.

    Attributes:
        source: the C, to be put after ``runtime.h``.
        cells: the objects of the generated code whose memory the C shares, by number.
        tables: the objects of the generated code that are results of tables, by number.
        requests: what it asks Python for, by number.
        rid_bytes: how many bytes egress_rid has in a packet's state; None where it is not in it.
        priority_bytes: likewise for priority.
        header_bytes: how much longer than the packet that came in one may be that leaves, at most.
    """

    source: str = ""
    cells: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    rid_bytes: int | None = None
    priority_bytes: int | None = None
    header_bytes: int = 0


class Module:
    """The functions of a program: they share the variables that a packet takes from ingress to egress.

    Attributes:
        changed: whether something was learned of a variable that what was translated before did not know.
        settling: how often all functions have been translated.
    """

    def __init__(self, generated: Generated, externs: Mapping[str, Any]) -> None:
        self.generated = generated
        self.objects = generated.objects
        self.extern_names = {id(thing): name for name, thing in externs.items()}
        self.register_widths = {id(r.values): r.width for r in externs.values() if isinstance(r, RegisterArray)}
        self.result = Translated()
        self.intervals: dict[str, Interval] = {}
        self.spans: dict[str, int] = {}
        self.records: dict[str, int] = {}
        self.entries: set[str] = set()
        self.changed = False
        self.settling = 0
        self.layouts: list[tuple[Table, RecordLayout]] = []

    def widen(self, name: str, low: int, high: int) -> None:
        """A variable takes values of an interval."""
        fixed = self.generated.limits.get(name)
        if fixed is not None:
            self.intervals.setdefault(name, fixed)
            return
        known = self.intervals.get(name, (0, 0))
        wider = (min(known[0], low), max(known[1], high))
        if wider != known or name not in self.intervals:
            # A variable that grows in a loop would never come to rest.
            if self.settling > _ROUNDS:
                wider = (_settled(known[0], wider[0], _WIDEST[0]), _settled(known[1], wider[1], _WIDEST[1]))
            self.changed = self.changed or wider != known or name not in self.intervals
            self.intervals[name] = wider

    def kind(self, name: str) -> Kind:
        """The type of a variable."""
        return kind_of(*self.interval(name))

    def interval(self, name: str) -> Interval:
        """What a variable may hold."""
        if name == "n":
            return COUNTS
        fixed = self.generated.limits.get(name)
        return fixed if fixed is not None else self.intervals.get(name, (0, 0))

    def table(self, name: str, results: Results) -> int:
        """The number of a table, by the name of its results."""
        if name not in self.result.tables:
            self.result.tables.append(name)
            self.layouts.append((results.table, layout_of(results.table)))
        return self.result.tables.index(name)

    def cell(self, name: str) -> int:
        """The number of an array of cells, or of the meters that an object belongs to, by its name."""
        if name not in self.result.cells:
            self.result.cells.append(name)
        return self.result.cells.index(name)

    def request(self, request: Request) -> int:
        """The number of a request."""
        self.result.requests.append(request)
        return len(self.result.requests) - 1

    def carried(self) -> list[str]:
        """The variables in it; the packet's bytes are beside it."""
        return [name for name in self.generated.carried if name != "data"]

    def memory_type(self, name: str) -> str:
        """The type of a variable in the state."""
        low, high = self.interval(name)
        if low >= 0:
            for bits in _MEMORY_BITS:
                if high < 1 << bits:
                    return f"u{bits}"
        return self.kind(name).name

    def state(self) -> str:
        """The struct, as C."""
        lines = ["struct carried {"]
        sized = []
        for name in self.carried():
            if name in self.spans:
                sized.append((4, f"    u32 v_{name}, v_{name}_n;"))
            else:
                sized.append((self._bytes(name), f"    {self.memory_type(name)} v_{name};"))
        lines += [line for _, line in sorted(sized, key=lambda item: -item[0])]
        if not sized:
            lines.append("    u8 nothing;")
        return "\n".join([*lines, "};"])

    def _bytes(self, name: str) -> int:
        text = self.memory_type(name)
        return int(text[1:]) * 8 if text[0] == "w" else int(text[1:]) // 8

    def place(self, word: str, position: int | None) -> int | None:
        """Has the C say where a variable is in the state; how many bytes it has there."""
        at, size = "0", None
        if position is not None:
            name = self.generated.carried[position]
            size, at = self._bytes(name), f"__builtin_offsetof(struct carried, v_{name})"
        self.result.source += f"u64 pipeline_{word}_at(void) {{ return {at}; }}\n"
        return size


def _settled(known: int, wished: int, bound: int) -> int:
    """The end of an interval that goes on growing: at once as far as it can come."""
    if known == wished or abs(known) >= abs(bound):
        return known
    return bound


def layout_of(table: Table) -> RecordLayout:
    """Where machine code finds the parameters of a table's actions."""
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
