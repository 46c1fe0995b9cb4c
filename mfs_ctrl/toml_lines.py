"""Finds the line of a table or a key in a TOML file, which :mod:`tomllib` does not report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

Path = tuple[str | int, ...]
"""Keys from the top of the document; an element of an array of tables is an index from 0."""
_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.\"'-]+)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")


class LineIndex:
    """Lines of the tables and keys of ``text``, which must be valid TOML."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        arrays: Counter[str] = Counter()
        table: Path = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                names = _names(header[2])
                # [switch.parameters] after [[switch]] belongs to the last element.
                last = arrays[names[0]] - 1
                table = (names[0], last, *names[1:]) if last >= 0 and len(names) > 1 else names
                if header[1] == "[[":
                    self._lines.setdefault(table, number)
                    table = (*table, arrays[header[2]])
                    arrays[header[2]] += 1
                for length in range(1, len(table) + 1):
                    self._lines.setdefault(table[:length], number)
            elif key := _KEY.match(line):
                self._lines.setdefault((*table, *_names(key[1])), number)

    def line(self, path: Sequence[str | int]) -> int | None:
        """Return the line of ``path`` or, failing that, of the nearest enclosing key or table."""
        for length in range(len(path), 0, -1):
            if (number := self._lines.get(tuple(path[:length]))) is not None:
                return number
        return None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in text.split("."))
