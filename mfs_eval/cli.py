"""``mfs demo`` and ``mfs ablate``: the packet-level engine from the command line."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import Positive


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/demo"),
    show_default=True,
    help="Folder for report.html and results.json.",
)
@click.option(
    "--scenario", "scenarios", multiple=True, help="Run this scenario, not the default ones; may be repeated."
)
@click.option("--policy", "policies", multiple=True, help="Only this policy; may be repeated.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another Mooncake trace (JSONL) than the one that comes along.",
)
@click.option("--requests", type=click.IntRange(min=1), help="Requests per run.")
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Seed of the arrivals; may be repeated, tables then pool the runs.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes; by default one per core.")
@click.option(
    "--order",
    type=click.Choice(["both", "hosts", "switch"]),
    default="both",
    show_default=True,
    help="Who orders by the policy; where it is not followed, all is one queue.",
)
def demo(
    out: Path,
    scenarios: tuple[str, ...],
    policies: tuple[str, ...],
    trace: Path | None,
    requests: int | None,
    seeds: tuple[int, ...],
    jobs: int | None,
    order: str,
) -> None:
    """Replay requests on a rack of 8 servers and report TTFT per policy."""
    from mfs_eval.demo import run_demo

    run_demo(out, scenarios, policies, trace, requests, seeds, jobs, order)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/ablation"),
    show_default=True,
    help="Folder for ablation.csv and the pictures; runs that are in it are not run again.",
)
@click.option("--scenario", "scenarios", multiple=True, help="Only this scenario; may be repeated.")
@click.option("--variant", "variants", multiple=True, help="Only this variant; may be repeated.")
@click.option(
    "--load",
    "loads",
    type=click.Choice(["0.6", "0.4", "0.2"]),
    multiple=True,
    help="Only the scenario's rate at which fair sharing attains about this share; may be repeated.",
)
@click.option(
    "--rate", "rates", type=Positive(0.001, 1e6), multiple=True, help="This rate, requests/s; may be repeated."
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=10, show_default=True, help="How many seeds, the same for all."
)
@click.option("--first-seed", type=click.IntRange(min=0), default=1, show_default=True, help="The first of them.")
@click.option("--requests", type=click.IntRange(min=1), default=120, show_default=True, help="Requests per run.")
@click.option(
    "--scale",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Rates and bytes are divided by this: the finer, the truer and the slower.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes; by default one per core.")
def ablate(
    out: Path,
    scenarios: tuple[str, ...],
    variants: tuple[str, ...],
    loads: tuple[str, ...],
    rates: tuple[float, ...],
    seeds: int,
    first_seed: int,
    requests: int,
    scale: int,
    jobs: int | None,
) -> None:
    """Show what each part of the scheduler is worth.

    Runs the scheduler, the same without one of its parts, and the policies that it is compared with, over several
    seeds. Stopped, it goes on where it was when called again.
    """
    from mfs_eval.studies.ablation import run_ablation

    chosen_loads = [float(load) for load in loads]
    run_ablation(out, scenarios, variants, chosen_loads, rates, seeds, first_seed, requests, scale, jobs)
