"""``python -m evaluation.rotation``: what promoting packets that are already enqueued would gain (docs/tofino.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from evaluation.errors import EvaluationError
from evaluation.experiment import run
from evaluation.rack import RunSettings
from evaluation.scenario import SCENARIOS
from evaluation.stranding import BASE, SCENARIO, Row, markdown, row
from evaluation.trace import SAMPLE_PATH, load_trace
from evaluation.workload import Workload, workload
from mfs_ctrl.cli import reporting_errors

NS_PER_MS = 1_000_000
PERIODS_MS = (1, 4, 16, 64)
"""From a few frames' time of this scale to the time in which a request's slack runs out."""
ORDERS = {"hosts and switch": "both", "switch only": "switch"}


def variants() -> dict[str, RunSettings]:
    """By name: without rotation and with each period, where hosts order too and where they do not."""
    named = {}
    for words, order in ORDERS.items():
        named[f"{words}, no rotation"] = replace(BASE, order=order)
        for period_ms in PERIODS_MS:
            named[f"{words}, every {period_ms} ms"] = replace(BASE, order=order, rotate_ns=period_ms * NS_PER_MS)
    return named


def measure(work: Workload, seeds: Sequence[int]) -> list[Row]:
    """All variants, each with the same arrivals."""
    rate = SCENARIOS[SCENARIO.name].request_rates[0]
    rows = []
    for name, settings in variants().items():
        rows.append(row(name, [run(SCENARIO, work, "mfs", rate, seed, settings) for seed in seeds]))
        click.echo(f"{name}: done", err=True)
    return rows


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for rotation.md.")
@click.option("--requests", type=click.IntRange(min=5), default=60, show_default=True, help="Requests of a run.")
@click.option("--seeds", type=click.IntRange(min=1), default=4, show_default=True, help="Runs of a variant.")
def rotation(out: Path, requests: int, seeds: int) -> None:
    """Measure what rotating queues would gain, and write rotation.md."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        table = markdown(measure(workload(SCENARIO, load_trace(SAMPLE_PATH), requests), range(1, seeds + 1)))
        (out / "rotation.md").write_text(table, "utf-8")
    except OSError as error:
        raise EvaluationError(f"cannot write {out}: {error.strerror}; choose another folder with --out") from None
    click.echo(table, nl=False)


if __name__ == "__main__":
    reporting_errors(rotation)
