"""``mfs ablate``: what each part of the scheduler is worth, over the same seeds for all, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from mfs_eval.defaults import ABLATION_REQUESTS, ABLATION_SCALE
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.plan import on_all_cores, plan_text, seconds_of
from mfs_eval.results import command_log, page, plots, row_page
from mfs_eval.results.output import check_writable, write_atomically, writing
from mfs_eval.results.provenance import provenance
from mfs_eval.results.rows import RowStore
from mfs_eval.runner import run_all
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.scenario import LOADS, SCENARIOS, Scenario, scenario_named
from mfs_eval.setup.variants import VARIANTS, Variant, variant_named
from mfs_eval.setup.workload import Workload, select
from mfs_eval.studies import ablation_page
from mfs_eval.studies.ablation_lines import LEGEND, counts_all_requests, lines, print_table
from mfs_eval.studies.ablation_rows import FILE, Row, row_of
from p4src import artifact


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid, small enough to send to another process."""

    scenario: Scenario
    variant: Variant
    request_rate: float
    load: float | None
    seed: int
    work: Workload


def run_ablation(
    out: Path,
    seeds: Sequence[int],
    scenarios: Sequence[str] = (),
    variants: Sequence[str] = (),
    loads: Sequence[float] = (),
    request_rates: Sequence[float] = (),
    requests: int = ABLATION_REQUESTS,
    scale: int = ABLATION_SCALE,
    jobs: int | None = None,
    console: Console | None = None,
    command: str = "",
    dry_run: bool = False,
) -> list[Row]:
    """Run what is missing in ``out/ablation.csv``, print tables, and write the report and a picture per scenario.

    Args:
        out: folder; it is created if it does not exist.
        seeds: the same for all variants.
        scenarios: by name; empty for all.
        variants: by name; empty for all.
        loads: members of :data:`~mfs_eval.setup.scenario.LOADS`.
        request_rates: requests per second. Without rates and loads, each scenario runs at its own rates.
        requests: requests per run.
        scale: divisor of rates and bytes, instead of the scenarios' own.
        jobs: number of processes; None for one per core.
        console: where tables go; None for stdout.
        command: the command line, which the report shows.
        dry_run: print how many runs are missing and, by the time of one, how long they take; write nothing.

    Returns:
        all rows of the file, in its order.

    Raises:
        EvaluationError: a name is unknown, the trace is too short, or the file has rows of other runs.
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    console = console or Console()
    places = [replace(scenario_named(name), scale=scale) for name in dict.fromkeys(scenarios or SCENARIOS)]
    chosen = [variant_named(name) for name in dict.fromkeys(variants or VARIANTS)]
    trace = load_trace(SAMPLE_PATH)
    origin = provenance(SAMPLE_PATH, artifact.load())
    for scenario in places:
        select(scenario, trace, requests)
    path = out / FILE

    def mismatch(row: Row) -> str | None:
        if row.requests_per_run != requests:
            return f"its runs have {row.requests_per_run} requests, not {requests}"
        return f"its runs have scale {row.scale:,}, not {scale:,}" if row.scale != scale else None

    with writing(out):
        if not dry_run:
            out.mkdir(parents=True, exist_ok=True)
            check_writable(path)
            command_log.record(out, command, SAMPLE_PATH.name)
        store = RowStore(path, Row, origin, mismatch, read_only=dry_run)
    asked = {scenario.name: _asked_rates(scenario, loads, request_rates) for scenario in places}
    missing = {
        scenario.name: [
            (variant, rate, load, seed)
            for rate, load in asked[scenario.name].items()
            for seed in seeds
            for variant in chosen
            if (scenario.name, rate, variant.name, seed) not in store.rows
        ]
        for scenario in places
    }
    if dry_run:
        sizes = {scenario: len(missing[scenario.name]) for scenario in places if missing[scenario.name]}
        left = sum(sizes.values())
        runs = len(chosen) * len(seeds) * sum(len(rates) for rates in asked.values())
        seconds = 0.0
        for scenario, size in sizes.items():
            work = workload(scenario, trace, requests)
            sample = Cell(scenario, *missing[scenario.name][size // 2], work)
            seconds += on_all_cores(size, seconds_of(partial(play, sample)), jobs)
        console.print(plan_text(runs, runs - left, seconds), highlight=False)
        return list(store.rows.values())
    to_run = [scenario for scenario in places if missing[scenario.name]]
    scenario_work = [(scenario, trace, requests) for scenario in to_run]
    works = run_all("low-load TTFT of each request", workload, scenario_work, jobs) if to_run else []
    cells = [
        Cell(scenario, variant, rate, load, seed, work)
        for scenario, work in zip(to_run, works, strict=True)
        for variant, rate, load, seed in missing[scenario.name]
    ]

    def keep(row: Row) -> None:
        with writing(out):
            store.append(row)

    if cells:
        run_all("runs", play, [(cell,) for cell in cells], jobs, keep)
    with writing(out):
        store.sort()
        rows = list(store.rows.values())
        for scenario in places:
            drawn = [row for row in rows if row.scenario == scenario.name and counts_all_requests(row.variant)]
            rates = sorted({row.request_rate for row in drawn})
            attained = {rate: [(line.variant, line.attainment) for line in lines(drawn, rate)] for rate in rates}
            write_atomically(out / f"ablation-{scenario.name}.svg", plots.ablation(attained))
    for scenario in places:
        for rate in asked[scenario.name]:
            print_table(scenario.name, rate, [row for row in rows if row.scenario == scenario.name], console)
    console.print(LEGEND)
    for variant in chosen:
        console.print(f"{variant.name}: {variant.why}", highlight=False)
    drawn_page = page.write(row_page.page(ablation_page.read(path)), out / page.FILE)
    console.print(f"Report: {drawn_page}   Runs: {path}", highlight=False, soft_wrap=True)
    return rows


def play(cell: Cell) -> Row:
    """Play one run of the grid."""
    one = run(cell.scenario, cell.work, cell.variant.policy, cell.request_rate, cell.seed, cell.variant.settings)
    return row_of(one, cell.variant.name, cell.load, len(cell.work.requests), cell.scenario.scale)


def _asked_rates(scenario: Scenario, loads: Sequence[float], rates: Sequence[float]) -> dict[float, float | None]:
    """Return the request rates to run, each with its load; None for rates that are not the scenario's own."""
    own = dict(zip(LOADS, scenario.request_rates, strict=False))
    load_of = {rate: load for load, rate in own.items()}
    wanted = [own[load] for load in loads if load in own] + list(rates) if loads or rates else scenario.request_rates
    return {rate: load_of.get(rate) for rate in wanted}
