"""``mfs sweep``: the flow-level engine from the command line."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import Positive, typed
from mfs_eval import defaults, options

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


@click.command(short_help="Compare policies in a data centre, at flow level.")
@options.out_folder("out/sweep", "sweep.csv, report.html and the pictures; rerun to resume")
@click.option("--case", "cases", multiple=True, help="Model and prompts; may be repeated. By default all.")
@click.option("--variant", "variants", multiple=True, help="Policy and who follows it; may be repeated.")
@options.request_rates_per_gpu()
@click.option(
    "--oversubscription",
    "oversubscriptions",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Oversubscription of the edge switches; may be repeated.",
)
@click.option(
    "--slo-factor",
    "factors",
    type=Positive(0.01, 1000),
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
    help="A unit's servers at one edge switch, or each at a different one; may be repeated.",
)
@click.option(
    "--tenants",
    multiple=True,
    default=("alike",),
    show_default=True,
    help="Difference between two tenants: alike, loose, eager, bulk; may be repeated.",
)
@click.option(
    "--servers",
    type=click.IntRange(min=1),
    default=defaults.SWEEP_SERVERS,
    show_default=True,
    help="Servers, each with 8 GPUs and 8 network interfaces.",
)
@options.requests(defaults.SWEEP_REQUESTS, minimum=3)
@options.seeds("1-3")
@options.TRACE
@options.JOBS
@options.DRY_RUN
def sweep(
    out: Path,
    cases: tuple[str, ...],
    variants: tuple[str, ...],
    rates_per_gpu: tuple[float, ...],
    oversubscriptions: tuple[int, ...],
    factors: tuple[float, ...],
    layouts: tuple[str, ...],
    tenants: tuple[str, ...],
    servers: int,
    requests: int,
    seeds: tuple[int, ...],
    trace: Path | None,
    jobs: int | None,
    dry_run: bool,
) -> None:
    """Run a grid of models, fabrics, request rates, policies and seeds at flow level.

    A third of the requests of a run is warm-up. Each run is a line of sweep.csv as soon as it ends, and finished runs
    are not repeated: rerun the command to resume.
    """
    from mfs_eval.flow_level import sweep_page, sweep_rows
    from mfs_eval.flow_level.cases import CASES
    from mfs_eval.flow_level.sweep import Grid, run_sweep
    from mfs_eval.flow_level.sweep_report import report_sweep
    from mfs_eval.results import page, row_page

    grid = Grid(
        cases=cases or tuple(CASES),
        variants=variants or DEFAULT_VARIANTS,
        seeds=seeds,
        rates_per_gpu=rates_per_gpu,
        oversubscriptions=oversubscriptions,
        slo_factors=factors,
        layouts=layouts,
        tenants=tenants,
        servers=servers,
        requests=requests,
        trace=trace,
    )
    run_sweep(grid, out, jobs, command=typed(), dry_run=dry_run)
    if not dry_run:
        report_sweep(out)
        click.echo(f"Report: {page.write(row_page.page(sweep_page.read(out / sweep_rows.FILE)), out / page.FILE)}")
