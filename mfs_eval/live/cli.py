"""``mfs live``: the policies compared over real sockets."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import BitRate, Positive


@click.command()
@click.option(
    "--policy",
    "policies",
    type=click.Choice(["fifo", "static", "mfs"]),
    multiple=True,
    default=("fifo", "mfs"),
    show_default=True,
    help="May be repeated.",
)
@click.option("--requests", type=click.IntRange(5, 1000), default=80, show_default=True, help="Requests per run.")
@click.option(
    "--request-rate",
    type=Positive(0.01, 1000),
    default=20.0,
    show_default=True,
    help="Requests per second of the model's time.",
)
@click.option("--rate", type=BitRate(), default="20M", show_default=True, help="Bits per second of each link.")
@click.option(
    "--stretch", type=Positive(0.1, 1000), default=5.0, show_default=True, help="Real time over the model's time."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the arrivals.")
@click.option(
    "--trace", type=click.Path(path_type=Path, dir_okay=False), help="Another Mooncake trace than the one at hand."
)
@click.option("--no-stamps", is_flag=True, help="Without host agents: nothing is stamped, nothing is ordered.")
@click.option("--bmv2", is_flag=True, help="On bmv2 (simple_switch_grpc on the PATH), not on the embedded switch.")
@click.option("--prefix", default="mfslive", show_default=True, help="Of namespaces and interfaces.")
def live(
    policies: tuple[str, ...],
    requests: int,
    request_rate: float,
    rate: int,
    stretch: float,
    seed: int,
    trace: Path | None,
    no_stamps: bool,
    bmv2: bool,
    prefix: str,
) -> None:
    """Serve requests over real sockets, in real time (Linux, root).

    Eight network namespaces are the servers, with host agents; the embedded switch joins them, and a controller tunes
    it. The serving model's flows are TCP connections. Times are given in the model's time.
    """
    from mfs_eval.live.live import LiveSettings, prepared, run_live

    settings = LiveSettings(rate, stretch, not no_stamps, bmv2=bmv2)
    work = prepared(settings, requests, trace)
    results = run_live(policies, work, request_rate, seed, settings, click.echo, prefix)
    click.echo("policy  in SLO  TTFT mean    p50    p99  collective   flows  late by  took")
    for result in results:
        found = result.summary
        times = (found.ttft_mean_s, found.ttft_p50_s, found.ttft_p99_s, found.collective_mean_s)
        mean, median, tail, collective = (f"{seconds * 1000:6.0f}" for seconds in times)
        click.echo(
            f"{result.policy:6}  {found.slo_attainment:6.0%}     {mean} {median} {tail}      {collective}"
            f"  {result.flows:6}  {result.worst_delay_s * 1000:4.0f} ms  {result.elapsed_s:3.0f} s"
        )
    click.echo(f"times in milliseconds of the model's time, 1 of which is {stretch:g} of real time")
