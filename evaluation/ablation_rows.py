"""``ablation.csv``: a row per run, appended as runs end, so that an interrupted ablation goes on where it was."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError, field_validator

from evaluation.errors import EvaluationError
from evaluation.results import Measured, Run

Key = tuple[str, float, str, int]
"""What tells runs apart: scenario, request rate, variant, seed."""


class Row(Measured):
    """One run. Times in seconds, shares from 0 to 1."""

    variant: str
    load: float | None
    """What fair sharing attains at this rate, about; None for rates that are not the scenario's own."""
    requests_per_run: int
    """With those of the warm-up, which do not count."""
    scale: int
    """Rates and bytes were divided by this."""

    @field_validator("load", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def key(self) -> Key:
        """Which run it is."""
        return self.scenario, self.request_rate, self.variant, self.seed


_FIRST = ("scenario", "policy", "variant", "request_rate", "load", "seed", "requests_per_run", "scale")
COLUMNS = (*_FIRST, *(name for name in Measured.model_fields if name not in _FIRST))
"""Of the file: what was run, then what was measured."""


def row_of(run: Run, variant: str, load: float | None, requests_per_run: int, scale: int) -> Row:
    """The row of ``run``."""
    values = {name: getattr(run, name) for name in Measured.model_fields}
    return Row(
        **values,
        variant=variant,
        load=load,
        requests_per_run=requests_per_run,
        scale=scale,
    )


class RowFile:
    """The rows at ``path``, those that are there included; a last line that was cut off is dropped.

    Raises:
        EvaluationError: the file is not one of ours, or of runs with another number of requests or scale.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, requests_per_run: int, scale: int) -> None:
        self.rows: dict[Key, Row] = {}
        self._path = path
        text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        for row in self._parse(whole):
            if row.requests_per_run != requests_per_run:
                raise self._refusal(f"its runs have {row.requests_per_run} requests, not {requests_per_run}")
            if row.scale != scale:
                raise self._refusal(f"its runs have scale {row.scale:,}, not {scale:,}")
            self.rows.setdefault(row.key, row)
        self._write(self.rows.values())

    def append(self, row: Row) -> None:
        """Add one run, at once."""
        self.rows[row.key] = row
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines([row]))

    def sort(self) -> None:
        """Write all rows anew by key, so that the file does not tell in which order runs ended."""
        self._write(sorted(self.rows.values(), key=lambda row: row.key))

    def _parse(self, text: str) -> list[Row]:
        if not text:
            return []
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise self._refusal("its columns are others")
        try:
            return [Row.model_validate(values) for values in reader]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise self._refusal(f"line {reader.line_num}: {where}: {first['msg']}") from None

    def _refusal(self, reason: str) -> EvaluationError:
        return EvaluationError(
            f"cannot go on from {self._path}: {reason}; remove it or choose another folder with --out"
        )

    def _write(self, rows: Iterable[Row]) -> None:
        new = self._path.with_name(self._path.name + ".new")
        header = ",".join(COLUMNS) + "\n"
        new.write_text(header + _lines(rows), "utf-8", newline="")
        # At no time is there a file with fewer rows.
        os.replace(new, self._path)


def _lines(rows: Iterable[Row]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(row.model_dump() for row in rows)
    return text.getvalue()
