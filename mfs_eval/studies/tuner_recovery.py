"""``mfs study tuner-recovery``: how the tuner recovers from thresholds that are wrong by a factor of 16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import click

from host_agent.protocol.level import CODE_STEPS
from mfs_eval import options
from mfs_eval.results import plots
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.studies.tuner_loop import BEST_FIRST, FULL, LoopPoint, tuner_loop

OFF = 4 * CODE_STEPS
"""A factor of 16, in codes."""
STARTS = {"16 times too late": BEST_FIRST + OFF, "16 times too early": BEST_FIRST - OFF}
TICKS = 40
SHOWN = 10
"""Shares are averaged over this many ticks at the start and at the end."""


def recover(seed: int, ticks: int = TICKS) -> dict[str, list[LoopPoint]]:
    """Return the ticks from each of :data:`STARTS`.

    Raises:
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    runs = {}
    for name, first in STARTS.items():
        with tuner_loop(first, seed=seed) as loop:
            runs[name] = loop.run(FULL, ticks)
    return runs


def row(name: str, points: Sequence[LoopPoint]) -> str:
    """Describe Q_1 and the shares of late flows, as the receivers saw them, in the first and in the last ticks."""
    shares = [
        f"{stage} late {mean(share(point) for point in points[:SHOWN]):.1%} -> "
        f"{mean(share(point) for point in points[-SHOWN:]):.1%}"
        for stage, share in (("last stage", _last_late), ("early stages", _early_late))
    ]
    firsts = [point.first for point in points[len(points) // 2 :]]
    return f"{name}: Q_1 {STARTS[name]} -> {min(firsts)}..{max(firsts)}, {', '.join(shares)}"


@click.command(short_help="How the tuner recovers from wrong thresholds.")
@options.out_folder(None, "tuner-recovery.svg")
@options.seeds("1-3")
def tuner_recovery(out: Path, seeds: tuple[int, ...]) -> None:
    """Start the tuner 16 times too late and 16 times too early, and print a line for each seed and start.

    The picture shows the first seed. The same seeds give the same bytes.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    runs: dict[int, dict[str, list[LoopPoint]]] = {}
    for seed in seeds:
        runs[seed] = recover(seed)
        for name, points in runs[seed].items():
            click.echo(f"seed {seed}, {row(name, points)}")
    firsts = {name: [STARTS[name], *(point.first for point in points)] for name, points in runs[seeds[0]].items()}
    with writing(out):
        write_atomically(out / "tuner-recovery.svg", plots.recovery(firsts, BEST_FIRST))


def _last_late(point: LoopPoint) -> float:
    return point.last_late


def _early_late(point: LoopPoint) -> float:
    return point.early_late
