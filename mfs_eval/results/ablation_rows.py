"""``ablation.csv``: a row per run, appended as runs end, so that an interrupted ablation goes on where it was."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from mfs_eval.results.csv_rows import CsvRows
from mfs_eval.results.schema import Measured, Run

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


class RowFile(CsvRows[Row]):
    """The rows at ``path``, those that are there included; a last line that was cut off is dropped.

    Raises:
        EvaluationError: the file is not one of ours, or of runs with another number of requests or scale.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, requests_per_run: int, scale: int) -> None:
        self._requests_per_run = requests_per_run
        self._scale = scale
        super().__init__(path, Row, COLUMNS)

    def check(self, row: Row) -> str | None:
        """Whether it is of the same runs."""
        if row.requests_per_run != self._requests_per_run:
            return f"its runs have {row.requests_per_run} requests, not {self._requests_per_run}"
        if row.scale != self._scale:
            return f"its runs have scale {row.scale:,}, not {self._scale:,}"
        return None
