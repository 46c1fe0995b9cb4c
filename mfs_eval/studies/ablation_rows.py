"""``ablation.csv``: one row per run of an ablation."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator

from mfs_eval.results.rows import StoredRow
from mfs_eval.results.schema import Measured
from mfs_eval.setup.scenario import Scenario

FILE = "ablation.csv"


class Row(Measured, StoredRow):
    """One run. Times in seconds, shares from 0 to 1."""

    LEADING: ClassVar[tuple[str, ...]] = (
        "scenario", "policy", "variant", "engine", "request_rate", "load", "prompts", "seed",
        "requests_per_run", "scale", "hand_over_early",
    )  # fmt: skip
    KEY: ClassVar[tuple[str, ...]] = (
        "scenario", "engine", "prompts", "hand_over_early", "request_rate", "variant", "seed",
    )  # fmt: skip

    variant: str
    engine: str = "packets"
    """``packets`` or ``flows``."""
    load: float | None
    """Share that fair sharing attains at this rate, roughly; None for rates that are not the scenario's own."""
    prompts: str = "first"
    """Which prompts are served, one of :data:`~mfs_eval.setup.windows.PROMPTS`."""
    requests_per_run: int
    """Including those of the warm-up, which do not count."""
    scale: int
    """Divisor of rates and bytes."""
    hand_over_early: bool = True
    """Whether KV leaves beside the step's all-to-all, not after it."""

    @field_validator("load", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value


def row_of(
    measured: Measured,
    scenario: Scenario,
    variant: str,
    engine: str,
    load: float | None,
    prompts: str,
    requests_per_run: int,
) -> Row:
    """Return the row of a run."""
    values = {name: getattr(measured, name) for name in Measured.model_fields}
    return Row(
        **values,
        variant=variant,
        engine=engine,
        load=load,
        prompts=prompts,
        requests_per_run=requests_per_run,
        scale=scenario.scale,
        hand_over_early=scenario.hand_over_early,
    )
