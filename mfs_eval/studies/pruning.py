"""``mfs study pruning``: attainment with and without pruning, by policy and drop budget, seeds pooled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import click

from mfs_eval import options
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.serving.costs import LLAMA3_8B
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.run_settings import PruningSettings, RunSettings
from mfs_eval.setup.scenario import SCENARIOS, scenario_named

OVERLOAD = slice(1, 3)
"""The request rates of a scenario at which fair sharing attains about 40 % and 20 %."""


def variants(budgets: tuple[float, ...], hopeless: bool) -> Iterator[tuple[str, RunSettings]]:
    """Yield settings by name: without pruning, and with each budget. A budget of 0 only gives up late flows.

    With ``hopeless``, marked by "+q", hopeless requests come last in the compute queue.
    """
    mark = "+q" if hopeless else ""
    yield "off" + mark, RunSettings(pruning=PruningSettings(defer_infeasible=hopeless))
    for budget in budgets:
        yield f"{budget:g}{mark}", RunSettings(pruning=PruningSettings(budget, hopeless))


@click.command(short_help="What giving up hopeless requests is worth.")
@options.SCENARIOS
@options.policies(("mfs", "static", "fifo"))
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    type=click.FloatRange(0, 1),
    default=(0.05, 0.1, 0.3),
    show_default=True,
    help="Share of the requests that may be given up; may be repeated.",
)
@options.requests(100)
@options.seeds("1-2")
@click.option("--hopeless/--no-hopeless", help="Whether hopeless requests are computed last.")
@click.option("--dense", is_flag=True, help="Serve Llama3-8B, which has no collectives: all traffic is KV.")
@options.request_rates("the scenario's rates")
def pruning(
    scenarios: tuple[str, ...],
    policies: tuple[str, ...],
    budgets: tuple[float, ...],
    requests: int,
    seeds: tuple[int, ...],
    hopeless: bool,
    dense: bool,
    request_rates: tuple[float, ...],
) -> None:
    """Print the share of objectives attained and the number of requests given up, one line per setting."""
    click.echo("scenario  rate  policy  budget  attained  by seed  given up  late when computed")
    for name in scenarios or SCENARIOS:
        scenario = scenario_named(name)
        if dense:
            scenario = replace(scenario, model=LLAMA3_8B)
        work = workload(scenario, load_trace(SAMPLE_PATH), requests)
        for rate in request_rates or scenario.request_rates[OVERLOAD]:
            for policy in policies:
                for budget, settings in variants(budgets, hopeless):
                    runs = [run(scenario, work, policy, rate, seed, settings) for seed in seeds]
                    attained = [one.slo_attainment for one in runs]
                    given_up = [one.requests_pruned for one in runs]
                    late = [one.requests_late_when_computed for one in runs]
                    shares = " ".join(f"{share:.3f}" for share in attained)
                    mean = sum(attained) / len(attained)
                    click.echo(f"{name:8}  {rate:4g}  {policy:6}  {budget:6}  {mean:.3f}  {shares}  {given_up}  {late}")
