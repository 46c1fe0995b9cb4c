"""``mfs report``: the tables and pictures of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level.sweep import FILE
from mfs_eval.flow_level.sweep_parquet import FILE as PARQUET
from mfs_eval.flow_level.sweep_parquet import read_parquet
from mfs_eval.flow_level.sweep_rows import Row, rows_at
from mfs_eval.flow_level.tenants import ALIKE
from mfs_eval.flow_level.variants import VARIANTS
from mfs_eval.results import plots
from mfs_eval.results.output import writing
from mfs_eval.results.statistics import mean_interval

Group = tuple[str, int, int, int, float, str, str]
"""Case, servers, requests, oversubscription, SLO factor, layout, tenants: what a table and a picture are of."""


def report_sweep(out: Path, console: Console | None = None) -> list[Path]:
    """Print a table and write a picture for each case and fabric of a sweep; returns the pictures.

    The rows are those of ``out/sweep.csv``, or of ``out/sweep.parquet`` where that alone is there.

    Raises:
        EvaluationError: there is no such file, or it is another one.
    """
    console = console or Console()
    with writing(out):
        rows = rows_in(out)
        drawn = []
        for group, found in sorted(groups(rows).items()):
            _print_table(group, found, console)
            name = "-".join(str(part) for part in ("sweep", *group))
            picture = out / f"{name}.svg"
            picture.write_text(picture_of(found), "utf-8")
            drawn.append(picture)
    console.print("Pictures: " + ", ".join(map(str, drawn)), highlight=False)
    return drawn


def curves(rows: Iterable[Row]) -> dict[str, list[tuple[float, float]]]:
    """For each variant its attainment by rate per GPU, the mean over seeds."""
    rows = list(rows)
    found: dict[str, list[tuple[float, float]]] = {}
    for variant in [name for name in VARIANTS if any(row.variant == name for row in rows)]:
        mine = [row for row in rows if row.variant == variant]
        found[variant] = [
            (rate, fmean(row.slo_attainment for row in mine if row.rate_per_gpu == rate))
            for rate in sorted({row.rate_per_gpu for row in mine})
        ]
    return found


def rate_at(curve: Sequence[tuple[float, float]], attainment: float) -> float | None:
    """The highest rate at which a curve still attains ``attainment``, linear between its points; None if at none."""
    best = None
    for (rate, share), (next_rate, next_share) in pairwise(curve):
        if share >= attainment:
            best = rate
            if next_share < attainment:
                best = rate + (next_rate - rate) * (share - attainment) / (share - next_share)
    if curve and curve[-1][1] >= attainment:
        best = curve[-1][0]
    return best


def rows_in(out: Path) -> list[Row]:
    """The rows of the sweep in ``out``: of its CSV file, or of its Parquet file where that alone is there.

    Raises:
        EvaluationError: there is neither, or it is another file.
    """
    if (out / FILE).exists():
        return list(rows_at(out / FILE).rows.values())
    if (out / PARQUET).exists():
        return read_parquet(out / PARQUET)
    raise EvaluationError(f"there is no {out / FILE}; run mfs sweep --out {out} first")


def groups(rows: Iterable[Row]) -> dict[Group, list[Row]]:
    """The rows that belong in one table."""
    found: dict[Group, list[Row]] = {}
    for row in rows:
        group = (
            row.scenario,
            row.servers,
            row.requests_per_run,
            row.oversubscription,
            row.slo_factor,
            row.layout,
            row.tenants,
        )
        found.setdefault(group, []).append(row)
    return found


def picture_of(rows: Sequence[Row]) -> str:
    """Curves over the rates; where there is one rate alone, a line for each variant with its interval."""
    found = curves(rows)
    [rate, *others] = {row.rate_per_gpu for row in rows}
    if others:
        return plots.sweep(found)
    estimates = [(name, mean_interval([row.slo_attainment for row in rows if row.variant == name])) for name in found]
    return plots.ablation({rate: estimates}, "requests per second and GPU")


def _goodput(curve: Sequence[tuple[float, float]], share: float) -> str:
    rate = rate_at(curve, share)
    if rate is None:
        return f"<{curve[0][0]:g}"
    return f">{rate:g}" if rate == curve[-1][0] else f"{rate:.3f}"


def _print_table(group: Group, rows: Sequence[Row], console: Console) -> None:
    case, servers, requests, over, factor, layout, tenants = group
    title = (
        f"{case}, {servers} servers, {over}:1, {layout}, {requests} requests, objective {factor:g} x low-load TTFT"
        + (f", tenants {tenants}" if tenants != ALIKE else "")
    )
    console.print(title, highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0))
    rates = sorted({row.rate_per_gpu for row in rows})
    table.add_column("in SLO, %, at requests/s per GPU", no_wrap=True)
    for rate in rates:
        table.add_column(f"{rate:g}", justify="right")
    table.add_column("rate at 50 %", justify="right")
    table.add_column("90 %", justify="right")
    for variant, curve in curves(rows).items():
        by_rate = dict(curve)
        cells = []
        for rate in rates:
            seeds = [row.slo_attainment for row in rows if (row.variant, row.rate_per_gpu) == (variant, rate)]
            half = mean_interval(seeds).half if len(seeds) > 1 else None
            cells.append(
                f"{100 * by_rate[rate]:.0f}" + (f"±{100 * half:.0f}" if half is not None else "") if seeds else ""
            )
            if tenants != ALIKE and seeds:
                mine = [row for row in rows if (row.variant, row.rate_per_gpu) == (variant, rate)]
                first, second = (
                    100 * fmean(getattr(row, f"attainment_{which}") for row in mine) for which in ("first", "second")
                )
                cells[-1] += f" ({first:.0f}, {second:.0f})"
        table.add_row(variant, *cells, *(_goodput(curve, share) for share in (0.5, 0.9)))
    console.print(table, "")
