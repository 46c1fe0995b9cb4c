"""``mfs sweep``: a grid of cases, fabrics, request rates, variants and seeds; rerun it to resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from rich.console import Console

from mfs_eval.defaults import SWEEP_REQUESTS, SWEEP_SERVERS
from mfs_eval.flow_level.cases import WARM_SHARE, case_named, case_workload, with_slo_factor
from mfs_eval.flow_level.data_centre import PACKED
from mfs_eval.flow_level.experiment import play
from mfs_eval.flow_level.sweep_rows import FILE, Row
from mfs_eval.flow_level.tenants import ALIKE, outcome, tenants_named
from mfs_eval.flow_level.variants import variant_named
from mfs_eval.plan import on_all_cores, plan_text, seconds_of
from mfs_eval.results import command_log
from mfs_eval.results.output import check_writable, writing
from mfs_eval.results.provenance import provenance
from mfs_eval.results.rows import RowStore
from mfs_eval.runner import run_all
from mfs_eval.serving.objectives import SLO_FACTOR
from mfs_eval.serving.trace import SAMPLE_PATH
from mfs_eval.setup.workload import Workload


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of points: every combination is run.

    Attributes:
        cases: by name.
        variants: by name.
        seeds: of the arrivals, and of the prompts where they are drawn.
        rates_per_gpu: requests per second and GPU; empty for those of each case.
        oversubscriptions: of the edge switches.
        slo_factors: objectives are low-load TTFTs times these.
        layouts: placements of units on the fabric.
        tenants: how two tenants differ, by name.
        servers: servers of the fabric.
        requests: requests per run, including those of the warm-up.
        trace: a Mooncake trace, for cases that replay one; None for the bundled one.
    """

    cases: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    rates_per_gpu: tuple[float, ...] = ()
    oversubscriptions: tuple[int, ...] = (1,)
    slo_factors: tuple[float, ...] = (SLO_FACTOR,)
    layouts: tuple[str, ...] = (PACKED,)
    tenants: tuple[str, ...] = (ALIKE,)
    servers: int = SWEEP_SERVERS
    requests: int = SWEEP_REQUESTS
    trace: Path | None = None

    def points(self) -> Iterator[Point]:
        """Yield all points, those of a case together.

        Raises:
            EvaluationError: a name is unknown, or a fabric cannot be built.
        """
        for name in self.cases:
            case = case_named(name)
            for seed, rate, over, factor, layout, tenants, variant in product(
                self.seeds,
                self.rates_per_gpu or case.rates_per_gpu,
                self.oversubscriptions,
                self.slo_factors,
                self.layouts,
                self.tenants,
                self.variants,
            ):
                case.fabric(self.servers, over)
                variant_named(variant)
                tenants_named(tenants)
                servers = case.scenario(self.servers, layout).cluster.servers
                yield Point(name, servers, self.requests, over, factor, layout, tenants, rate, variant, seed)


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a grid; its fields are in the order of :attr:`.sweep_rows.Row.KEY`."""

    case: str
    servers: int
    requests: int
    oversubscription: int
    slo_factor: float
    layout: str
    tenants: str
    rate_per_gpu: float
    variant: str
    seed: int


def run_sweep(
    grid: Grid,
    out: Path,
    jobs: int | None = None,
    console: Console | None = None,
    command: str = "",
    dry_run: bool = False,
) -> list[Row]:
    """Run what is missing in ``out/sweep.csv``; each point is a line of the file as soon as it ends.

    Args:
        grid: the points.
        out: folder; it is created if it does not exist.
        jobs: number of processes; None for one per core.
        console: where messages go; None for stdout.
        command: the command line, which the report shows.
        dry_run: print how many points are missing and, by the time of one of each case, how long they take; write
            nothing.

    Returns:
        all rows of the file, in its order.

    Raises:
        EvaluationError: a name is unknown, a fabric or a trace does not fit, or the file has rows of other runs.
    """
    console = console or Console()
    points = list(dict.fromkeys(grid.points()))
    origin = provenance(grid.trace or SAMPLE_PATH, program=None)
    path = out / FILE
    with writing(out):
        if not dry_run:
            out.mkdir(parents=True, exist_ok=True)
            check_writable(path)
            command_log.record(out, command, (grid.trace or SAMPLE_PATH).name)
        store = RowStore(path, Row, origin, read_only=dry_run)
    missing = [point for point in points if astuple(point) not in store.rows]
    finished = len(points) - len(missing)
    if dry_run:
        seconds = 0.0
        for case in dict.fromkeys(point.case for point in missing):
            of_case = [point for point in missing if point.case == case]
            sample = of_case[len(of_case) // 2]
            work = _drawn_workload(case, grid.servers, grid.requests, sample.seed, grid.trace)
            seconds += on_all_cores(len(of_case), seconds_of(partial(play_point, sample, work)), jobs)
        console.print(plan_text(len(points), finished, seconds), highlight=False)
        return list(store.rows.values())
    console.print(f"{len(points)} points, {finished} of them already in {path}", highlight=False, soft_wrap=True)
    if missing:
        drawn = list(dict.fromkeys((point.case, point.seed) for point in missing))
        arguments = [(name, grid.servers, grid.requests, seed, grid.trace) for name, seed in drawn]
        works = run_all("low-load TTFT of each request", _drawn_workload, arguments, jobs)
        work_of = dict(zip(drawn, works, strict=True))

        def keep(row: Row) -> None:
            with writing(out):
                store.append(row)

        run_all("runs", play_point, [(point, work_of[point.case, point.seed]) for point in missing], jobs, keep)
    with writing(out):
        store.sort()
    return list(store.rows.values())


def play_point(point: Point, work: Workload) -> Row:
    """Play one point. The objectives of ``work`` are those of the default factor."""
    case = case_named(point.case)
    scenario = case.scenario(point.servers, point.layout)
    gpus = scenario.cluster.servers * scenario.cluster.gpus_per_server
    tenants = tenants_named(point.tenants)
    second = tenants.second(work.requests)
    work_as_asked = with_slo_factor(work, point.slo_factor / SLO_FACTOR)
    played = play(
        scenario,
        case.fabric(point.servers, point.oversubscription),
        replace(work_as_asked, slo_ns=tenants.stated_ns(work_as_asked.slo_ns, second)),
        variant_named(point.variant),
        point.rate_per_gpu * gpus,
        point.seed,
        round(WARM_SHARE * point.requests),
        judged_ns=tenants.wanted_ns(work_as_asked.slo_ns, second),
    )
    low_load_ns = {index: objective / SLO_FACTOR for index, objective in work.slo_ns.items()}
    of_first, of_second = (
        outcome((one for one in played.records if (one.index in second) == which), low_load_ns)
        for which in (False, True)
    )
    return Row(
        **played.run.model_dump(),
        servers=point.servers,
        requests_per_run=point.requests,
        oversubscription=point.oversubscription,
        rate_per_gpu=point.rate_per_gpu,
        slo_factor=point.slo_factor,
        layout=point.layout,
        tenants=point.tenants,
        attainment_first=of_first.attainment,
        attainment_second=of_second.attainment,
        progress_first=of_first.progress,
        progress_second=of_second.progress,
        ttft_p99_first_s=of_first.ttft_p99_s,
        ttft_p99_second_s=of_second.ttft_p99_s,
    )


def _drawn_workload(name: str, servers: int, requests: int, seed: int, trace: Path | None) -> Workload:
    return case_workload(case_named(name), servers, requests, seed, trace)
