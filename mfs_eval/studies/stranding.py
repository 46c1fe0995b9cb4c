"""``mfs study stranding``: what promotions strand and reorder when a message is many packets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import click

from mfs_eval import options
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results.csv_text import cells_of, text_of
from mfs_eval.results.markdown import table
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.results.schema import Run
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.run_settings import HostSettings, PortSettings, RunSettings
from mfs_eval.setup.scenario import SCENARIOS
from mfs_eval.setup.workload import Workload

SCENARIO = replace(SCENARIOS["incast"], scale=1000)
"""The scenario whose contention is in the switch. A packet represents 1.5 MB."""
RATE = SCENARIO.request_rates[0]
MESSAGE_SEGMENTS = 8
BASE = RunSettings(HostSettings(message_segments=MESSAGE_SEGMENTS))
KIB = 1024
MARKED_FRAMES = 16
"""The window of a flow: a longer queue holds packets of several flows."""

VARIANTS: dict[str, RunSettings] = {
    "base": BASE,
    "promotion within messages": replace(BASE, hosts=replace(BASE.hosts, promote_within=True)),
    "guaranteed share 1/64": replace(BASE, ports=PortSettings(guaranteed_share=Fraction(1, 64))),
    "guaranteed share 0": replace(BASE, ports=PortSettings(guaranteed_share=Fraction(0))),
    "queues of 256 KiB": replace(BASE, ports=PortSettings(queue_bytes=256 * KIB)),
    "queues of 64 KiB": replace(BASE, ports=PortSettings(queue_bytes=64 * KIB)),
    "ECN below the top level": replace(BASE, ports=PortSettings(ecn_frames=(*(MARKED_FRAMES,) * 7, None))),
}
"""``base``: promotion at messages of eight segments, a share of 1/256, queues of 1 MiB, no ECN."""

MEASURES: dict[str, tuple[str, float]] = {
    "stranded, KB": ("stranded_bytes", 1e-3),
    "delay, ms": ("stranding_delay_mean_s", 1e3),
    "reordered per million": ("reordered_per_million", 1),
    "reordered within a message": ("reordered_within_message", 1),
    "packets lost": ("packets_lost", 1),
    "TTFT mean, ms": ("ttft_mean_s", 1e3),
    "TTFT p99, ms": ("ttft_p99_s", 1e3),
    "attainment, %": ("slo_attainment", 100),
}
"""By heading: a field of :class:`~mfs_eval.results.schema.Run`, and the factor that converts it to the unit."""
HEADINGS = ("variant", *MEASURES)


@dataclass(frozen=True, slots=True)
class Row:
    """Mean over the runs of one variant, with the cells of :data:`MEASURES`."""

    variant: str
    cells: tuple[float, ...]


def row(variant: str, runs: Sequence[Run]) -> Row:
    """Return the mean of ``runs``, of which there must be at least one."""
    return Row(variant, tuple(fmean(measured(one, heading) for one in runs) for heading in MEASURES))


def measured(one: Run, heading: str) -> float:
    """Return the value of ``one`` under ``heading`` of :data:`MEASURES`."""
    field, factor = MEASURES[heading]
    return factor * float(getattr(one, field))


def markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    return table(HEADINGS, ((one.variant, *(f"{cell:,.1f}" for cell in one.cells)) for one in rows))


def csv_text(rows: Sequence[Row]) -> str:
    """Return the table as CSV, unrounded."""
    return text_of(HEADINGS, ((one.variant, *one.cells) for one in rows))


def read(path: Path) -> list[Row]:
    """Read the rows that :func:`csv_text` wrote.

    Raises:
        EvaluationError: the file is not such a table.
        OSError: it cannot be read.
    """
    found = cells_of(path, HEADINGS, "mfs study stranding")
    return [Row(variant, tuple(map(float, cells))) for variant, *cells in found]


def measure(work: Workload, seeds: Sequence[int]) -> list[Row]:
    """Run all of :data:`VARIANTS` with the same arrivals."""
    return [
        row(name, [run(SCENARIO, work, "mfs", RATE, seed, settings) for seed in seeds])
        for name, settings in VARIANTS.items()
    ]


@click.command(short_help="What promotions strand and reorder.")
@options.out_folder(None, "stranding.md and stranding.csv")
@options.requests(60, minimum=5)
@options.seeds("1-2")
def stranding(out: Path, requests: int, seeds: tuple[int, ...]) -> None:
    """Measure what promotions strand and reorder, and write stranding.md and stranding.csv."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    rows = measure(workload(SCENARIO, load_trace(SAMPLE_PATH), requests), seeds)
    with writing(out):
        write_atomically(out / "stranding.md", markdown(rows))
        write_atomically(out / "stranding.csv", csv_text(rows))
    click.echo(markdown(rows), nl=False)
