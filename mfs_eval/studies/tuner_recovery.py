"""``python -m mfs_eval.studies.tuner_recovery --out DIR``: the tuner's way back from thresholds set 16 times off.

Leaves ``tuner-recovery.svg`` (of the first seed) in DIR and prints a row for each seed and start; the same seeds
give the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from host_agent.protocol.level import CODE_STEPS
from mfs_eval.results import plots
from mfs_eval.studies.tuner_loop import BEST_FIRST, FULL, LoopPoint, tuner_loop

OFF = 4 * CODE_STEPS
"""A factor of 16 in codes."""
STARTS = {"16 times too late": BEST_FIRST + OFF, "16 times too early": BEST_FIRST - OFF}
TICKS = 40
SHOWN = 10
"""Ticks at the start and at the end over which shares are averaged."""


def recover(seed: int, ticks: int = TICKS) -> dict[str, list[LoopPoint]]:
    """The ticks from each of :data:`STARTS`. Raises as :func:`~mfs_eval.packet_level.testbed.open_testbed_on`."""
    runs = {}
    for name, first in STARTS.items():
        with tuner_loop(first, seed=seed) as loop:
            runs[name] = loop.run(FULL, ticks)
    return runs


def row(name: str, points: Sequence[LoopPoint]) -> str:
    """Q_1, and the shares of late flows as the receivers saw them, in the first and in the last ticks."""
    shares = [
        f"{stage} late {mean(share(point) for point in points[:SHOWN]):.1%} -> "
        f"{mean(share(point) for point in points[-SHOWN:]):.1%}"
        for stage, share in (("last stage", _last_late), ("early stages", _early_late))
    ]
    firsts = [point.first for point in points[len(points) // 2 :]]
    return f"{name}: Q_1 {STARTS[name]} -> {min(firsts)}..{max(firsts)}, {', '.join(shares)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the picture")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=3, help="how many of them")
    chosen = parser.parse_args(arguments)
    runs: dict[int, dict[str, list[LoopPoint]]] = {}
    for seed in range(chosen.seed, chosen.seed + chosen.seeds):
        runs[seed] = recover(seed)
        for name, points in runs[seed].items():
            print(f"seed {seed}, {row(name, points)}", flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    first_runs = runs[chosen.seed].items()
    firsts = {name: [STARTS[name], *(point.first for point in points)] for name, points in first_runs}
    (chosen.out / "tuner-recovery.svg").write_text(plots.recovery(firsts, BEST_FIRST), encoding="utf-8")


def _last_late(point: LoopPoint) -> float:
    return point.last_late


def _early_late(point: LoopPoint) -> float:
    return point.early_late


if __name__ == "__main__":
    main()
