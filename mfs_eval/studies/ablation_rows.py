"""``ablation.csv``: one row per run of an ablation."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator

from mfs_eval.results.rows import StoredRow
from mfs_eval.results.schema import Measured, Run

FILE = "ablation.csv"


class Row(Measured, StoredRow):
    """One run. Times in seconds, shares from 0 to 1."""

    LEADING: ClassVar[tuple[str, ...]] = (
        "scenario", "policy", "variant", "request_rate", "load", "seed", "requests_per_run", "scale",
    )  # fmt: skip
    KEY: ClassVar[tuple[str, ...]] = ("scenario", "request_rate", "variant", "seed")

    variant: str
    load: float | None
    """Share that fair sharing attains at this rate, roughly; None for rates that are not the scenario's own."""
    requests_per_run: int
    """Including those of the warm-up, which do not count."""
    scale: int
    """Divisor of rates and bytes."""

    @field_validator("load", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value


def row_of(run: Run, variant: str, load: float | None, requests_per_run: int, scale: int) -> Row:
    """Return the row of ``run``."""
    values = {name: getattr(run, name) for name in Measured.model_fields}
    return Row(**values, variant=variant, load=load, requests_per_run=requests_per_run, scale=scale)
