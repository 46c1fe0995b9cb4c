"""``mfs study tcp-policies``: policies over a simulated TCP, in the windows where they can differ.

The runs are those of ``mfs live`` at its defaults, in virtual time. Fair sharing is played first, the policies only
where it attains neither little nor nearly all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import click

from host_agent.command_line import BitRate
from mfs_eval import options
from mfs_eval.errors import EvaluationError
from mfs_eval.live.live import CLUSTERS
from mfs_eval.live.live_tables import BASE, MIDDLE
from mfs_eval.live.virtual_time import LiveRun, play
from mfs_eval.packet_level.packet_network import PacketNetwork, Totals
from mfs_eval.results.markdown import table
from mfs_eval.results.output import writing
from mfs_eval.results.provenance import provenance
from mfs_eval.results.rows import RowStore, StoredRow
from mfs_eval.results.statistics import paired_difference
from mfs_eval.runner import run_all
from mfs_eval.serving.trace import TRACE_PATH
from p4src import artifact

FILE = "tcp-policies.csv"
REQUEST_RATES = (11.0, 13.0, 15.0, 17.0)
HEADINGS = (
    "cluster", "links, Mb/s", "policy", "cells", "in time, %", f"ahead of {BASE}, points",
    "TTFT mean, ms", f"mean / {BASE}", "TTFT p99, ms", f"p99 / {BASE}", "sent again", "timeouts",
)  # fmt: skip


Cell = tuple[str, int, float, int]
"""Cluster, rate of the links in bits per second, requests per second, and seed."""


class Row(StoredRow):
    """One simulated run. Times in seconds of the model, shares from 0 to 1."""

    LEADING: ClassVar[tuple[str, ...]] = ("cluster", "rate_bps", "request_rate", "policy", "seed")
    KEY: ClassVar[tuple[str, ...]] = LEADING

    cluster: str
    rate_bps: int
    """Rate of each link. It stands for 100 Gb/s, so a faster one is a finer model."""
    request_rate: float
    policy: str
    """Name; of a file its stem."""
    seed: int
    """Of the arrivals, and number of the window of the trace."""
    requests_per_run: int
    slo_attainment: float
    ttft_mean_s: float
    ttft_p99_s: float
    retransmitted: int
    timeouts: int

    @property
    def cell(self) -> Cell:
        """What all policies are compared in."""
        return self.cluster, self.rate_bps, self.request_rate, self.seed


def key_of(one: LiveRun) -> tuple[str, int, float, str, int]:
    """Return the key of a run's row; the policy is a name or a file."""
    return one.cluster, one.rate_bps, one.request_rate, Path(one.policy).stem, one.seed


def simulate(live: LiveRun) -> Row:
    """Play the run ``live`` in virtual time."""
    totals: list[Totals] = []

    def keep(network: PacketNetwork) -> None:
        totals.append(network.totals())

    one = play(live, on_end=keep)
    cluster, rate_bps, request_rate, policy, seed = key_of(live)
    return Row(
        cluster=cluster,
        rate_bps=rate_bps,
        request_rate=request_rate,
        policy=policy,
        seed=seed,
        requests_per_run=live.requests_per_run,
        slo_attainment=one.slo_attainment,
        ttft_mean_s=one.ttft_mean_s,
        ttft_p99_s=one.ttft_p99_s,
        retransmitted=totals[-1].retransmitted,
        timeouts=totals[-1].timeouts,
    )


def is_middle(fair: Row) -> bool:
    """Return whether the run of fair sharing leaves something to win and something to lose."""
    return MIDDLE[0] <= fair.slo_attainment <= MIDDLE[1]


def markdown(rows: Sequence[Row]) -> str:
    """Return the means of each policy over the cells in the middle, beside those of fair sharing in the same cells."""
    lines = []
    for cluster, rate_bps in dict.fromkeys((row.cluster, row.rate_bps) for row in rows):
        here = [row for row in rows if (row.cluster, row.rate_bps) == (cluster, rate_bps)]
        fair = {row.cell: row for row in here if row.policy == BASE and is_middle(row)}
        for policy in dict.fromkeys(row.policy for row in here):
            found = {row.cell: row for row in here if row.policy == policy and row.cell in fair}
            if found:
                lines.append((cluster, f"{rate_bps / 1e6:g}", f"`{policy}`", *_cells(found, fair)))
    return table(HEADINGS, lines)


def _cells(found: Mapping[Cell, Row], fair: Mapping[Cell, Row]) -> list[str]:
    order = sorted(found)
    mine, base = ({i: 100 * rows[cell].slo_attainment for i, cell in enumerate(order)} for rows in (found, fair))
    ahead = paired_difference(mine, base)
    cells = [str(len(order)), f"{fmean(mine.values()):.0f}"]
    cells.append("" if found == fair or ahead is None else f"{ahead.mean:+.1f} ± {ahead.half:.1f}")
    for name in ("ttft_mean_s", "ttft_p99_s"):
        own, others = ([float(getattr(rows[cell], name)) for cell in order] for rows in (found, fair))
        cells += [f"{1e3 * fmean(own):,.0f}", f"{fmean(own) / fmean(others):.2f}"]
    return [
        *cells,
        *(f"{fmean(getattr(found[cell], name) for cell in order):,.0f}" for name in ("retransmitted", "timeouts")),
    ]


@click.command(short_help="Policies over a simulated TCP, where they can differ.")
@options.out_folder("out/tcp-policies", FILE)
@options.policies(("static-reuse", "static-bands", "mfs", "mfs-tail", "mfs-tcp", "mfs-tcp-bands"))
@click.option(
    "--cluster", type=click.Choice(list(CLUSTERS)), default="testbed", show_default=True, help="As in mfs live."
)
@click.option(
    "--rate",
    type=BitRate(),
    default="20M",
    show_default=True,
    help="Rate of each link; a run takes longer in proportion.",
)
@options.request_rates(f"{', '.join(f'{rate:g}' for rate in REQUEST_RATES)}")
@options.requests(60, minimum=5)
@options.seeds("1-9")
@options.JOBS
def tcp_policies(
    out: Path,
    policies: tuple[str, ...],
    cluster: str,
    rate: int,
    request_rates: tuple[float, ...],
    requests: int,
    seeds: tuple[int, ...],
    jobs: int | None,
) -> None:
    """Play windows of the trace at several rates as mfs live does, but in virtual time over a simulated TCP.

    Fair sharing (fifo) is played in all of them, the policies where it attains 30 to 60 %. A run takes some fifteen
    seconds and is a line of tcp-policies.csv as soon as it ends; rerun the command to resume.
    """

    def mismatch(row: Row) -> str | None:
        return None if row.requests_per_run == requests else f"its runs have {row.requests_per_run} requests"

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    origin = provenance(TRACE_PATH, artifact.load())
    with writing(out):
        store = RowStore(out / FILE, Row, origin, mismatch)

    def keep(row: Row) -> None:
        with writing(out):
            store.append(row)

    def run(policy: str, places: Sequence[tuple[float, int]]) -> list[Row]:
        cells = [
            LiveRun(cluster, per_second, policy, seed, requests, origin.trace_digest, rate_bps=rate)
            for per_second, seed in places
        ]
        missing = [(cell,) for cell in cells if key_of(cell) not in store.rows]
        if missing:
            run_all(Path(policy).stem, simulate, missing, jobs, keep)
        return [store.rows[key_of(cell)] for cell in cells]

    rows = run(BASE, list(product(request_rates or REQUEST_RATES, seeds)))
    middle = [(row.request_rate, row.seed) for row in rows if is_middle(row)]
    if not middle:
        raise EvaluationError(
            f"{BASE} attains {MIDDLE[0]:.0%} to {MIDDLE[1]:.0%} in none of these runs; "
            "choose other --request-rate or --seeds"
        )
    for policy in policies:
        if policy != BASE:
            rows += run(policy, middle)
    click.echo(markdown(rows), nl=False)
