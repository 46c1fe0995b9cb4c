"""Shared by tests of machine code: whether it is possible here, and tables in C alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from soft_switch.ir.expressions import PARAMETERS
from soft_switch.native import library
from soft_switch.native.errors import NativeError
from soft_switch.native.module import layout_of
from soft_switch.native.tables import TableImage
from soft_switch.tables.entry import Entry
from soft_switch.tables.table import Table


@functools.cache
def no_machine_code() -> str:
    """Why machine code is not possible on this machine; empty if it is."""
    try:
        library.load_pipeline("")
    except NativeError as error:
        return str(error)
    return ""


class NativeTable:
    """A table as machine code sees it."""

    def __init__(self, table: Table) -> None:
        self.ffi: Any = library.interface()
        self.library = library.load_pipeline("")
        self.made = self.ffi.new("struct table *")
        self.layout = layout_of(table)
        self.image = TableImage(self.ffi, self.library, self.made, table, self.layout)
        self.changed: list[Entry] = []
        table.on_change = self._note

    def _note(self, _: Table, entry: Entry | None) -> None:
        if entry is None:
            self.image.copy()
        else:
            self.changed.append(entry)

    def look_up(self, values: Sequence[int]) -> list[int]:
        """The result of a key: action id, hit, and the words of the parameters."""
        self.image.follow(self.changed)
        self.changed = []
        words = self.image.words_of(values)
        record = int(self.library.pipeline_search(self.made, words, len(words)))
        found = self.made.records[record * self.layout.stride : (record + 1) * self.layout.stride]
        return [found[0], found[1], *(found[i] for i in range(PARAMETERS, self.layout.stride))]
