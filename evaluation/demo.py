"""``mfs demo``: the same requests under every policy at several rates, on all cores, then a table and a report."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from evaluation import report
from evaluation.errors import EvaluationError
from evaluation.experiment import POLICIES, run
from evaluation.results import Results, Run
from evaluation.scenario import SCENARIOS, Scenario, Workload, scenario_named, workload
from evaluation.trace import SAMPLE_PATH, load_trace
from p4src import artifact

REQUESTS = 160
"""Requests of a run by default."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of the grid, small enough to send to another process."""

    scenario: str
    policy: str
    request_rate: float
    seed: int
    requests: int
    trace: Path


def run_demo(
    out: Path,
    scenarios: Sequence[str] = (),
    policies: Sequence[str] = (),
    trace: Path | None = None,
    requests: int | None = None,
    seed: int = 1,
    jobs: int | None = None,
    console: Console | None = None,
) -> Results:
    """Run the grid and leave ``report.html`` and ``results.json`` in ``out``; empty lists mean all.

    Raises:
        EvaluationError: an unknown scenario or policy, a trace that cannot be read or is too short.
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    console = console or Console()
    points = _points(scenarios or list(SCENARIOS), policies or POLICIES, trace or SAMPLE_PATH, requests, seed)
    artifact.load()
    for name in dict.fromkeys(point.scenario for point in points):
        _workload_of(name, points[0].trace, points[0].requests)
        console.print(_description(scenario_named(name)))
    numbers, pictures = out / "results.json", out / "report.html"
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for path in (numbers, pictures):
            _check_writable(path)
    results = Results(settings=_settings(points), runs=_run_all(points, jobs or os.cpu_count() or 1, console))
    with _writing(out):
        results.write(numbers)
        report.write(results, pictures)
    _print_tables(results, console)
    console.print(f"Pictures: {pictures}   Numbers: {numbers}", highlight=False)
    return results


def _check_writable(path: Path) -> None:
    # Before the runs: nobody should wait for minutes to be told that the results cannot be kept.
    new = not path.exists()
    path.open("a").close()
    if new:
        path.unlink()


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise EvaluationError(f"cannot write {where}: {error.strerror}; choose another folder with --out") from None


def play(point: Point) -> Run:
    """One run of the grid."""
    work = _workload_of(point.scenario, point.trace, point.requests)
    return run(scenario_named(point.scenario), work, point.policy, point.request_rate, point.seed)


@cache
def _workload_of(scenario: str, trace: Path, requests: int) -> Workload:
    return workload(scenario_named(scenario), load_trace(trace), requests)


def _points(
    scenarios: Iterable[str], policies: Iterable[str], trace: Path, requests: int | None, seed: int
) -> list[Point]:
    unknown = [name for name in policies if name not in POLICIES]
    if unknown:
        raise EvaluationError(f"there is no policy {unknown[0]!r}; there are {', '.join(POLICIES)}")
    return [
        Point(name, policy, rate, seed, requests or REQUESTS, trace)
        for name in scenarios
        for rate in scenario_named(name).request_rates
        for policy in policies
    ]


def _run_all(points: Sequence[Point], jobs: int, console: Console) -> list[Run]:
    """All runs, in the order of ``points`` whatever order they end in."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # A forked process would inherit gRPC's threads half alive.
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(min(jobs, len(points)), mp_context=context) as pool,
    ):
        task = progress.add_task("packets through the compiled program", total=len(points))
        futures = {pool.submit(play, point): index for index, point in enumerate(points)}
        done: dict[int, Run] = {}
        try:
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                last = points[futures[future]]
                progress.update(task, advance=1, description=f"{last.scenario} {last.policy} {last.request_rate:g}/s")
        except BrokenProcessPool:
            raise EvaluationError(
                "a process with a run ended by itself, perhaps for want of memory; try fewer --jobs"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[index] for index in range(len(points))]


def _description(scenario: Scenario) -> str:
    cluster = scenario.cluster
    return (
        f"{scenario.name}: {cluster.servers} servers x {cluster.nics_per_server} x "
        f"{cluster.nic_bits_per_second / 1e9:g} Gb/s, {len(cluster.units)} prefill units of "
        f"{cluster.unit_gpus(0)} {scenario.gpu.name} GPUs, {len(cluster.decode_servers)} decode servers, "
        f"{scenario.model.name}; rates and bytes divided by {scenario.scale:,}, "
        f"{scenario.layers_per_step} layers a step"
    )


def _settings(points: Sequence[Point]) -> dict[str, str | int | float]:
    settings: dict[str, str | int | float] = {
        "trace": points[0].trace.name,
        "requests per run": points[0].requests,
        "seed": points[0].seed,
    }
    for name in dict.fromkeys(point.scenario for point in points):
        settings[f"scenario {name}"] = _description(scenario_named(name)).partition(": ")[2]
    return settings


def _print_tables(results: Results, console: Console) -> None:
    places = dict.fromkeys((one.scenario, one.request_rate) for one in results.runs)
    for scenario, rate in places:
        title = f"{scenario}, {rate:g} requests per second"
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
        table.add_column("policy")
        for _, heading, _, _ in report.COLUMNS:
            table.add_column(heading, justify="right")
        for one in results.runs:
            if (one.scenario, one.request_rate) == (scenario, rate):
                table.add_row(one.policy, *report.row(one), style="bold" if one.policy == "mfs" else None)
        console.print(table)
    console.print(report.LEGEND)
