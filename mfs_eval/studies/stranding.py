"""``python -m mfs_eval.studies.stranding``: what promotions strand and reorder, where a message is many packets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import click

from mfs_ctrl.cli import reporting_errors
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results.schema import Run
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.run_settings import HostSettings, PortSettings, RunSettings
from mfs_eval.setup.scenario import SCENARIOS
from mfs_eval.setup.workload import Workload

SCENARIO = replace(SCENARIOS["incast"], scale=1000)
"""The scenario whose contention is in the switch; a packet stands for 1.5 MB."""
RATE = SCENARIO.request_rates[0]
MESSAGE_SEGMENTS = 8
BASE = RunSettings(HostSettings(message_segments=MESSAGE_SEGMENTS))
KIB = 1024
MARKED_FRAMES = 16
"""A window of a flow: a queue this long has more than one flow in it."""

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
"""By heading: the field of :class:`~mfs_eval.results.schema.Run`, and the factor that turns it into the heading's
unit.
"""
HEADINGS = ("variant", *MEASURES)


@dataclass(frozen=True, slots=True)
class Row:
    """One variant, the mean over its runs; the cells as :data:`HEADINGS` has them."""

    variant: str
    cells: tuple[float, ...]


def row(variant: str, runs: Sequence[Run]) -> Row:
    """The mean of ``runs``, at least one."""
    return Row(variant, tuple(fmean(measured(one, heading) for one in runs) for heading in MEASURES))


def measured(one: Run, heading: str) -> float:
    """What ``one`` shows under ``heading`` of :data:`MEASURES`."""
    field, factor = MEASURES[heading]
    return factor * float(getattr(one, field))


def markdown(rows: Sequence[Row]) -> str:
    """The table for people."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    lines += ["| " + " | ".join((one.variant, *(f"{cell:,.1f}" for cell in one.cells))) + " |" for one in rows]
    return "\n".join(lines) + "\n"


def measure(work: Workload, seeds: Sequence[int]) -> list[Row]:
    """All of :data:`VARIANTS`, each with the same arrivals."""
    return [
        row(name, [run(SCENARIO, work, "mfs", RATE, seed, settings) for seed in seeds])
        for name, settings in VARIANTS.items()
    ]


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the tables.")
@click.option("--requests", type=click.IntRange(min=5), default=60, show_default=True, help="Requests of a run.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Runs of a variant.")
def stranding(out: Path, requests: int, seeds: int) -> None:
    """Measure what promotions strand and reorder, and write stranding.md and stranding.csv."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        rows = measure(workload(SCENARIO, load_trace(SAMPLE_PATH), requests), range(1, seeds + 1))
        (out / "stranding.md").write_text(markdown(rows), "utf-8")
        with (out / "stranding.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADINGS)
            writer.writerows((one.variant, *one.cells) for one in rows)
    except OSError as error:
        raise EvaluationError(f"cannot write {out}: {error.strerror}; choose another folder with --out") from None
    click.echo(markdown(rows), nl=False)


if __name__ == "__main__":
    reporting_errors(stranding)
