"""The page of ``ablation.csv``: a section for each scenario, a line for each variant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mfs_eval.results import cluster_picture, report, row_page
from mfs_eval.results.row_page import Group, Measure, Rows
from mfs_eval.setup.scenario import SCENARIOS
from mfs_eval.setup.variants import VARIANTS
from mfs_eval.studies.ablation_rows import Row


def read(path: Path) -> Rows:
    """Read the rows at ``path``.

    Raises:
        EvaluationError: the file holds something else, or nothing.
    """
    rank = row_page.rank_in(VARIANTS)
    rows = sorted(row_page.rows_of(path, Row), key=lambda row: rank(row.variant))
    scale = {row.scenario: row.scale for row in rows}
    return Rows(
        "What each part of the scheduler is worth",
        (report.INTRODUCTION, report.TRANSPORT),
        [_measure(row) for row in rows],
        {name: _group(name, scale[name]) for name in scale},
        {name: VARIANTS[name].why if name in VARIANTS else "" for name in dict.fromkeys(row.variant for row in rows)},
        row_page.origin(path, rows, [row.seed for row in rows])
        | {"requests per run": ", ".join(map(str, sorted({row.requests_per_run for row in rows})))},
    )


def _measure(row: Row) -> Measure:
    times = (1e3 * seconds for seconds in (row.ttft_mean_s, row.ttft_p50_s, row.ttft_p99_s))
    return Measure(row.scenario, (row.scenario,), row.variant, row.request_rate, row.seed, row.slo_attainment, *times)


def _group(name: str, scale: int) -> Group:
    if name not in SCENARIOS:
        return Group("", "")
    scenario = replace(SCENARIOS[name], scale=scale)
    return Group(scenario.description, cluster_picture.of_scenario(scenario))
