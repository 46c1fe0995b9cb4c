"""``mfs advise``: would it pay in my cluster?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from host_agent.command_line import JSON
from mfs_eval import defaults, options


@click.command(short_help="Say what would pay in your cluster.")
@click.argument("file", metavar="CLUSTER.toml", type=click.Path(path_type=Path, dir_okay=False))
@options.TRACE
@click.option(
    "--windows",
    type=click.IntRange(min=3),
    default=10,
    show_default=True,
    help="Windows of the trace; their differences give the intervals.",
)
@options.requests(defaults.ABLATION_REQUESTS, minimum=10)
@click.option("--goodput/--no-goodput", default=True, help="Whether to search the highest rates with 90 % in time.")
@JSON
@options.JOBS
def advise(
    file: Path, trace: Path | None, windows: int, requests: int, goodput: bool, as_json: bool, jobs: int | None
) -> None:
    """Say what each policy would attain in the cluster that CLUSTER.toml describes, and what to deploy first.

    Requests are those of windows of the trace, in the flow-level model; examples/cluster.toml shows such a file.
    """
    from mfs_eval.advise import cluster_file, report
    from mfs_eval.advise.advice import advise as advice_for
    from mfs_eval.serving.trace import TRACE_PATH, load_trace

    cluster = cluster_file.read(file)
    read = load_trace(trace or TRACE_PATH)
    found = advice_for(cluster, read, windows, requests, goodput, jobs, partial(click.echo, err=True))
    click.echo(report.as_json(found) if as_json else report.as_text(found), nl=as_json)
