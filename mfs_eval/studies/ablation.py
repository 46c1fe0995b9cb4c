"""``mfs ablate``: what each part of the scheduler is worth, over the same seeds for all, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from mfs_eval.defaults import ABLATION_REQUESTS, ABLATION_SCALE
from mfs_eval.errors import EvaluationError
from mfs_eval.plan import on_all_cores, plan_text, seconds_of
from mfs_eval.results import command_log, page, plots, row_page
from mfs_eval.results.output import check_writable, write_atomically, writing
from mfs_eval.results.provenance import provenance
from mfs_eval.results.rows import RowStore
from mfs_eval.runner import run_all
from mfs_eval.serving.trace import TRACE_PATH, load_trace
from mfs_eval.setup import windows
from mfs_eval.setup.scenario import SCENARIOS, Scenario, scenario_named
from mfs_eval.setup.variants import Variant, variant_named
from mfs_eval.setup.workload import Workload
from mfs_eval.studies import ablation_page, engines
from mfs_eval.studies.ablation_lines import LEGEND, counts_all_requests, lines, print_table
from mfs_eval.studies.ablation_rows import FILE, Row, row_of
from mfs_eval.studies.engines import PACKETS

_WHEN = {True: "beside the all-to-all", False: "after the all-to-all"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid, small enough to send to another process."""

    scenario: Scenario
    variant: Variant
    engine: str
    request_rate: float
    load: float | None
    prompts: str
    seed: int
    work: Workload


def run_ablation(
    out: Path,
    seeds: Sequence[int],
    scenarios: Sequence[str] = (),
    variants: Sequence[str] = (),
    loads: Sequence[float] = (),
    request_rates: Sequence[float] = (),
    prompts: str = "windows",
    trace: Path | None = None,
    engine: str = PACKETS,
    hand_over_early: bool = True,
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
        seeds: the same for all variants. A seed draws arrivals and, by ``prompts``, the window of the trace.
        scenarios: by name; empty for all.
        variants: by name; empty for all that the engine has.
        loads: loads at which the scenarios have rates, see :meth:`~mfs_eval.setup.scenario.Scenario.rates_by_load`.
        request_rates: requests per second. Without rates and loads, each scenario runs at its own rates.
        prompts: which prompts are served, one of :data:`~mfs_eval.setup.windows.PROMPTS`.
        trace: a Mooncake trace; None for the bundled one.
        engine: one of those of :mod:`~mfs_eval.studies.engines`.
        hand_over_early: see :class:`~mfs_eval.serving.config.ServingConfig`.
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
    places = [
        replace(scenario_named(name), scale=scale, hand_over_early=hand_over_early)
        for name in dict.fromkeys(scenarios or SCENARIOS)
    ]
    chosen = [variant_named(name) for name in dict.fromkeys(variants or engines.variants(engine))]
    for variant in chosen:
        engines.check(engine, variant)
    asked = {scenario.name: _asked_rates(scenario, prompts, loads, request_rates) for scenario in places}
    trace_path = trace or TRACE_PATH
    available = load_trace(trace_path)
    origin = provenance(trace_path, engines.program(engine))
    for scenario in places:
        windows.chosen(scenario, available, requests, prompts, seeds[0])
    path = out / FILE

    def mismatch(row: Row) -> str | None:
        if row.requests_per_run != requests:
            return f"its runs have {row.requests_per_run} requests, not {requests}"
        if row.hand_over_early != hand_over_early:
            return f"its runs hand KV over {_WHEN[row.hand_over_early]} and not {_WHEN[hand_over_early]}"
        if row.prompts != prompts:
            return f"its runs have the prompts {row.prompts!r} and not {prompts!r}"
        return f"its runs have scale {row.scale:,}, not {scale:,}" if row.scale != scale else None

    with writing(out):
        if not dry_run:
            out.mkdir(parents=True, exist_ok=True)
            check_writable(path)
            command_log.record(out, command, trace_path.name)
        store = RowStore(path, Row, origin, mismatch, read_only=dry_run)
    missing = {
        scenario.name: [
            (variant, engine, rate, load, prompts, seed)
            for rate, load in asked[scenario.name].items()
            for seed in seeds
            for variant in chosen
            if (scenario.name, engine, prompts, hand_over_early, rate, variant.name, seed) not in store.rows
        ]
        for scenario in places
    }
    if dry_run:
        sizes = {scenario: len(missing[scenario.name]) for scenario in places if missing[scenario.name]}
        left = sum(sizes.values())
        runs = len(chosen) * len(seeds) * sum(len(rates) for rates in asked.values())
        seconds = 0.0
        for scenario, size in sizes.items():
            settings = missing[scenario.name][size // 2]
            window = windows.chosen(scenario, available, requests, prompts, settings[-1])
            sample = Cell(scenario, *settings, engines.prepare(engine, scenario, window))
            seconds += on_all_cores(size, seconds_of(partial(play, sample)), jobs)
        console.print(plan_text(runs, runs - left, seconds), highlight=False)
        return list(store.rows.values())
    served = {
        (scenario, settings[-1]): windows.chosen(scenario, available, requests, prompts, settings[-1])
        for scenario in places
        for settings in missing[scenario.name]
    }
    distinct = list(dict.fromkeys((engine, scenario, window) for (scenario, _), window in served.items()))
    works = run_all("low-load TTFT of each request", engines.prepare, distinct, jobs) if distinct else []
    work_of = dict(zip(distinct, works, strict=True))
    cells = [
        Cell(scenario, *settings, work_of[engine, scenario, served[scenario, settings[-1]]])
        for scenario in places
        for settings in missing[scenario.name]
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
    one = engines.play(cell.engine, cell.scenario, cell.work, cell.variant, cell.request_rate, cell.seed)
    requests = len(cell.work.requests)
    return row_of(one, cell.scenario, cell.variant.name, cell.engine, cell.load, cell.prompts, requests)


def _asked_rates(
    scenario: Scenario, prompts: str, loads: Sequence[float], rates: Sequence[float]
) -> dict[float, float | None]:
    """Return the request rates to run, each with its load; None for rates that are not the scenario's own.

    Raises:
        EvaluationError: the scenario has no rate for a load.
    """
    own = {} if prompts == "all-lengths" else scenario.rates_by_load(over_windows=prompts == "windows")
    for load in loads:
        if load not in own:
            raise EvaluationError(
                f"{scenario.name} with the prompts {prompts!r} has no rate for load {load:g}, only for "
                f"{', '.join(f'{known:g}' for known in own) or 'none'}; give a --request-rate"
            )
    load_of = {rate: load for load, rate in own.items()}
    wanted = [own[load] for load in loads] + list(rates) if loads or rates else own.values() or scenario.request_rates
    return {rate: load_of.get(rate) for rate in wanted}
