"""``mfs sweep``: a grid of cases, fabrics, rates, variants and seeds, over all cores or a cluster; never twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import joblib
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level.cases import REQUESTS, SERVERS, WARM_SHARE, case_named, case_workload, with_slo_factor
from mfs_eval.flow_level.data_centre import PACKED
from mfs_eval.flow_level.experiment import play
from mfs_eval.flow_level.sweep_parquet import FILE as PARQUET
from mfs_eval.flow_level.sweep_parquet import write_parquet
from mfs_eval.flow_level.sweep_rows import Row, rows_at
from mfs_eval.flow_level.tenants import ALIKE, outcome, tenants_named
from mfs_eval.flow_level.variants import variant_named
from mfs_eval.results.output import check_writable, writing
from mfs_eval.serving.objectives import SLO_FACTOR
from mfs_eval.setup.workload import Workload

T = TypeVar("T")
FILE = "sweep.csv"
DASK_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Grid:
    """What is run: every combination.

    Attributes:
        cases: by name.
        variants: by name.
        seeds: of the arrivals, and of the prompts where they are drawn.
        rates_per_gpu: requests per second and GPU; empty: those of each case.
        oversubscriptions: of edge switches.
        slo_factors: objectives are low-load TTFTs times these.
        layouts: of units on the fabric.
        tenants: how two tenants differ, by name.
        servers: of the fabric.
        requests: of a run, those of the warm-up included.
        trace: a Mooncake trace, for cases that play one; None: the one that comes along.
    """

    cases: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    rates_per_gpu: tuple[float, ...] = ()
    oversubscriptions: tuple[int, ...] = (1,)
    slo_factors: tuple[float, ...] = (SLO_FACTOR,)
    layouts: tuple[str, ...] = (PACKED,)
    tenants: tuple[str, ...] = (ALIKE,)
    servers: int = SERVERS
    requests: int = REQUESTS
    trace: Path | None = None

    def points(self) -> Iterator[Point]:
        """All points, those of a case together."""
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
    """One run of a grid; its fields in the order of :attr:`~.sweep_rows.Row.key`."""

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

    @property
    def key(self) -> tuple[object, ...]:
        """As that of the row that it becomes."""
        return (
            self.case,
            self.servers,
            self.requests,
            self.oversubscription,
            self.slo_factor,
            self.layout,
            self.tenants,
            self.rate_per_gpu,
            self.variant,
            self.seed,
        )


def run_sweep(
    grid: Grid, out: Path, jobs: int | None = None, dask: str | None = None, console: Console | None = None
) -> list[Row]:
    """Run what is missing in ``out/sweep.csv``; each point is a line of it as soon as it ends.

    When all have ended, the same rows are in ``out/sweep.parquet``.

    ``jobs`` processes, one per core if None. ``dask``: address of a Dask scheduler whose workers take their place.

    Returns:
        all rows of the file, in its order.

    Raises:
        EvaluationError: an unknown name, a fabric or a trace that does not fit, a file of other runs, or no Dask.
    """
    console = console or Console()
    points = list(dict.fromkeys(grid.points()))
    path = out / FILE
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        check_writable(path)
        file = rows_at(path)
    missing = [point for point in points if point.key not in file.rows]
    console.print(f"{len(points)} points, {len(points) - len(missing)} of them in {path} already", highlight=False)
    if missing:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        drawn = list(dict.fromkeys((point.case, point.seed) for point in missing))
        with _backend(dask), Progress(*columns, console=console) as progress:
            works: dict[tuple[str, int], Workload] = {}

            def know(found: tuple[tuple[str, int], Workload]) -> None:
                works[found[0]] = found[1]

            calls = [(_drawn_workload, (name, grid.servers, grid.requests, seed, grid.trace)) for name, seed in drawn]
            _all("low-load TTFT of each request", calls, jobs, progress, know)

            def keep(row: Row) -> None:
                with writing(out):
                    file.append(row)

            runs = [(play_point, (point, works[point.case, point.seed])) for point in missing]
            _all("runs", runs, jobs, progress, keep)
    with writing(out):
        file.sort()
        write_parquet(file.rows.values(), out / PARQUET)
    return list(file.rows.values())


def play_point(point: Point, work: Workload) -> Row:
    """One run. ``work`` has the objectives of the default factor."""
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


def _drawn_workload(
    name: str, servers: int, requests: int, seed: int, trace: Path | None
) -> tuple[tuple[str, int], Workload]:
    return (name, seed), case_workload(case_named(name), servers, requests, seed, trace)


def _all(
    title: str,
    calls: Sequence[tuple[Callable[..., T], tuple[object, ...]]],
    jobs: int | None,
    progress: Progress,
    on_done: Callable[[T], None],
) -> None:
    task = progress.add_task(title, total=len(calls))
    parallel = joblib.Parallel(n_jobs=jobs or -1, return_as="generator_unordered", batch_size=1)
    results: Iterable[Any] = parallel(joblib.delayed(function)(*given) for function, given in calls)
    for result in results:
        on_done(result)
        progress.advance(task)


@contextmanager
def _backend(dask: str | None) -> Iterator[None]:
    if dask is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise EvaluationError("a Dask cluster needs the package distributed: pip install 'mfs-switch[dask]'") from None
    try:
        client = Client(dask, timeout=DASK_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"no Dask scheduler answers at {dask}: {error}; start one, or leave --dask out") from None
    with client, joblib.parallel_config(backend="dask"):
        yield
