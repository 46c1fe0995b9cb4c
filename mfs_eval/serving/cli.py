"""``mfs trace``: statistics of request traces, and generated ones."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import JSON


@click.group()
def trace() -> None:
    """Show what request traces look like, and generate them.

    Traces are JSON Lines files in the format of the Mooncake release.
    """


@trace.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@JSON
def stats(file: Path, as_json: bool) -> None:
    """Print the statistics of the trace FILE."""
    import json
    from dataclasses import asdict

    from mfs_eval.serving.trace import load_trace
    from mfs_eval.serving.trace_statistics import describe

    found = describe(load_trace(file))
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    rate = f" ({found.requests / found.span_s:,.2f} per second)" if found.span_s else ""
    click.echo(f"requests         {found.requests:,} in {found.span_s:,.0f} s{rate}")
    for name, mean, (low, median, high) in (
        ("prompt tokens", found.prompt_mean, found.prompt_percentiles),
        ("output tokens", found.output_mean, found.output_percentiles),
    ):
        click.echo(f"{name}    mean {mean:,.0f}, 10th percentile {low:,.0f}, median {median:,.0f}, 90th {high:,.0f}")
    click.echo(f"reusable blocks  {found.prefix_share:.1%} repeat the prefix of an earlier prompt")
    click.echo(f"continuations    {found.follow_share:.1%} of the requests repeat more than one block")
    click.echo(f"common start     {found.first_block_share:.1%} of the requests start with the most frequent block")


@trace.command(short_help="Generate a trace like the Mooncake conversation trace.")
@click.option("--requests", type=click.IntRange(1, 10_000_000), required=True, help="Number of requests.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the random draws.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
def generate(requests: int, seed: int, out: Path) -> None:
    """Generate a trace with the statistics of the Mooncake conversation trace."""
    from mfs_eval.errors import TraceError
    from mfs_eval.serving import generator
    from mfs_eval.serving.trace import write_trace

    made = generator.generate(requests, seed)
    try:
        write_trace(out, made)
    except OSError as error:
        raise TraceError(f"cannot write {out}: {error.strerror}; choose another file with --out") from None
    click.echo(f"{out}: {requests:,} requests")
