"""Tables in Markdown, and their place in a page: between a pair of markers, so that a command can rewrite them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mfs_eval.errors import EvaluationError

_BLOCK = re.compile(
    r"^<!-- begin (?P<name>[\w-]+) -->\n(?P<text>.*?)^<!-- end (?P=name) -->\n", re.MULTILINE | re.DOTALL
)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, which ends with a newline."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (headings, *rows)]
    lines.insert(1, "|---" * len(headings) + "|")
    return "\n".join(lines) + "\n"


def blocks(page: str) -> dict[str, str]:
    """Return the text between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` by name, in the order of the page."""
    return {match["name"]: match["text"] for match in _BLOCK.finditer(page)}


def with_blocks(page: str, texts: Mapping[str, str]) -> str:
    """Return ``page`` with the text of each of its blocks replaced by that of ``texts``.

    Raises:
        EvaluationError: the page has a block that ``texts`` lacks.
    """

    def replaced(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in texts:
            raise EvaluationError(f"there is no table {name!r}; there are {', '.join(texts)}")
        return f"<!-- begin {name} -->\n{texts[name]}<!-- end {name} -->\n"

    return _BLOCK.sub(replaced, page)
