"""What pruning is worth: objectives attained with and without it, by policy and drop budget, seeds pooled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import click

from mfs_ctrl.cli import reporting_errors
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.serving.costs import LLAMA3_8B
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.run_settings import PruningSettings, RunSettings
from mfs_eval.setup.scenario import SCENARIOS, scenario_named

OVERLOAD = slice(1, 3)
"""Of a scenario's rates: where fair sharing attains about 40 % and 20 %."""


def variants(budgets: tuple[float, ...], hopeless: bool) -> Iterator[tuple[str, RunSettings]]:
    """Settings by name: without pruning, and with each budget; a budget of 0 only gives up late flows.

    With ``hopeless`` in all of them hopeless requests are last in the compute queue, as "+q" says.
    """
    mark = "+q" if hopeless else ""
    yield "off" + mark, RunSettings(pruning=PruningSettings(defer_infeasible=hopeless))
    for budget in budgets:
        yield f"{budget:g}{mark}", RunSettings(pruning=PruningSettings(budget, hopeless))


@click.command()
@click.option("--scenario", "names", multiple=True, default=tuple(SCENARIOS), type=click.Choice(tuple(SCENARIOS)))
@click.option("--policy", "policies", multiple=True, default=("mfs", "static", "fifo"), show_default=True)
@click.option("--budget", "budgets", multiple=True, type=float, default=(0.05, 0.1, 0.3), show_default=True)
@click.option("--requests", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--hopeless/--no-hopeless", help="Hopeless requests are computed last.")
@click.option("--dense", is_flag=True, help="Serve Llama3-8B: no collectives, so that KV is all that is sent.")
@click.option("--rate", "rates", multiple=True, type=float, help="Requests per second, instead of the scenario's.")
def pruning(
    names: tuple[str, ...],
    policies: tuple[str, ...],
    budgets: tuple[float, ...],
    requests: int,
    seeds: tuple[int, ...],
    hopeless: bool,
    dense: bool,
    rates: tuple[float, ...],
) -> None:
    """Print the share of objectives attained, and how many requests were given up, one line a setting."""
    click.echo("scenario  rate  policy  budget  attained  by seed  given up  late when computed")
    for name in names:
        scenario = scenario_named(name)
        if dense:
            scenario = replace(scenario, model=LLAMA3_8B)
        work = workload(scenario, load_trace(SAMPLE_PATH), requests)
        for rate in rates or scenario.request_rates[OVERLOAD]:
            for policy in policies:
                for budget, settings in variants(budgets, hopeless):
                    runs = [run(scenario, work, policy, rate, seed, settings) for seed in seeds]
                    attained = [one.slo_attainment for one in runs]
                    given_up = [one.requests_pruned for one in runs]
                    late = [one.requests_late_when_computed for one in runs]
                    shares = " ".join(f"{share:.3f}" for share in attained)
                    mean = sum(attained) / len(attained)
                    click.echo(f"{name:8}  {rate:4g}  {policy:6}  {budget:6}  {mean:.3f}  {shares}  {given_up}  {late}")
                    sys.stdout.flush()


if __name__ == "__main__":
    reporting_errors(pruning)
