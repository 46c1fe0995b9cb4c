"""``mfs demo``: the same requests under every policy at several rates, on all cores, then a table and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.testbed import ORDERS, RunSettings
from mfs_eval.results import report
from mfs_eval.results.output import check_writable, writing
from mfs_eval.results.schema import Results, Run
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.policies import POLICIES, policy_for
from mfs_eval.setup.scenario import DEMO_SCENARIOS, Scenario, scenario_named
from mfs_eval.setup.workload import Workload, select, workload
from mfs_eval.workers import workers
from p4src import artifact

REQUESTS = 180
"""Requests of a run by default."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of the grid, small enough to send to another process."""

    scenario: str
    policy: str
    request_rate: float
    seed: int
    work: Workload
    order: str


def run_demo(
    out: Path,
    scenarios: Sequence[str] = (),
    policies: Sequence[str] = (),
    trace: Path | None = None,
    requests: int | None = None,
    seeds: Sequence[int] = (1,),
    jobs: int | None = None,
    order: str = ORDERS[0],
    console: Console | None = None,
) -> Results:
    """Run the grid and leave ``report.html`` and ``results.json`` in ``out``.

    Without policies all of them are run, without scenarios :data:`~mfs_eval.setup.scenario.DEMO_SCENARIOS`.

    Raises:
        EvaluationError: an unknown scenario or policy, a trace that cannot be read or is too short.
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    console = console or Console()
    chosen = {name: scenario_named(name) for name in scenarios or DEMO_SCENARIOS}
    for name in policies:
        _check_policy(name, next(iter(chosen.values())))
    artifact.load()
    path, count = trace or SAMPLE_PATH, requests or REQUESTS
    requested = load_trace(path)
    for scenario in chosen.values():
        select(scenario, requested, count)
        console.print(_description(scenario))
    numbers, pictures = out / "results.json", out / "report.html"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for path in (numbers, pictures):
            check_writable(path)
    with workers(jobs, console) as pool:
        works = pool.all("low-load TTFT of each request", workload, [(s, requested, count) for s in chosen.values()])
        points = [
            Point(name, policy, rate, seed, work, order)
            for (name, scenario), work in zip(chosen.items(), works, strict=True)
            for rate in scenario.request_rates
            for policy in policies or POLICIES
            for seed in dict.fromkeys(seeds)
        ]
        runs = pool.all("packets through the compiled program", play, [(point,) for point in points])
    settings: dict[str, str | int | float] = {
        "trace": path.name,
        "requests per run": count,
        "seeds": ", ".join(map(str, dict.fromkeys(seeds))),
        "ordered by the policy": {"both": "hosts and switch"}.get(order, order),
    }
    settings |= {f"scenario {name}": _description(one).partition(": ")[2] for name, one in chosen.items()}
    results = Results(settings=settings, runs=runs)
    with writing(out):
        results.write(numbers)
        report.write(results, pictures)
    _print_tables(results, console)
    console.print(f"Pictures: {pictures}   Numbers: {numbers}", highlight=False)
    return results


def play(point: Point) -> Run:
    """One run of the grid."""
    settings = RunSettings(order=point.order)
    return run(scenario_named(point.scenario), point.work, point.policy, point.request_rate, point.seed, settings)


def _check_policy(name: str, scenario: Scenario) -> None:
    """Raise the error of an unknown policy before the runs rather than in the first of them."""
    try:
        policy_for(name, scenario, Workload((), {}, {}), ())
    except ValueError as error:
        raise EvaluationError(str(error)) from None


def _description(scenario: Scenario) -> str:
    cluster = scenario.cluster
    factor = scenario.collective_factor
    exchange = f", all-to-all bytes times {factor:g}" if factor != 1 else ""
    racks = f" in two racks joined by {scenario.uplinks} links," if scenario.uplinks else ","
    return (
        f"{scenario.name}: {cluster.servers} servers x {cluster.nics_per_server} x "
        f"{cluster.nic_bits_per_second / 1e9:g} Gb/s, {len(cluster.units)} prefill units of "
        f"{cluster.unit_gpus(0)} {scenario.gpu.name} GPUs, {len(cluster.decode_servers)} decode servers{racks} "
        f"{scenario.model.name}; rates and bytes divided by {scenario.scale:,}, "
        f"{scenario.layers_per_step} layers a step{exchange}"
    )


def _print_tables(results: Results, console: Console) -> None:
    for scenario, rate in dict.fromkeys((one.scenario, one.request_rate) for one in results.runs):
        title = f"{scenario}, {rate:g} requests per second"
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
        table.add_column("policy")
        for heading in report.HEADINGS:
            table.add_column(heading, justify="right")
        for name, cells in report.rows(results.runs, scenario, rate):
            table.add_row(name, *cells, style="bold" if name == "mfs" else None)
        console.print(table)
    console.print(report.LEGEND)
