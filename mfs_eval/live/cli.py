"""``mfs live``: policies compared over real sockets."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import BitRate, Positive, logging_options
from mfs_eval import options


@click.command(short_help="Compare policies over real sockets (Linux, root).")
@options.policies(("fifo", "mfs"))
@click.option("--requests", type=click.IntRange(5, 1000), default=80, show_default=True, help="Requests per run.")
@click.option(
    "--request-rate",
    type=Positive(0.01, 1000),
    default=20.0,
    show_default=True,
    help="Requests per second, in the model's time.",
)
@click.option("--rate", type=BitRate(), default="20M", show_default=True, help="Rate of each link, e.g. 20M.")
@click.option(
    "--stretch", type=Positive(0.1, 1000), default=5.0, show_default=True, help="Real time over the model's time."
)
@options.seeds("1")
@options.TRACE
@click.option("--no-stamps", is_flag=True, help="Run without host agents: nothing is stamped or scheduled.")
@click.option("--hold/--no-hold", default=False, show_default=True, help="Have host agents hold flows at their source.")
@click.option("--bmv2", is_flag=True, help="Use bmv2 (simple_switch_grpc on the PATH) instead of the embedded switch.")
@click.option("--prefix", default="mfslive", show_default=True, help="Prefix of namespaces and interfaces.")
@logging_options
def live(
    policies: tuple[str, ...],
    requests: int,
    request_rate: float,
    rate: int,
    stretch: float,
    seeds: tuple[int, ...],
    trace: Path | None,
    no_stamps: bool,
    hold: bool,
    bmv2: bool,
    prefix: str,
) -> None:
    """Serve LLM requests over real sockets, in real time.

    Eight network namespaces with host agents are the servers, the embedded switch connects them, and a controller
    tunes it. The flows of the serving model are TCP connections. Times are given in the model's time.
    """
    from mfs_eval.live.live import LiveSettings, prepared, run_live

    settings = LiveSettings(rate, stretch, not no_stamps, bmv2=bmv2, hold=hold)
    work = prepared(settings, requests, trace)
    results = run_live(policies, work, request_rate, seeds, settings, prefix)
    width = max(6, *(len(policy) for policy in policies))
    click.echo(f"{'policy':{width}}  seed  in SLO  TTFT mean    p50    p99  collective   flows  late by  took")
    for result in results:
        found = result.summary
        times = (found.ttft_mean_s, found.ttft_p50_s, found.ttft_p99_s, found.collective_mean_s)
        mean, median, tail, collective = (f"{seconds * 1000:6.0f}" for seconds in times)
        click.echo(
            f"{result.policy:{width}}  {result.seed:4}  {found.slo_attainment:6.0%}     {mean} {median} {tail}      "
            f"{collective}  {result.flows:6}  {result.worst_delay_s * 1000:4.0f} ms  {result.elapsed_s:3.0f} s"
        )
    click.echo(f"times in milliseconds of the model's time; 1 s of it takes {stretch:g} s of real time")
