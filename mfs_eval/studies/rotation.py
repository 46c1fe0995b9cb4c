"""``python -m mfs_eval.studies.rotation``: what promoting packets that are already enqueued would gain
(docs/reference/tofino.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from mfs_ctrl.cli import reporting_errors
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results.schema import Run
from mfs_eval.results.statistics import Estimate, mean_interval, paired_difference
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.run_settings import ControlSettings, PortSettings, RunSettings
from mfs_eval.setup.workload import Workload
from mfs_eval.studies.stranding import BASE, RATE, SCENARIO, measured

NS_PER_MS = 1_000_000
PERIODS_MS = (1, 4, 16, 64)
"""From a few frames' time of this scale to the time in which a request's slack runs out."""
ORDERS = {"hosts and switch": ("both", PERIODS_MS), "switch only": ("switch", PERIODS_MS[:1])}
"""By words: who orders (:class:`~mfs_eval.setup.run_settings.RunSettings`), and the periods that are tried."""
MEASURES = ("stranded, KB", "delay, ms", "reordered per million", "TTFT mean, ms", "TTFT p99, ms", "attainment, %")
"""Headings of :mod:`mfs_eval.studies.stranding`: those in which the variants differ."""
COMPARED = ("delay, ms", "TTFT mean, ms", "attainment, %")
"""Of these the difference to no rotation is shown too."""

Runs = Mapping[str, Mapping[int, Run]]
"""By variant and seed."""


def variants() -> dict[str, RunSettings]:
    """By name: without rotation and with it, where hosts order too and where they do not."""
    named = {}
    for words, (order, periods_ms) in ORDERS.items():
        control = ControlSettings(order=order)
        named[still(words)] = replace(BASE, control=control)
        for period_ms in periods_ms:
            ports = PortSettings(rotation_period_ns=period_ms * NS_PER_MS)
            named[f"{words}, every {period_ms} ms"] = replace(BASE, control=control, ports=ports)
    return named


def still(words: str) -> str:
    """The variant without rotation of those that are called ``words``, a key of :data:`ORDERS`."""
    return f"{words}, no rotation"


def measure(work: Workload, seeds: Sequence[int]) -> Runs:
    """All variants, each with the same arrivals."""
    runs = {}
    for name, settings in variants().items():
        runs[name] = {seed: run(SCENARIO, work, "mfs", RATE, seed, settings) for seed in seeds}
        click.echo(f"{name}: done", err=True)
    return runs


def markdown(runs: Runs) -> str:
    """The table for people: means over the seeds, and differences to no rotation seed by seed, with 95 % intervals."""
    headings = ("variant", *MEASURES, *(f"{heading}: to no rotation" for heading in COMPARED))
    lines = [_line(headings), "|---" * len(headings) + "|"]
    for name, of_seeds in runs.items():
        base = runs[still(name.partition(",")[0])]
        cells = [_words(mean_interval([measured(one, heading) for one in of_seeds.values()])) for heading in MEASURES]
        for heading in COMPARED:
            here, there = ({seed: measured(one, heading) for seed, one in which.items()} for which in (of_seeds, base))
            difference = paired_difference(here, there)
            cells.append("" if difference is None or of_seeds is base else _words(difference, sign="+"))
        lines.append(_line((name, *cells)))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _words(estimate: Estimate, sign: str = "") -> str:
    half = f" ± {estimate.half:,.1f}" if math.isfinite(estimate.half) else ""
    return f"{estimate.mean:{sign},.1f}{half}"


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for rotation.md.")
@click.option("--requests", type=click.IntRange(min=5), default=60, show_default=True, help="Requests of a run.")
@click.option("--seeds", type=click.IntRange(min=1), default=12, show_default=True, help="Runs of a variant.")
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
