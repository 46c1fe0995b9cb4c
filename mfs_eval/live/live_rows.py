"""``live.csv``: one row per run over real sockets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from mfs_eval.results.markdown import table
from mfs_eval.results.rows import StoredRow
from mfs_eval.results.statistics import paired_difference

if TYPE_CHECKING:
    from mfs_eval.live.live import LiveResult, LiveSettings

FILE = "live.csv"


class Row(StoredRow):
    """One run. Times in seconds of the model unless they are said to be real, shares from 0 to 1."""

    LEADING: ClassVar[tuple[str, ...]] = (
        "cluster", "hosts", "switch", "queue_bytes", "request_rate", "policy", "seed",
    )  # fmt: skip
    KEY: ClassVar[tuple[str, ...]] = LEADING

    cluster: str
    hosts: str
    """``order``: agents order what leaves; ``no-order``: one queue; ``kernel-tcp``: as ``order``, TCP left alone.
    With ``-hold`` behind it where agents hold flows at their source."""
    switch: str
    """``embedded`` or ``bmv2``."""
    queue_bytes: int
    """Capacity of each queue of the switch."""
    request_rate: float
    policy: str
    seed: int
    """Of the arrivals, and number of the window of the trace."""
    requests: int
    """Requests that count."""
    rate_bps: int
    stretch: float
    slo_attainment: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    collective_mean_s: float
    segments: int
    retransmitted: int
    timeouts: int
    probes: int
    too_old: int
    longest_stall_s: float
    """Real time; see :class:`~mfs_eval.live.link_meter.Stalls`."""
    stalled_s: float
    """Real time, summed over flows."""
    stalled_flows: int
    elapsed_s: float
    """Real time."""
    worst_delay_s: float
    """Real time that the process was late at worst."""


def mismatch(row: Row, rate_bps: int, stretch: float, requests: int) -> str | None:
    """Return why ``row`` does not belong to runs with these links, stretch and counted requests; None if it does."""
    for what, found, wanted in (
        ("links of", f"{row.rate_bps} b/s", f"{rate_bps} b/s"),
        ("time stretched by", f"{row.stretch:g}", f"{stretch:g}"),
        ("counted requests per run:", str(row.requests), str(requests)),
    ):
        if found != wanted:
            return f"its rows have {what} {found}, not {wanted}"
    return None


def row_of(result: LiveResult, cluster: str, request_rate: float, settings: LiveSettings) -> Row:
    """Return the row of ``result``, of a run on ``cluster`` with ``settings``."""
    found = result.summary
    return Row(
        cluster=cluster,
        hosts=settings.hosts,
        switch="bmv2" if settings.bmv2 else "embedded",
        request_rate=request_rate,
        policy=Path(result.policy).stem,
        seed=result.seed,
        requests=found.requests,
        rate_bps=settings.rate_bps,
        stretch=settings.stretch,
        queue_bytes=settings.queue_bytes,
        slo_attainment=found.slo_attainment,
        ttft_mean_s=found.ttft_mean_s,
        ttft_p50_s=found.ttft_p50_s,
        ttft_p99_s=found.ttft_p99_s,
        collective_mean_s=found.collective_mean_s,
        **asdict(result.tcp),
        longest_stall_s=result.stalls.longest_s,
        stalled_s=result.stalls.total_s,
        stalled_flows=result.stalls.flows,
        elapsed_s=result.elapsed_s,
        worst_delay_s=result.worst_delay_s,
    )


MEASURES: dict[str, tuple[str, float]] = {
    "in time, %": ("slo_attainment", 100),
    "TTFT mean, ms": ("ttft_mean_s", 1e3),
    "TTFT p99, ms": ("ttft_p99_s", 1e3),
    "sent again": ("retransmitted", 1),
    "timeouts": ("timeouts", 1),
    "longest stall, ms": ("longest_stall_s", 1e3),
}
"""By heading: a column, and the factor that converts it to the unit."""
BASE = "fifo"
HELD = "order-hold"


def summary(rows: Sequence[Row]) -> str:
    """Return a table of means over seeds in Markdown, with the paired difference of the attainment from fair sharing.

    Stalls are the longest of all runs. Rows differ in their first columns only; several groups make one table.
    """
    groups: dict[tuple[str, str, str, int, float, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.cluster, row.hosts, row.switch, row.queue_bytes, row.request_rate, row.policy].append(row)
    lines: list[Sequence[str]] = []
    for (cluster, hosts, switch, queue_bytes, rate, policy), group in groups.items():
        fair = groups.get((cluster, hosts, switch, queue_bytes, rate, BASE), ())
        base = {row.seed: 100 * row.slo_attainment for row in fair}
        mine = {row.seed: 100 * row.slo_attainment for row in group}
        ahead = None if policy == BASE else paired_difference(mine, base)
        cells = []
        for column, factor in MEASURES.values():
            values = [factor * getattr(row, column) for row in group]
            value = max(values) if column == "longest_stall_s" else fmean(values)
            cells.append(f"{value:,.0f}")
        difference = "" if ahead is None else f"{ahead.mean:+.0f} ± {ahead.half:.0f}"
        where = (cluster, f"{rate:g}", hosts, switch, f"{queue_bytes // 1024:,}")
        lines.append((*where, f"`{policy}`", str(len(group)), *cells, difference))
    headings = (
        "cluster",
        "requests/s",
        "hosts",
        "switch",
        "queues, KiB",
        "policy",
        "runs",
        *MEASURES,
        f"ahead of {BASE}, points",
    )
    return table(headings, lines)


def headline(rows: Sequence[Row]) -> str:
    """Return the rows of :func:`summary` of the hosts that hold flows, with the columns that a first look needs."""
    lines: list[Sequence[str]] = []
    for line in summary([row for row in rows if row.hosts == HELD]).splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        lines.append([cells[0], *cells[5:10], *cells[11:]])
    measures = list(MEASURES)
    headings = ("cluster", "policy", "runs", *measures[:3], *measures[4:], f"ahead of {BASE}, points")
    return table(headings, lines)
