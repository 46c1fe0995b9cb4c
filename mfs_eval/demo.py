"""``mfs demo``: the same requests under every policy at several rates, then tables and a report."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mfs_eval.defaults import DEMO_REQUESTS
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results import report
from mfs_eval.results.output import check_writable, writing
from mfs_eval.results.provenance import commit, provenance
from mfs_eval.results.schema import Results, Run
from mfs_eval.runner import run_all
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.policies import policy_for
from mfs_eval.setup.run_settings import ORDERS, ControlSettings, RunSettings
from mfs_eval.setup.scenario import DEMO_SCENARIOS, Scenario, scenario_named
from mfs_eval.setup.workload import Workload, select
from p4src import artifact

POLICIES = ("fifo", "sjf", "edf", "static", "static-reuse", "mfs")
"""Policies that are compared by default; ``static-reuse`` is the strongest baseline."""


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
    requests: int = DEMO_REQUESTS,
    seeds: Sequence[int] = (1,),
    jobs: int | None = None,
    order: str = ORDERS[0],
    console: Console | None = None,
) -> Results:
    """Run the grid and leave ``report.html`` and ``results.json`` in ``out``.

    Args:
        out: folder; it is created if it does not exist.
        scenarios: by name; empty for :data:`~mfs_eval.setup.scenario.DEMO_SCENARIOS`.
        policies: names or paths of TOML files; empty for :data:`POLICIES`.
        trace: a Mooncake trace; None for the bundled one.
        requests: requests per run.
        seeds: seeds of the arrivals; tables pool their runs.
        jobs: number of processes; None for one per core.
        order: who schedules by the policy: ``both``, ``hosts`` or ``switch``.
        console: where tables go; None for stdout.

    Raises:
        EvaluationError: a scenario or policy is unknown, or the trace cannot be read or is too short.
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    console = console or Console()
    chosen = {name: scenario_named(name) for name in scenarios or DEMO_SCENARIOS}
    for name in policies:
        _check_policy(name, next(iter(chosen.values())))
    path = trace or SAMPLE_PATH
    requested = load_trace(path)
    origin = provenance(path, artifact.load())
    for scenario in chosen.values():
        select(scenario, requested, requests)
        console.print(f"{scenario.name}: {scenario.description}")
    numbers, pictures = out / "results.json", out / "report.html"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for file in (numbers, pictures):
            check_writable(file)
    scenario_work = [(scenario, requested, requests) for scenario in chosen.values()]
    works = run_all("low-load TTFT of each request", workload, scenario_work, jobs)
    points = [
        Point(name, policy, rate, seed, work, order)
        for (name, scenario), work in zip(chosen.items(), works, strict=True)
        for rate in scenario.request_rates
        for policy in policies or POLICIES
        for seed in seeds
    ]
    runs = run_all("packets through the compiled program", play, [(point,) for point in points], jobs)
    settings: dict[str, str | int | float] = {
        "command": _command(chosen, policies, trace, requests, seeds, order),
        "trace": path.name,
        "requests per run": requests,
        "seeds": ", ".join(map(str, seeds)),
        "scheduled by the policy": {"both": "hosts and switch"}.get(order, order),
    }
    if revision := commit():
        settings["commit"] = revision
    settings |= {f"scenario {name}": one.description for name, one in chosen.items()}
    results = Results(settings=settings, provenance=origin, runs=runs)
    with writing(out):
        results.write(numbers)
        report.write(results, pictures)
    print_tables(results, console)
    # Not wrapped at the width of the terminal: paths are to be copied.
    console.print(f"Pictures: {pictures}   Numbers: {numbers}", highlight=False, soft_wrap=True)
    return results


def _command(
    scenarios: Iterable[str],
    policies: Sequence[str],
    trace: Path | None,
    requests: int,
    seeds: Sequence[int],
    order: str,
) -> str:
    """Return the command that gives these results."""
    words = ["mfs", "demo"]
    words += [word for name in scenarios for word in ("--scenario", name)]
    words += [word for name in policies for word in ("--policy", name)]
    words += ["--trace", trace.name] if trace is not None else []
    words += ["--requests", str(requests), "--seeds", ",".join(map(str, seeds)), "--order", order]
    return shlex.join(words)


def play(point: Point) -> Run:
    """Play one run of the grid."""
    settings = RunSettings(control=ControlSettings(order=point.order))
    return run(scenario_named(point.scenario), point.work, point.policy, point.request_rate, point.seed, settings)


def _check_policy(name: str, scenario: Scenario) -> None:
    """Raise the error of an unknown policy before the runs rather than in the first of them."""
    try:
        policy_for(name, scenario, Workload((), {}, {}), ())
    except ValueError as error:
        raise EvaluationError(str(error)) from None


def print_tables(results: Results, console: Console) -> None:
    """Print a table for each scenario and request rate, and a legend."""
    for scenario, rate in dict.fromkeys((one.scenario, one.request_rate) for one in results.runs):
        title = f"{scenario}, {rate:g} requests per second"
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
        table.add_column("policy", overflow="fold")
        for heading in report.HEADINGS:
            table.add_column(heading, justify="right")
        for name, cells in report.rows(results.runs, scenario, rate):
            table.add_row(name, *cells, style="bold" if name == "mfs" else None)
        console.print(table)
    console.print(report.TRANSPORT)
    console.print(report.LEGEND)
