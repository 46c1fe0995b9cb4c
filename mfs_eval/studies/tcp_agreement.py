"""``mfs study tcp-agreement``: the runs of ``mfs live`` again in virtual time, beside what real sockets gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import fmean

import click

from mfs_eval import options
from mfs_eval.errors import EvaluationError
from mfs_eval.live.live_rows import Row
from mfs_eval.live.virtual_time import Transport, play, read
from mfs_eval.packet_level.packet_network import PacketNetwork, Totals
from mfs_eval.results.markdown import table
from mfs_eval.runner import run_all
from mfs_eval.setup.run_settings import ORDERS

TOLERANCE = 0.25
"""A mean TTFT agrees if it is within this share of the live one, ..."""
POINTS = 0.1
"""... and an attainment within this difference, which is what 48 requests can tell."""
HEADINGS = (
    "cluster", "hosts", "queues, KiB", "policy", "runs", "in time, %", "TTFT mean, ms", "p99", "timeouts",
    "sent again", "runs that agree",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulated run gave; times in seconds of the model's time."""

    slo_attainment: float
    ttft_mean_s: float
    ttft_p99_s: float
    timeouts: int
    retransmitted: int


def agrees(simulated: Simulated, live: Row) -> bool:
    """Return whether attainment and mean TTFT are within :data:`POINTS` and :data:`TOLERANCE`."""
    near = abs(simulated.slo_attainment - live.slo_attainment) <= POINTS
    return near and abs(simulated.ttft_mean_s - live.ttft_mean_s) <= TOLERANCE * live.ttft_mean_s


def simulate(live: Row, transport: Transport, order: str | None) -> Simulated:
    """Play the run of ``live``."""
    totals: list[Totals] = []

    def keep(network: PacketNetwork) -> None:
        totals.append(network.totals())

    one = play(live, transport, order, keep)
    counts = totals[-1].timeouts, totals[-1].retransmitted
    return Simulated(one.slo_attainment, one.ttft_mean_s, one.ttft_p99_s, *counts)


def beside(rows: Sequence[Row], simulated: Sequence[Simulated]) -> str:
    """Return a table in Markdown: for each setting and policy the means over seeds, simulated / live."""
    groups: dict[tuple[str, ...], list[tuple[Row, Simulated]]] = {}
    for row, one in zip(rows, simulated, strict=True):
        key = row.cluster, row.hosts, f"{row.queue_bytes // 1024:,}", f"`{row.policy}`"
        groups.setdefault(key, []).append((row, one))
    return table(HEADINGS, ((*key, *_cells(pairs)) for key, pairs in groups.items()))


_COLUMNS: Mapping[str, float] = {
    "slo_attainment": 100, "ttft_mean_s": 1e3, "ttft_p99_s": 1e3, "timeouts": 1, "retransmitted": 1,
}  # fmt: skip


def _cells(pairs: Sequence[tuple[Row, Simulated]]) -> list[str]:
    def both(name: str, factor: float) -> str:
        live, simulated = (factor * fmean(map(attrgetter(name), ones)) for ones in zip(*pairs, strict=True))
        return f"{simulated:,.0f} / {live:,.0f}"

    agreeing = sum(agrees(simulated, live) for live, simulated in pairs)
    return [str(len(pairs)), *(both(*column) for column in _COLUMNS.items()), f"{agreeing} of {len(pairs)}"]


@click.command(short_help="Simulated TCP beside rows of mfs live.")
@click.argument("live", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@options.policies()
@click.option(
    "--transport",
    type=click.Choice(["tcp", "windowed"]),
    default="tcp",
    show_default=True,
    help="TCP like Linux's, or this project's own transport.",
)
@click.option("--order", type=click.Choice(ORDERS), help="Who orders.  [default: as in each row]")
def tcp_agreement(live: Path, policies: tuple[str, ...], transport: Transport, order: str | None) -> None:
    """Play the runs in LIVE, a live.csv of mfs live, in virtual time; print the means of both: simulated / live.

    A run agrees if its attainment is within 10 points and its mean TTFT within 25 %. Only runs of the embedded switch
    are played, without --hold.
    """
    rows = [row for row in read(live) if not policies or row.policy in policies]
    if not rows:
        raise EvaluationError(f"{live}: no row is of {', '.join(policies)}")
    simulated = run_all("simulated TCP", simulate, [(row, transport, order) for row in rows])
    click.echo(beside(rows, simulated), nl=False)
