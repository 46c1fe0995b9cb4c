"""``mfs study rotation``: what promoting packets that are already enqueued would gain (docs/reference/tofino.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from mfs_eval import options
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results.markdown import table
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.results.schema import Run
from mfs_eval.results.statistics import Estimate, mean_interval, paired_difference
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.run_settings import ControlSettings, PortSettings, RunSettings
from mfs_eval.setup.workload import Workload
from mfs_eval.studies.stranding import BASE, RATE, SCENARIO, measured

NS_PER_MS = 1_000_000
PERIODS_MS = (1, 4, 16, 64)
"""From the time of a few scaled frames to the time in which the slack of a request runs out."""
ORDERS = {"hosts and switch": ("both", PERIODS_MS), "switch only": ("switch", PERIODS_MS[:1])}
"""By description: who schedules (:class:`~mfs_eval.setup.run_settings.ControlSettings`), and the periods to try."""
MEASURES = ("stranded, KB", "delay, ms", "reordered per million", "TTFT mean, ms", "TTFT p99, ms", "attainment, %")
"""Headings of :mod:`mfs_eval.studies.stranding` in which the variants differ."""
COMPARED = ("delay, ms", "TTFT mean, ms", "attainment, %")
"""Headings whose difference to no rotation is also shown."""

Runs = Mapping[str, Mapping[int, Run]]
"""By variant and seed."""


def variants() -> dict[str, RunSettings]:
    """Return the settings by name: with and without rotation, and with and without scheduling in the hosts."""
    named = {}
    for words, (order, periods_ms) in ORDERS.items():
        control = ControlSettings(order=order)
        named[still(words)] = replace(BASE, control=control)
        for period_ms in periods_ms:
            ports = PortSettings(rotation_period_ns=period_ms * NS_PER_MS)
            named[f"{words}, every {period_ms} ms"] = replace(BASE, control=control, ports=ports)
    return named


def still(words: str) -> str:
    """Return the variant without rotation for ``words``, a key of :data:`ORDERS`."""
    return f"{words}, no rotation"


def measure(work: Workload, seeds: Sequence[int]) -> Runs:
    """Run all variants with the same arrivals."""
    runs = {}
    for name, settings in variants().items():
        runs[name] = {seed: run(SCENARIO, work, "mfs", RATE, seed, settings) for seed in seeds}
        click.echo(f"{name}: done", err=True)
    return runs


def markdown(runs: Runs) -> str:
    """Return the table in Markdown: means over seeds and paired differences to no rotation, with 95 % intervals."""
    headings = ("variant", *MEASURES, *(f"{heading}: to no rotation" for heading in COMPARED))
    lines = []
    for name, of_seeds in runs.items():
        base = runs[still(name.partition(",")[0])]
        cells = [_words(mean_interval([measured(one, heading) for one in of_seeds.values()])) for heading in MEASURES]
        for heading in COMPARED:
            here, there = ({seed: measured(one, heading) for seed, one in which.items()} for which in (of_seeds, base))
            difference = paired_difference(here, there)
            cells.append("" if difference is None or of_seeds is base else _words(difference, sign="+"))
        lines.append((name, *cells))
    return table(headings, lines)


def _words(estimate: Estimate, sign: str = "") -> str:
    half = f" ± {estimate.half:,.1f}" if math.isfinite(estimate.half) else ""
    return f"{estimate.mean:{sign},.1f}{half}"


@click.command(short_help="What rotating queues would gain.")
@options.out_folder(None, "rotation.md")
@options.requests(60, minimum=5)
@options.seeds("1-12")
def rotation(out: Path, requests: int, seeds: tuple[int, ...]) -> None:
    """Measure what rotating queues would gain, and write rotation.md."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    rows = markdown(measure(workload(SCENARIO, load_trace(SAMPLE_PATH), requests), seeds))
    with writing(out):
        write_atomically(out / "rotation.md", rows)
    click.echo(rows, nl=False)
