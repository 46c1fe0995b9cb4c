"""Tables of an ablation: one line per variant, over the seeds of its rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console
from rich.table import Table

from mfs_eval.results.statistics import Estimate, gap_closed, mean_interval, paired_difference
from mfs_eval.setup.policies import CEILING
from mfs_eval.setup.variants import FLOOR, FULL, VARIANTS
from mfs_eval.studies.ablation_rows import Row

LEGEND = (
    "In SLO: requests in time, the mean over seeds with its 95 % interval (Student's t). Against mfs (where a server "
    "cheats, against bystanders): the difference seed by seed, in points, with its interval. Gap: share of the gap "
    "from fifo to the ceiling that is closed. TTFT: mean and 99th percentile, milliseconds. Reordered: of a million "
    "packets through the switch."
)
_HEADINGS = ("in SLO", "against mfs", "gap", "TTFT", "p99", "reordered", "seeds")


@dataclass(frozen=True, slots=True)
class Line:
    """One variant at one request rate, as a table shows it."""

    variant: str
    attainment: Estimate
    against: Estimate | None
    gap_closed: float | None
    ttft_mean_s: float
    ttft_p99_s: float
    reordered_per_million: float
    seeds: int


def lines(rows: Iterable[Row], rate: float) -> list[Line]:
    """Return a line per variant of one scenario's ``rows`` at ``rate``, in the order of :data:`VARIANTS`."""
    by_variant: dict[str, list[Row]] = {}
    for row in rows:
        if row.request_rate == rate:
            by_variant.setdefault(row.variant, []).append(row)
    attained = {name: {row.seed: row.slo_attainment for row in found} for name, found in by_variant.items()}
    floor, ceiling = (attained.get(name, {}) for name in (FLOOR, CEILING))
    return [
        Line(
            variant=name,
            attainment=mean_interval(list(attained[name].values())),
            against=None
            if name == variant.against
            else paired_difference(attained[name], attained.get(variant.against, {})),
            gap_closed=gap_closed(attained[name], floor, ceiling) if counts_all_requests(name) else None,
            ttft_mean_s=fmean(row.ttft_mean_s for row in by_variant[name]),
            ttft_p99_s=fmean(row.ttft_p99_s for row in by_variant[name]),
            reordered_per_million=fmean(row.reordered_per_million for row in by_variant[name]),
            seeds=len(by_variant[name]),
        )
        for name, variant in VARIANTS.items()
        if name in by_variant
    ]


def counts_all_requests(variant: str) -> bool:
    """Return whether all requests count. Attainment of bystanders alone is not comparable with that of all."""
    return variant in VARIANTS and VARIANTS[variant].settings.adversary.unaffected_by is None


def print_table(scenario: str, rate: float, rows: Sequence[Row], console: Console) -> None:
    """Print the table of one scenario at one request rate."""
    title = f"{scenario}, {rate:g} requests per second"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("variant", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines(rows, rate):
        style = "bold" if line.variant == FULL else None
        table.add_row(line.variant, *_cells(line), style=style)
    console.print(table)


def _cells(line: Line) -> list[str]:
    return [
        f"{100 * line.attainment.mean:.1f}{_half(line.attainment)}",
        f"{100 * line.against.mean:+.1f}{_half(line.against)}" if line.against else "",
        f"{line.gap_closed:.0%}" if line.gap_closed is not None else "",
        f"{1000 * line.ttft_mean_s:.0f}",
        f"{1000 * line.ttft_p99_s:.0f}",
        f"{line.reordered_per_million:,.0f}",
        str(line.seeds),
    ]


def _half(estimate: Estimate) -> str:
    return f"±{100 * estimate.half:.1f}" if math.isfinite(estimate.half) else ""
