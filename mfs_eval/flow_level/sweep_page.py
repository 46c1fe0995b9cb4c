"""The page of ``sweep.csv``: a section for each case on a fabric, a line for each variant."""

from __future__ import annotations

from pathlib import Path

from mfs_eval.flow_level.cases import CASES
from mfs_eval.flow_level.sweep_report import Group, groups
from mfs_eval.flow_level.sweep_rows import Row
from mfs_eval.flow_level.variants import VARIANTS
from mfs_eval.results import cluster_picture, row_page
from mfs_eval.results.row_page import Measure, Rows

INTRODUCTION = (
    "Requests on a cluster of the size of a data centre, with flows as fluids: no packets, no losses, queues as deep "
    "as they need to be."
)


def read(path: Path) -> Rows:
    """Read the rows at ``path``.

    Raises:
        EvaluationError: the file holds something else, or nothing.
    """
    rank = row_page.rank_in(VARIANTS)
    rows = sorted(row_page.rows_of(path, Row), key=lambda row: rank(row.variant))
    by_group = sorted(groups(rows).items())
    names = row_page.names_of([group for group, _ in by_group])
    return Rows(
        "Policies in a data centre, at flow level",
        (INTRODUCTION,),
        [_measure(names[group], group, row) for group, found in by_group for row in found],
        {names[group]: row_page.Group(_described(group), _picture(names[group], group)) for group, _ in by_group},
        {name: VARIANTS[name].why if name in VARIANTS else "" for name in dict.fromkeys(row.variant for row in rows)},
        row_page.origin(path, rows, [row.seed for row in rows]),
        "requests per second and GPU",
    )


def _measure(name: str, group: Group, row: Row) -> Measure:
    times = (1e3 * seconds for seconds in (row.ttft_mean_s, row.ttft_p50_s, row.ttft_p99_s))
    return Measure(name, group, row.variant, row.rate_per_gpu, row.seed, row.slo_attainment, *times)


def _described(group: Group) -> str:
    case, servers, requests, oversubscription, factor, layout, tenants = group
    served = f"{CASES[case].model.name} on " if case in CASES else ""
    return (
        f"{served}{servers} servers, {oversubscription}:1 at the edge, units {layout}, {requests:,} requests per run, "
        f"objectives {factor:g} times the low-load TTFT, tenants {tenants}."
    )


def _picture(name: str, group: Group) -> str:
    case, servers, _, oversubscription, _, layout, _ = group
    if case not in CASES:
        return ""
    cluster, fabric = CASES[case].scenario(servers, layout).cluster, CASES[case].fabric(servers, oversubscription)
    return cluster_picture.fat_tree(name, cluster, fabric.servers_per_edge, fabric.edges_per_pod, oversubscription)
