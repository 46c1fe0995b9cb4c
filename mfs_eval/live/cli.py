"""``mfs live``: policies compared over real sockets."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from host_agent.command_line import BitRate, Positive, logging_options, typed
from mfs_eval import options

if TYPE_CHECKING:
    from mfs_eval.live.live_rows import Row

START_S = 3.0
"""About how long a run takes before the first request and after the last."""
_HEADINGS = (
    "policy", "seed", "in SLO", "TTFT mean", "p50", "p99", "collective", "sent again", "timeouts", "stall", "took",
)  # fmt: skip


@click.command(short_help="Compare policies over real sockets (Linux, root).")
@options.policies(("fifo", "static-reuse", "mfs-tcp"))
@click.option(
    "--cluster",
    type=click.Choice(["testbed", "incast"]),
    default="testbed",
    show_default=True,
    help="Two prefill units and four decode servers, or three units and one decode server.",
)
@click.option("--requests", type=click.IntRange(5, 1000), default=60, show_default=True, help="Requests per run.")
@click.option(
    "--request-rate",
    type=Positive(0.01, 1000),
    default=14.0,
    show_default=True,
    help="Requests per second, in the model's time.",
)
@click.option("--rate", type=BitRate(), default="20M", show_default=True, help="Rate of each link, e.g. 20M.")
@click.option(
    "--stretch", type=Positive(0.1, 1000), default=5.0, show_default=True, help="Real time over the model's time."
)
@options.seeds("1")
@options.TRACE
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for live.csv, a row per run, and report.html; runs that it has are not repeated.",
)
@click.option(
    "--record",
    is_flag=True,
    help="Keep each request and flow in the folder of --out, for mfs explain; agents are asked for levels as it runs.",
)
@click.option("--no-stamps", is_flag=True, help="Run without host agents: nothing is stamped or scheduled.")
@click.option("--no-order", is_flag=True, help="Let agents stamp only: a host's link has one queue.")
@click.option("--kernel-tcp", is_flag=True, help="Leave TCP as Linux has it: time stamps, timeouts of 200 ms.")
@click.option(
    "--queue-bytes",
    type=click.IntRange(min=1),
    help="Bytes that each queue of the switch holds.  [default: 2 MiB, with bmv2 48 KiB]",
)
@click.option("--hold/--no-hold", default=False, show_default=True, help="Have host agents hold flows at their source.")
@click.option(
    "--carrier",
    type=click.Choice(("shim", "option")),
    default="option",
    show_default=True,
    help="What carries the stamps: a TCP option, or a shim before IP, whose frames receivers cannot merge.",
)
@click.option("--bmv2", is_flag=True, help="Use bmv2 (simple_switch_grpc on the PATH) instead of the embedded switch.")
@click.option("--prefix", default="mfslive", show_default=True, help="Prefix of namespaces and interfaces.")
@options.DRY_RUN
@logging_options
def live(
    policies: tuple[str, ...],
    cluster: str,
    requests: int,
    request_rate: float,
    rate: int,
    stretch: float,
    seeds: tuple[int, ...],
    trace: Path | None,
    out: Path | None,
    record: bool,
    no_stamps: bool,
    no_order: bool,
    kernel_tcp: bool,
    queue_bytes: int | None,
    hold: bool,
    carrier: str,
    bmv2: bool,
    prefix: str,
    dry_run: bool,
) -> None:
    """Serve LLM requests over real sockets, in real time.

    Eight network namespaces with host agents are the servers, a switch connects them, and a controller tunes it. The
    flows of the serving model are TCP connections. A seed draws the arrivals, and is the number of the window of the
    trace that is served. Times are given in the model's time.
    """
    from mfs_eval.live import live_page, live_record, live_rows, live_tables
    from mfs_eval.live.live import BMV2_QUEUE_BYTES, CLUSTERS, QUEUE_BYTES, LiveSettings, prepared, run_live
    from mfs_eval.plan import plan_text
    from mfs_eval.results import command_log, page, row_page
    from mfs_eval.results.output import writing
    from mfs_eval.results.provenance import provenance
    from mfs_eval.results.rows import RowStore
    from mfs_eval.serving.trace import TRACE_PATH
    from p4src import artifact

    if record and out is None:
        raise click.UsageError("--record needs a folder: --out")
    settings = LiveSettings(
        rate,
        stretch,
        not no_stamps,
        CLUSTERS[cluster],
        bmv2,
        not no_order,
        kernel_tcp,
        queue_bytes or (BMV2_QUEUE_BYTES if bmv2 else QUEUE_BYTES),
        hold,
        carrier,
    )
    check = partial(live_rows.mismatch, settings=settings, requests=requests)
    store = None
    if out is not None:
        with writing(out):
            if not dry_run:
                out.mkdir(parents=True, exist_ok=True)
            origin = provenance(trace or TRACE_PATH, artifact.load())
            store = RowStore(out / live_rows.FILE, live_rows.Row, origin, check, read_only=dry_run)
            if not dry_run:
                command_log.record(out, typed(), (trace or TRACE_PATH).name)
    if dry_run:
        key_of = partial(live_rows.key_of, cluster, settings, request_rate)
        keys = {key_of(policy, seed) for policy in policies for seed in seeds}
        finished = len(keys & store.rows.keys()) if store is not None else 0
        run_s = START_S + requests / request_rate * stretch
        click.echo(plan_text(len(keys), finished, run_s * (len(keys) - finished)))
        return

    width = max(6, *(len(Path(policy).stem) for policy in policies))
    click.echo(f"{'policy':{width}}  " + "  ".join(_HEADINGS[1:]))
    rows: list[Row] = []
    for seed in seeds:
        known = {} if store is None else store.rows
        missing = []
        for policy in policies:
            key = live_rows.key_of(cluster, settings, request_rate, policy, seed)
            if key in known:
                rows.append(known[key])
                _show(known[key], width)
            else:
                missing.append(policy)
        if not missing:
            continue
        work = prepared(settings, requests, trace, seed - 1)
        for result in run_live(missing, work, request_rate, seed, settings, prefix, record):
            row = live_rows.row_of(result, cluster, request_rate, settings)
            rows.append(row)
            if out is not None and store is not None:
                store.append(row)
                if record:
                    with writing(out):
                        live_record.write(result.record, live_record.path_of(out, row))
            _show(row, width)
    if out is not None:
        drawn = page.write(row_page.page(live_page.read(out / live_rows.FILE)), out / page.FILE)
        click.echo(f"Report: {drawn}")
    if len(seeds) > 1:
        click.echo()
        click.echo(live_tables.summary(rows))
    click.echo(
        f"TTFT and collective in milliseconds of the model's time, of which 1 s takes {stretch:g} s; "
        "stall: longest time in which a flow waited while its links were idle, in real milliseconds"
    )


def _show(row: Row, width: int) -> None:
    times = (row.ttft_mean_s, row.ttft_p50_s, row.ttft_p99_s, row.collective_mean_s)
    mean, median, tail, collective = (f"{seconds * 1000:.0f}" for seconds in times)
    click.echo(
        f"{row.policy:{width}}  {row.seed:4}  {row.slo_attainment:6.0%}  {mean:>9}  {median:>3}  {tail:>3}  "
        f"{collective:>10}  {row.retransmitted:10}  {row.timeouts:8}  {row.longest_stall_s * 1000:5.0f}  "
        f"{row.elapsed_s:3.0f}s"
    )
