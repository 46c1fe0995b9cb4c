"""Small tables of studies as CSV: a heading, and a line for each row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from mfs_eval.errors import EvaluationError


def text_of(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return the table as CSV, numbers unrounded."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return text.getvalue()


def cells_of(path: Path, heading: Sequence[str], command: str) -> list[list[str]]:
    """Return the cells of the rows that :func:`text_of` wrote with the same heading.

    Raises:
        EvaluationError: the file is another table than that of ``command``.
        OSError: it cannot be read.
    """
    lines = list(csv.reader(path.read_text("utf-8").splitlines()))
    if not lines or lines[0] != list(heading) or any(len(line) != len(heading) for line in lines):
        raise EvaluationError(f"{path}: its columns are not those of `{command}`; measure again")
    return lines[1:]
