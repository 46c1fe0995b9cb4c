"""``mfs study sweep-tables``: tables of sweeps in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean

import click

from mfs_eval.flow_level.sweep_report import Group, curves, groups, rate_at, rows_in
from mfs_eval.flow_level.sweep_rows import Row
from mfs_eval.flow_level.tenants import ALIKE, jain
from mfs_eval.flow_level.variants import VARIANTS
from mfs_eval.results.markdown import table
from mfs_eval.results.statistics import Estimate, mean_interval, paired_difference
from mfs_eval.setup.variants import FLOOR, FULL

KARUNA = "karuna-paced"
EQUAL_SHARES = (0.9, 0.7, 0.5)
Place = tuple[Group, float]
"""A group and a rate, at which variants are compared."""


def places(rows: Iterable[Row]) -> dict[Place, dict[str, list[Row]]]:
    """Return the rows by group and rate, then by variant, all in order."""
    found: dict[Place, dict[str, list[Row]]] = {}
    for group, own in sorted(groups(rows).items()):
        for row in sorted(own, key=lambda one: (one.rate_per_gpu, list(VARIANTS).index(one.variant), one.seed)):
            found.setdefault((group, row.rate_per_gpu), {}).setdefault(row.variant, []).append(row)
    return found


def attainment(rows: Iterable[Row]) -> str:
    """Return attainment in per cent by case and rate, a column per variant, and the ratio of ``mfs`` to two others."""
    found = places(rows)
    names = [name for name in VARIANTS if any(name in by_variant for by_variant in found.values())]
    lines = []
    for (group, rate), by_variant in found.items():
        mean = {name: fmean(row.slo_attainment for row in own) for name, own in by_variant.items()}
        lines.append(
            [
                *_where(group, rate),
                *(f"{100 * mean[name]:.0f}" if name in mean else "" for name in names),
                *(
                    f"{mean[FULL] / mean[base]:.2f}" if mean.get(base) and FULL in mean else ""
                    for base in (FLOOR, KARUNA)
                ),
            ]
        )
    return table([*_WHERE, *(f"`{name}`" for name in names), "mfs / fifo", "mfs / karuna"], lines)


def differences(rows: Iterable[Row], against: str = FULL) -> str:
    """Return the attainment of each variant minus that of ``against``, paired by seed, with its 95 % interval."""
    found = {place: own for place, own in places(rows).items() if against in own}
    names = [name for name in VARIANTS if name != against and any(name in own for own in found.values())]
    lines = []
    for name in names:
        cells = [f"`{name}`"]
        for by_variant in found.values():
            other = paired_difference(_by_seed(by_variant.get(name, ())), _by_seed(by_variant[against]))
            cells.append(points(other))
        lines.append(cells)
    own = ["`" + against + "` itself, %", *(_per_cent(by_variant[against]) for by_variant in found.values())]
    heads = [" ".join(part for part in _where(*place) if part) for place in found]
    return table([f"variant - `{against}`, points", *heads], [own, *lines])


def equal_attainment(rows: Iterable[Row], base: str = KARUNA, share_of: Sequence[float] = EQUAL_SHARES) -> str:
    """Return the ratio of the rates at which ``mfs`` and ``base`` attain a share; empty if a curve misses it."""
    lines = []
    for group, own in sorted(groups(rows).items()):
        found = curves(own)
        if FULL not in found or base not in found:
            continue
        cells = []
        for share in share_of:
            rates = [rate_at(found[name], share) for name in (FULL, base)]
            crossed = all(_crosses(found[name], share) for name in (FULL, base))
            cells.append(f"{rates[0] / rates[1]:.2f}" if crossed and rates[0] and rates[1] else "")
        lines.append([*_where(group, None), *cells])
    return table([*_WHERE, *(f"at {share:.0%}" for share in share_of)], lines)


def metrics(rows: Iterable[Row]) -> str:
    """Return the other measurements: means over seeds."""
    columns: Mapping[str, Callable[[Row], float]] = {
        "TTFT mean, ms": lambda row: 1000 * row.ttft_mean_s,
        "TTFT p99, ms": lambda row: 1000 * row.ttft_p99_s,
        "collective, ms": lambda row: 1000 * row.collective_completion_mean_s,
        "early, ms": lambda row: 1000 * row.p2d_earliness_mean_s,
        "network's share, %": lambda row: 100 * row.network_share,
        "short, %": lambda row: 100 * row.attainment_short,
        "long, %": lambda row: 100 * row.attainment_long,
        "p99 of TTFT / objective": lambda row: row.overrun_p99,
    }
    lines = [
        [*_where(group, rate), f"`{name}`", *(f"{fmean(map(value, own)):.3g}" for value in columns.values())]
        for (group, rate), by_variant in places(rows).items()
        for name, own in by_variant.items()
    ]
    return table([*_WHERE, "variant", *columns], lines)


def tenants(rows: Iterable[Row]) -> str:
    """Return how each of two tenants fared."""
    lines = [
        [
            *_where(group, rate),
            f"`{name}`",
            *(_per_cent(own, which) for which in ("slo_attainment", "attainment_first", "attainment_second")),
            f"{1000 * fmean(row.ttft_p99_first_s for row in own):.0f}",
            f"{1000 * fmean(row.ttft_p99_second_s for row in own):.0f}",
            f"{fmean(jain((row.progress_first, row.progress_second)) for row in own):.3f}",
        ]
        for (group, rate), by_variant in places(rows).items()
        for name, own in by_variant.items()
    ]
    heads = ["variant", "all, %", "first, %", "second, %", "first p99, ms", "second p99, ms", "Jain"]
    return table([*_WHERE, *heads], lines)


def points(estimate: Estimate | None) -> str:
    """Format a difference of shares, in points."""
    if estimate is None:
        return ""
    half = f" ± {100 * estimate.half:.0f}" if estimate.half != float("inf") else ""
    return f"{100 * estimate.mean:+.0f}{half}"


_WHERE = ("case", "what else", "requests/s per GPU")


def _where(group: Group, rate: float | None) -> list[str]:
    case, servers, _, over, factor, layout, whose = group
    differs = [
        f"{servers} servers",
        *((f"{over}:1",) if over != 1 else ()),
        *((f"SLO x {factor:g}",) if factor != 3 else ()),
        *((layout,) if layout != "packed" else ()),
        *((whose,) if whose != ALIKE else ()),
    ]
    return [f"`{case}`", ", ".join(differs), "" if rate is None else f"{rate:g}"]


def _per_cent(rows: Sequence[Row], which: str = "slo_attainment") -> str:
    found = mean_interval([getattr(row, which) for row in rows])
    return f"{100 * found.mean:.0f}" + (f" ± {100 * found.half:.0f}" if len(rows) > 1 else "")


def _by_seed(rows: Iterable[Row]) -> dict[int, float]:
    return {row.seed: row.slo_attainment for row in rows}


def _crosses(curve: Sequence[tuple[float, float]], share: float) -> bool:
    return curve[0][1] >= share > curve[-1][1]


TABLES: Mapping[str, Callable[[Iterable[Row]], str]] = {
    "attainment": attainment,
    "differences": differences,
    "equal": equal_attainment,
    "metrics": metrics,
    "tenants": tenants,
}


@click.command(short_help="Tables of sweeps, in Markdown.")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--table",
    "names",
    multiple=True,
    type=click.Choice(tuple(TABLES)),
    default=tuple(TABLES),
    help="Table to print; may be repeated. By default all.",
)
@click.option("--case", "cases", multiple=True, help="Only this case; may be repeated.")
@click.option("--tenants", "whose", multiple=True, help="Only these tenants; may be repeated.")
def sweep_tables(
    folders: tuple[Path, ...], names: tuple[str, ...], cases: tuple[str, ...], whose: tuple[str, ...]
) -> None:
    """Print tables of the sweeps in FOLDERS, each with a sweep.csv, in Markdown."""
    rows = [
        row
        for row in chain.from_iterable(map(rows_in, folders))
        if (not cases or row.scenario in cases) and (not whose or row.tenants in whose)
    ]
    for name in names:
        click.echo(f"{name}\n\n{TABLES[name](rows)}")
