"""The table of parts that earn nothing: each against the scheduler with it, over all committed pairs of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mfs_eval.results.markdown import table
from mfs_eval.results.statistics import mean_interval, paired_difference
from mfs_eval.setup.variants import FULL
from mfs_eval.studies.ablation_rows import Row
from mfs_eval.studies.ablation_tables import Attainment, difference


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the scheduler.

    Attributes:
        name: for readers.
        having: variant with the part.
        lacking: variant without it, otherwise the same.
    """

    name: str
    having: str
    lacking: str


PARTS = (
    Part("tuned thresholds", FULL, "fixed-thresholds"),
    Part("bias by measured load", FULL, "without-bias"),
    Part("order between batches (RED)", "fixed-thresholds", "without-red"),
    Part("pruning, under `mfs`", f"{FULL}-pruning", FULL),
    Part("pruning, under `static-reuse`", "static-reuse-pruning", "static-reuse"),
)


def parts(rows: Iterable[Row]) -> str:
    """Return what each of :data:`PARTS` earns: over all pairs of runs, and where it earns least and most.

    The extremes are means over the seeds of one scenario at one rate.
    """
    found = Attainment(rows)
    lines = []
    for part in PARTS:
        differences: list[float] = []
        cells = []
        for scenario in found.scenarios:
            for rate in found.rates(scenario):
                having, lacking = (found.of(scenario, rate, name) for name in (part.having, part.lacking))
                differences += [having[seed] - lacking[seed] for seed in having.keys() & lacking.keys()]
                gain = paired_difference(having, lacking)
                if gain is not None:
                    cells.append((gain.mean, f"{difference(gain)} `{scenario}` {rate:g}/s"))
        if not cells:
            continue
        compared = f"`{part.having}` - `{part.lacking}`"
        average = f"{100 * mean_interval(differences).mean:+.2f}"
        lines.append((part.name, compared, str(len(differences)), average, min(cells)[1], max(cells)[1]))
    return table(("part", "points of attainment", "pairs", "mean", "least", "most"), lines)


TABLES: dict[str, Callable[[Iterable[Row]], str]] = {"parts": parts}
