"""Tables of the README and of docs/studies/results.md from an ablation: shares in per cent, differences in points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from mfs_eval.results.markdown import table
from mfs_eval.results.statistics import Estimate, gap_closed, mean_interval, paired_difference
from mfs_eval.setup.policies import CEILING
from mfs_eval.setup.scenario import SCENARIOS
from mfs_eval.setup.variants import FLOOR, FULL, UNAFFECTED
from mfs_eval.studies.ablation_rows import Row

Seeds = dict[int, float]
"""Attainment by seed."""
BASELINES = ("fifo", "static", "static-reuse", "sjf", "edf", "karuna")
PARTS = (
    "hosts-only", "switch-only", "stale-progress", "without-bias", "fixed-thresholds", "without-red", "levels-2",
    "levels-4", "sjf", "edf", "karuna", "llf",
)  # fmt: skip
PRUNED = ("mfs", "static", "static-reuse", "fifo", "sjf", "edf", "karuna")


class Attainment:
    """Attainment of an ablation, by scenario, request rate, variant and seed."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._shares: dict[tuple[str, float, str], Seeds] = {}
        self._rates: dict[str, set[float]] = {}
        for row in rows:
            self._shares.setdefault((row.scenario, row.request_rate, row.variant), {})[row.seed] = row.slo_attainment
            self._rates.setdefault(row.scenario, set()).add(row.request_rate)
        self.scenarios = [name for name in SCENARIOS if name in self._rates]

    def rates(self, scenario: str) -> list[float]:
        """Return the request rates of a scenario in ascending order."""
        return sorted(self._rates[scenario])

    def of(self, scenario: str, rate: float, variant: str) -> Seeds:
        """Return the attainment by seed; empty if the variant was not run."""
        return self._shares.get((scenario, rate, variant), {})

    def at_highest_rate(self, scenario: str, variant: str) -> Seeds:
        """Return the attainment by seed at the highest request rate of a scenario."""
        return self.of(scenario, self.rates(scenario)[-1], variant)


def scenarios(rows: Iterable[Row]) -> str:
    """Return ``mfs`` and its baselines in every scenario at every request rate."""
    found = Attainment(rows)
    lines = []
    for scenario in found.scenarios:
        for rate in found.rates(scenario):
            baselines = {name: found.of(scenario, rate, name) for name in BASELINES}
            # Rounded, so that of two equal means the first counts, whatever the order of the additions.
            mean = {name: round(fmean(seeds.values()), 9) for name, seeds in baselines.items()}
            best = max(mean, key=lambda name: mean[name])
            full, ceiling = (found.of(scenario, rate, name) for name in (FULL, CEILING))
            closed = gap_closed(full, baselines[FLOOR], ceiling)
            lines.append(
                (
                    f"`{scenario}`",
                    f"{rate:g}",
                    *(_mean(baselines[name]) for name in ("fifo", "static", "static-reuse")),
                    f"{_mean(baselines[best])} `{best}`",
                    _mean(full),
                    _mean(ceiling),
                    difference(paired_difference(full, baselines["static"]), 0),
                    difference(paired_difference(full, baselines[best])),
                    f"{fmean(full.values()) / fmean(baselines[FLOOR].values()):.2f}",
                    "" if closed is None else f"{closed:.0%}",
                )
            )
    heads = (
        "scenario", "requests/s", "fifo", "static", "static-reuse", "best other", "mfs", "ceiling", "mfs - static",
        "mfs - best other", "mfs / fifo", "gap closed",
    )  # fmt: skip
    return table(heads, lines)


def headline(rows: Iterable[Row]) -> str:
    """Return fair sharing, three fixed classes and ``mfs`` in every scenario at its highest request rate."""
    found = Attainment(rows)
    lines = []
    for scenario in found.scenarios:
        fifo, classes, full = (found.at_highest_rate(scenario, name) for name in (FLOOR, "static-reuse", FULL))
        rate = f"{found.rates(scenario)[-1]:g}"
        means = (f"{_mean(seeds)} %" for seeds in (fifo, classes, full))
        lines.append((f"`{scenario}`", rate, *means, difference(paired_difference(full, classes))))
    return table(("scenario", "requests/s", "fifo", "static-reuse", "mfs", "mfs - static-reuse, points"), lines)


def parts(rows: Iterable[Row]) -> str:
    """Return what the scheduler without one of its parts, and other policies, lose at the highest rate."""
    return _differences(rows, "variant - mfs, points", [(f"`{name}`", name, FULL) for name in PARTS])


def pruning(rows: Iterable[Row]) -> str:
    """Return what giving up hopeless requests is worth to each policy at the highest rate."""
    return _differences(rows, "pruning on - off, points", [(f"`{name}`", f"{name}-pruning", name) for name in PRUNED])


def cheating(rows: Iterable[Row]) -> str:
    """Return what a cheating server costs the others at the highest rate."""
    pairs = [(name, UNAFFECTED) for name in ("without-policing", "policing", "untrusted")] + [("honest-policed", FULL)]
    labelled = [(f"`{name}` - `{base}`", name, base) for name, base in pairs]
    return _differences(rows, "points, others' attainment", labelled)


def _differences(rows: Iterable[Row], heading: str, pairs: Sequence[tuple[str, str, str]]) -> str:
    """Return a line per label, variant and base, and a column per scenario."""
    found = Attainment(rows)
    lines = [
        (
            label,
            *(
                difference(paired_difference(found.at_highest_rate(place, variant), found.at_highest_rate(place, base)))
                for place in found.scenarios
            ),
        )
        for label, variant, base in pairs
    ]
    return table((heading, *(f"`{name}`" for name in found.scenarios)), lines)


def difference(estimate: Estimate | None, digits: int = 1) -> str:
    """Format a difference of shares, in points."""
    if estimate is None:
        return ""
    half = f" ± {100 * estimate.half:.{digits}f}" if math.isfinite(estimate.half) else ""
    return f"{100 * estimate.mean:+.{digits}f}{half}"


def _mean(seeds: Seeds) -> str:
    return f"{100 * mean_interval(list(seeds.values())).mean:.0f}" if seeds else ""


TABLES: dict[str, Callable[[Iterable[Row]], str]] = {
    "headline": headline,
    "cheating": cheating,
    "scenarios": scenarios,
    "parts": parts,
    "pruning": pruning,
}
