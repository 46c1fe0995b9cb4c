"""``mfs sweep`` and ``mfs report``: the flow-level engine from the command line."""

from __future__ import annotations

from pathlib import Path

import click

OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/sweep"),
    show_default=True,
    help="Folder of sweep.csv; points that are in it are not run again.",
)
DEFAULT_VARIANTS = (
    "fifo",
    "sjf",
    "edf-explicit",
    "karuna-paced",
    "static",
    "static-reuse",
    "mfs-hosts",
    "mfs",
    "llf",
    "ceiling",
)


@click.command()
@OUT
@click.option("--case", "cases", multiple=True, help="Model and prompts; may be repeated. By default all.")
@click.option("--variant", "variants", multiple=True, help="Policy, and who follows it; may be repeated.")
@click.option(
    "--rate-per-gpu",
    "rates",
    type=click.FloatRange(min=1e-6, max=1e6),
    multiple=True,
    help="Requests/s and GPU; may be repeated. By default each case's own.",
)
@click.option(
    "--oversubscription",
    "overs",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Of edge switches; may be repeated.",
)
@click.option(
    "--slo-factor",
    "factors",
    type=click.FloatRange(min=0.01, max=1000),
    multiple=True,
    default=(3.0,),
    show_default=True,
    help="Objectives are the low-load TTFT times this; may be repeated.",
)
@click.option(
    "--layout",
    "layouts",
    type=click.Choice(("packed", "spread")),
    multiple=True,
    default=("packed",),
    show_default=True,
    help="A unit's servers at one edge switch, or each at another; may be repeated.",
)
@click.option(
    "--tenants",
    multiple=True,
    default=("alike",),
    show_default=True,
    help="How two tenants differ: alike, loose, eager, bulk; may be repeated.",
)
@click.option("--servers", type=click.IntRange(min=1), default=256, show_default=True, help="Of 8 GPUs and 8 NICs.")
@click.option("--requests", type=click.IntRange(min=3), default=1536, show_default=True, help="A third is warm-up.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many, the same for all.")
@click.option("--first-seed", type=click.IntRange(min=0), default=1, show_default=True, help="The first of them.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another Mooncake trace (JSONL) than the one that comes along.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes; by default one per core.")
@click.option("--dask", help="Address of a Dask scheduler whose workers run the points instead.")
def sweep(
    out: Path,
    cases: tuple[str, ...],
    variants: tuple[str, ...],
    rates: tuple[float, ...],
    overs: tuple[int, ...],
    factors: tuple[float, ...],
    layouts: tuple[str, ...],
    tenants: tuple[str, ...],
    servers: int,
    requests: int,
    seeds: int,
    first_seed: int,
    trace: Path | None,
    jobs: int | None,
    dask: str | None,
) -> None:
    """Run a grid of models, fabrics, rates, policies and seeds at flow level.

    Each run is a line of sweep.csv as soon as it ends. Stopped, it goes on where it was when called again.
    """
    from mfs_eval.flow_level.cases import CASES
    from mfs_eval.flow_level.sweep import Grid, run_sweep
    from mfs_eval.flow_level.sweep_report import report_sweep

    grid = Grid(
        cases=cases or tuple(CASES),
        variants=variants or DEFAULT_VARIANTS,
        seeds=tuple(range(first_seed, first_seed + seeds)),
        rates_per_gpu=rates,
        oversubscriptions=overs,
        slo_factors=factors,
        layouts=layouts,
        tenants=tenants,
        servers=servers,
        requests=requests,
        trace=trace,
    )
    run_sweep(grid, out, jobs, dask)
    report_sweep(out)


@click.command()
@OUT
def report(out: Path) -> None:
    """Print the tables of a sweep, and draw its pictures beside sweep.csv."""
    from mfs_eval.flow_level.sweep_report import report_sweep

    report_sweep(out)
