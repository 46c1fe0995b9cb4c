"""``mfs report``: tables and pictures of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level.sweep_rows import FILE, Row
from mfs_eval.flow_level.tenants import ALIKE
from mfs_eval.flow_level.variants import VARIANTS
from mfs_eval.results import plots
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.results.rows import read_rows
from mfs_eval.results.statistics import mean_interval

Group = tuple[str, int, int, int, float, str, str]
"""Case, servers, requests, oversubscription, SLO factor, layout and tenants: each group has a table and a picture."""


def report_sweep(out: Path, console: Console | None = None) -> list[Path]:
    """Print a table and write a picture for each case and fabric of the sweep in ``out``; return the pictures.

    Raises:
        EvaluationError: there is no ``out/sweep.csv``, or it holds something else.
    """
    console = console or Console()
    with writing(out):
        rows = rows_in(out)
        drawn = []
        for group, found in sorted(groups(rows).items()):
            _print_table(group, found, console)
            name = "-".join(str(part) for part in ("sweep", *group))
            picture = out / f"{name}.svg"
            write_atomically(picture, picture_of(found))
            drawn.append(picture)
    console.print("Pictures: " + ", ".join(map(str, drawn)), highlight=False, soft_wrap=True)
    return drawn


def curves(rows: Iterable[Row]) -> dict[str, list[tuple[float, float]]]:
    """Return, for each variant, its attainment by rate per GPU: the mean over seeds."""
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
    """Return the highest rate at which ``curve`` attains ``attainment``; None if none does. Linear between points."""
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
    """Return the rows of the sweep in ``out``.

    Raises:
        EvaluationError: there is no ``out/sweep.csv``, it cannot be read, or it holds something else.
    """
    path = out / FILE
    try:
        return read_rows(path, Row)
    except FileNotFoundError:
        raise EvaluationError(f"there is no {path}; run mfs sweep --out {out} first") from None
    except OSError as error:
        raise EvaluationError(f"cannot read {path}: {error.strerror}") from None


def groups(rows: Iterable[Row]) -> dict[Group, list[Row]]:
    """Return the rows by group."""
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
    """Return curves over the rates; with a single rate, a mean with its interval for each variant."""
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
