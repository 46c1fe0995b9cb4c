"""The page of ``live.csv``: a section for each cluster and kind of hosts, a line for each policy."""

from __future__ import annotations

from pathlib import Path

from mfs_eval.live.live import CLUSTERS
from mfs_eval.live.live_rows import Row
from mfs_eval.results import cluster_picture, report, row_page
from mfs_eval.results.cluster_picture import gigabits, servers_of
from mfs_eval.results.row_page import Group, Measure, Rows

INTRODUCTION = (
    "LLM requests whose flows are TCP connections of the kernel between network namespaces with host agents, in real "
    "time. Times are those of the model: real times divided by the stretch.",
    "What TCP does to flows that are deferred is in docs/studies/real-tcp.md.",
)


def read(path: Path) -> Rows:
    """Read the rows at ``path``.

    Raises:
        EvaluationError: the file holds something else, or nothing.
    """
    rows = row_page.rows_of(path, Row)
    names = row_page.names_of([_key(row) for row in rows])
    return Rows(
        "Policies over real sockets",
        INTRODUCTION,
        [_measure(names[_key(row)], row) for row in rows],
        {names[_key(row)]: _group(names[_key(row)], row) for row in rows},
        report.described(dict.fromkeys(row.policy for row in rows)),
        row_page.origin(path, rows, [row.seed for row in rows]),
    )


def _measure(name: str, row: Row) -> Measure:
    times = (1e3 * seconds for seconds in (row.ttft_mean_s, row.ttft_p50_s, row.ttft_p99_s))
    return Measure(name, _key(row), row.policy, row.request_rate, row.seed, row.slo_attainment, *times)


def _key(row: Row) -> tuple[object, ...]:
    return row.cluster, row.hosts, row.switch, row.queue_bytes


def _group(name: str, row: Row) -> Group:
    link = gigabits(row.rate_bps)
    described = (
        f"Cluster {row.cluster}; hosts: {row.hosts}; the {row.switch} switch, {row.queue_bytes // 1024:,} KiB a queue; "
        f"links of {link}, 1 s of the model takes {row.stretch:g} s; {row.requests_per_run} requests per run."
    )
    cluster = CLUSTERS.get(row.cluster)
    return Group(described, cluster_picture.racks(name, cluster, servers_of(cluster, link)) if cluster else "")
