"""Tables of an ablation over windows of the trace: shares in per cent, differences in points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mfs_eval.results.markdown import table
from mfs_eval.results.statistics import Estimate, mean_interval, paired_difference
from mfs_eval.setup.policies import CEILING, STATIC_BANDS, STATIC_REUSE
from mfs_eval.setup.variants import FLOOR, FLOOR_GIVING_UP, FULL
from mfs_eval.studies.ablation_rows import Row
from mfs_eval.studies.ablation_tables import Attainment, difference

POLICIES = (
    FLOOR, FLOOR_GIVING_UP, "static", STATIC_REUSE, STATIC_BANDS, "karuna", "sjf", "edf", "llf", FULL, CEILING,
)  # fmt: skip
"""Named before the runs. A table shows those that have rows."""
BASES = (FLOOR, FLOOR_GIVING_UP, STATIC_REUSE, STATIC_BANDS)
"""What ``mfs`` is compared with."""


def attainment(rows: Iterable[Row]) -> str:
    """Return what each policy attains in each scenario at each rate: the mean over windows."""
    rows = list(rows)
    found, policies = Attainment(rows), _shown(rows)
    lines = [
        (
            f"`{scenario}`",
            f"{rate:g}",
            *(_mean(found.of(scenario, rate, name)) for name in policies),
            _windows(found, scenario, rate),
        )
        for scenario in found.scenarios
        for rate in found.rates(scenario)
    ]
    return table(("scenario", "requests/s", *policies, "windows"), lines)


def gains(rows: Iterable[Row]) -> str:
    """Return ``mfs`` minus each of :data:`BASES`, window by window, in points with the 95 % interval."""
    rows = list(rows)
    found, shown = Attainment(rows), _shown(rows)
    bases = [name for name in BASES if name in shown]
    lines = [
        (f"`{scenario}`", f"{rate:g}", *(_gain(found, scenario, rate, name) for name in bases))
        for scenario in found.scenarios
        for rate in found.rates(scenario)
    ]
    return table(("mfs minus ..., points", "requests/s", *(f"`{name}`" for name in bases)), lines)


def headline(rows: Iterable[Row]) -> str:
    """Return fair sharing, three fixed classes, the same with bands, and ``mfs``, with what ``mfs`` gains."""
    found = Attainment(rows)
    shown = (FLOOR, STATIC_REUSE, STATIC_BANDS, FULL)
    lines = [
        (
            f"`{scenario}`",
            f"{rate:g}",
            *(f"{_mean(found.of(scenario, rate, name))} %" for name in shown),
            *(_gain(found, scenario, rate, name) for name in (FLOOR, STATIC_REUSE, STATIC_BANDS)),
        )
        for scenario in found.scenarios
        for rate in found.rates(scenario)
    ]
    compared = (f"{FULL} - {name}" for name in (FLOOR, STATIC_REUSE, STATIC_BANDS))
    return table(("scenario", "requests/s", *shown, *compared), lines)


def _shown(rows: Iterable[Row]) -> list[str]:
    present = {row.variant for row in rows}
    return [name for name in POLICIES if name in present]


def _windows(found: Attainment, scenario: str, rate: float) -> str:
    return str(len(found.of(scenario, rate, FLOOR)))


def _mean(seeds: Mapping[int, float]) -> str:
    return f"{100 * mean_interval(list(seeds.values())).mean:.0f}" if seeds else ""


def _gain(found: Attainment, scenario: str, rate: float, base: str) -> str:
    gain: Estimate | None = paired_difference(found.of(scenario, rate, FULL), found.of(scenario, rate, base))
    return difference(gain)


TABLES: dict[str, Callable[[Iterable[Row]], str]] = {
    "attainment": attainment,
    "gains": gains,
    "headline": headline,
}
