"""``mfs ablate``: what each part of the scheduler is worth, over the same seeds for all, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results import plots
from mfs_eval.results.ablation_rows import Key, Row, RowFile, row_of
from mfs_eval.results.output import check_writable, writing
from mfs_eval.results.statistics import Estimate, gap_closed, mean_interval, paired_difference
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.policies import CEILING
from mfs_eval.setup.scenario import LOADS, SCENARIOS, Scenario, scenario_named
from mfs_eval.setup.variants import FLOOR, FULL, VARIANTS, Variant, variant_named
from mfs_eval.setup.workload import Workload, select
from mfs_eval.workers import workers
from p4src import artifact

REQUESTS = 120
"""Requests of a run by default."""
SEEDS = 10
"""Seeds by default."""
SCALE = 2000
"""Rates and bytes are divided by this by default. At the scale of the demo, 8,000, a collective is six packets, and
the one packet of a lower level that is on the wire when it starts costs it a sixth; here it is four times as fine."""
LEGEND = (
    "In SLO: requests in time, the mean over seeds with its 95 % interval (Student's t). Against mfs (where a server "
    "cheats, against bystanders): the difference seed by seed, in points, with its interval. Gap: share of the gap "
    "from fifo to the ceiling that is closed. TTFT: mean and 99th percentile, milliseconds. Reordered: of a million "
    "packets through the switch."
)
_HEADINGS = ("in SLO", "against mfs", "gap", "TTFT", "p99", "reordered", "seeds")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid, small enough to send to another process."""

    scenario: Scenario
    variant: Variant
    request_rate: float
    load: float | None
    seed: int
    work: Workload

    @property
    def key(self) -> Key:
        """Which row it becomes."""
        return self.scenario.name, self.request_rate, self.variant.name, self.seed


@dataclass(frozen=True, slots=True)
class Line:
    """What a table shows of one variant at one rate."""

    variant: str
    attainment: Estimate
    against: Estimate | None
    gap_closed: float | None
    ttft_mean_s: float
    ttft_p99_s: float
    reordered_per_million: float
    seeds: int


def run_ablation(
    out: Path,
    scenarios: Sequence[str] = (),
    variants: Sequence[str] = (),
    loads: Sequence[float] = (),
    rates: Sequence[float] = (),
    seeds: int = SEEDS,
    first_seed: int = 1,
    requests: int = REQUESTS,
    scale: int = SCALE,
    jobs: int | None = None,
    console: Console | None = None,
) -> list[Row]:
    """Run what is missing in ``out/ablation.csv``, print tables, and draw a picture per scenario of all in the file.

    No scenarios or variants mean all of them. ``loads`` are of :data:`~mfs_eval.setup.scenario.LOADS`, ``rates``
    requests per second; with neither, all rates of each scenario. ``scale`` takes the place of the scenarios' own.
    There are ``seeds`` seeds from ``first_seed`` on, the same for all variants.

    Returns:
        all rows of the file, in its order.

    Raises:
        EvaluationError: an unknown name, a trace that is too short, or a file that these runs do not belong to.
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    console = console or Console()
    places = [replace(scenario_named(name), scale=scale) for name in dict.fromkeys(scenarios or SCENARIOS)]
    chosen = [variant_named(name) for name in dict.fromkeys(variants or VARIANTS)]
    artifact.load()
    trace = load_trace(SAMPLE_PATH)
    for scenario in places:
        select(scenario, trace, requests)
    path = out / "ablation.csv"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        check_writable(path)
        file = RowFile(path, requests, scale)
    asked = {scenario.name: _asked_rates(scenario, loads, rates) for scenario in places}
    missing = {
        scenario.name: [
            (variant, rate, load, seed)
            for rate, load in asked[scenario.name].items()
            for seed in range(first_seed, first_seed + seeds)
            for variant in chosen
            if (scenario.name, rate, variant.name, seed) not in file.rows
        ]
        for scenario in places
    }
    to_run = [scenario for scenario in places if missing[scenario.name]]
    if to_run:
        with workers(jobs, console) as pool:
            works = pool.all(
                "low-load TTFT of each request", workload, [(scenario, trace, requests) for scenario in to_run]
            )
            cells = [
                Cell(scenario, variant, rate, load, seed, work)
                for scenario, work in zip(to_run, works, strict=True)
                for variant, rate, load, seed in missing[scenario.name]
            ]

            def keep(row: Row) -> None:
                with writing(out):
                    file.append(row)

            pool.all("runs", play, [(cell,) for cell in cells], keep)
    with writing(out):
        file.sort()
        rows = list(file.rows.values())
        for scenario in places:
            drawn = [row for row in rows if row.scenario == scenario.name and _counts_all(row.variant)]
            rates = sorted({row.request_rate for row in drawn})
            attained = {rate: [(line.variant, line.attainment) for line in lines(drawn, rate)] for rate in rates}
            picture = plots.ablation(attained)
            (out / f"ablation-{scenario.name}.svg").write_text(picture, "utf-8")
    for scenario in places:
        for rate in asked[scenario.name]:
            _print_table(scenario.name, rate, [row for row in rows if row.scenario == scenario.name], console)
    console.print(LEGEND)
    for variant in chosen:
        console.print(f"{variant.name}: {variant.why}", highlight=False)
    console.print(f"Runs: {path}", highlight=False)
    return rows


def play(cell: Cell) -> Row:
    """One run of the grid."""
    one = run(cell.scenario, cell.work, cell.variant.policy, cell.request_rate, cell.seed, cell.variant.settings)
    return row_of(one, cell.variant.name, cell.load, len(cell.work.requests), cell.scenario.scale)


def lines(rows: Iterable[Row], rate: float) -> list[Line]:
    """A line per variant of one scenario's ``rows`` at ``rate``, in the order of :data:`VARIANTS`."""
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
            gap_closed=gap_closed(attained[name], floor, ceiling) if _counts_all(name) else None,
            ttft_mean_s=fmean(row.ttft_mean_s for row in by_variant[name]),
            ttft_p99_s=fmean(row.ttft_p99_s for row in by_variant[name]),
            reordered_per_million=fmean(row.reordered_per_million for row in by_variant[name]),
            seeds=len(by_variant[name]),
        )
        for name, variant in VARIANTS.items()
        if name in by_variant
    ]


def _counts_all(variant: str) -> bool:
    """Whether all requests count: where only bystanders do, attainment is not to be seen beside that of the rest."""
    return variant in VARIANTS and VARIANTS[variant].settings.adversary.unaffected_by is None


def _asked_rates(scenario: Scenario, loads: Sequence[float], rates: Sequence[float]) -> dict[float, float | None]:
    """The rates to run, and the load that each is."""
    own = dict(zip(LOADS, scenario.request_rates, strict=False))
    load_of = {rate: load for load, rate in own.items()}
    wanted = [own[load] for load in loads if load in own] + list(rates) if loads or rates else scenario.request_rates
    return {rate: load_of.get(rate) for rate in wanted}


def _print_table(scenario: str, rate: float, rows: Sequence[Row], console: Console) -> None:
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
