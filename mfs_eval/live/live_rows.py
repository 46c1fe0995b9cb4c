"""``live.csv``: one row per run over real sockets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mfs_eval.results.rows import StoredRow

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
    """``order``: agents order what leaves; ``no-order``: one queue; ``no-stamps``: no agents. Behind it ``-kernel-tcp``
    where TCP was left alone, ``-hold`` where agents hold flows at their source, and ``-option`` where stamps travel in
    a TCP option and receivers merge frames."""
    switch: str
    """``embedded`` or ``bmv2``."""
    queue_bytes: int
    """Capacity of each queue of the switch."""
    request_rate: float
    policy: str
    seed: int
    """Of the arrivals, and number of the window of the trace."""
    requests_per_run: int
    """Including those of the warm-up, which do not count."""
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


def mismatch(row: Row, settings: LiveSettings, requests: int) -> str | None:
    """Return why ``row`` does not belong to runs of ``requests`` with the links of ``settings``; None if it does."""
    for what, found, wanted in (
        ("links of", f"{row.rate_bps} b/s", f"{settings.rate_bps} b/s"),
        ("time stretched by", f"{row.stretch:g}", f"{settings.stretch:g}"),
        ("requests per run:", str(row.requests_per_run), str(requests)),
    ):
        if found != wanted:
            return f"its rows have {what} {found}, not {wanted}"
    return None


def key_of(cluster: str, settings: LiveSettings, request_rate: float, policy: str, seed: int) -> tuple[Any, ...]:
    """Return the key of a run's row; ``policy`` is a name or a file."""
    return (
        cluster, settings.hosts, settings.switch, settings.queue_bytes, request_rate, Path(policy).stem, seed,
    )  # fmt: skip


def row_of(result: LiveResult, cluster: str, request_rate: float, settings: LiveSettings) -> Row:
    """Return the row of ``result``, of a run on ``cluster`` with ``settings``."""
    found = result.summary
    key = key_of(cluster, settings, request_rate, result.policy, result.seed)
    return Row(
        **dict(zip(Row.KEY, key, strict=True)),
        requests_per_run=result.requests,
        requests=found.requests,
        rate_bps=settings.rate_bps,
        stretch=settings.stretch,
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
