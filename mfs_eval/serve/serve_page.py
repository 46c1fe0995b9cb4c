"""The page of ``requests.csv``: a section for each group of requests, a line for each policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean

from mfs_eval.results import charts, cluster_picture, report, row_page
from mfs_eval.results.charts import Chart, Point
from mfs_eval.results.cluster_picture import gigabits
from mfs_eval.results.findings import sentence
from mfs_eval.results.page import Page, Section, Table, Value
from mfs_eval.results.statistics import CONFIDENCE, Estimate, mean_interval
from mfs_eval.serve.serve import CLUSTER
from mfs_eval.serve.serve_rows import Row

INTRODUCTION = (
    "Requests served by real vLLM engines on CPUs: two prefill engines and a decode engine in network namespaces "
    "around the embedded switch, KV stamped by host agents.",
)
STAGES = (("fetching reused KV", "#c98500"), ("prefill", "#4c9a5e"), ("last KV and first decode step", "#b05fb0"))
"""Name and colour of each part of the time to first token (TTFT)."""
FAILED = "A failed request has no TTFT and is not in time."


@dataclass(frozen=True, slots=True)
class _Times:
    """See :class:`~mfs_eval.results.charts.Timed`."""

    policy: str
    request_rate: float
    ttft_s: list[float]


def page_of(path: Path) -> Page:
    """Return the page of the rows at ``path``.

    Raises:
        EvaluationError: the file holds something else, or nothing.
    """
    rows = row_page.rows_of(path, Row)
    groups = dict.fromkeys(row.group for row in rows)
    return Page(
        title="Real engines behind the switch",
        introduction=INTRODUCTION,
        policies=report.described(dict.fromkeys(row.policy for row in rows)),
        sections=[_section(group, [row for row in rows if row.group == group]) for group in groups],
        notes=(
            "Times in real milliseconds. Intervals come from the number of requests. " + FAILED,
            "Prefill: from sending until the prefill engine answered, its queue included, less the fetch of reused KV.",
        ),
        provenance=row_page.origin(path, rows, [row.seed for row in rows]),
    )


def _section(name: str, rows: Sequence[Row]) -> Section:
    by_policy = {policy: [row for row in rows if row.policy == policy] for policy in {row.policy: None for row in rows}}
    rate = rows[0].request_rate
    shares = {policy: fmean(row.in_time for row in mine) for policy, mine in by_policy.items()}
    told = sentence(
        f"{rate:g} requests per second", shares, lambda one, other: _difference(by_policy[one], by_policy[other])
    )
    points, texts, values = [], [], []
    for policy, mine in by_policy.items():
        times = sorted(row.ttft_ms for row in mine if row.ttft_ms is not None)
        half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * (shares[policy] * (1 - shares[policy]) / len(mine)) ** 0.5
        points.append(Point(policy, rate, shares[policy], shares[policy] - half, shares[policy] + half))
        cells: list[Value] = [policy, len(mine), len(mine) - len(times), round(shares[policy], 4)]
        cells += [round(fmean(times), 1), times[len(times) // 2], times[-1]] if times else ["", "", ""]
        values.append(cells)
        texts.append([*(str(cell) for cell in cells[:3]), f"{shares[policy]:.0%} ± {100 * half:.0f}",
                      *(f"{cell:.0f}" if isinstance(cell, float) else cell for cell in cells[4:])])  # fmt: skip
    headings = ("policy", "requests", "failed", "in time, share", "TTFT mean, ms", "TTFT p50, ms", "longest TTFT, ms")
    tables = [Table("results", "Requests of all seeds together", headings, texts, values)]
    drawn: list[Chart] = [charts.attainment(points, told)]
    if any(row.ttft_ms is not None for row in rows):
        drawn.append(
            charts.ttft_distribution(
                [
                    _Times(policy, rate, [row.ttft_ms / 1e3 for row in mine if row.ttft_ms is not None])
                    for policy, mine in by_policy.items()
                ]
            )
        )
    means = {(policy, rate): parts for policy, mine in by_policy.items() if (parts := _stages(mine)) is not None}
    if means:
        drawn.append(charts.stage_bars(means, STAGES))
        tables.append(
            Table(
                "stages",
                "Mean time to first token by stage",
                ("policy", *(f"{stage}, ms" for stage, _ in STAGES)),
                [[policy, *(f"{ms:.0f}" for ms in parts)] for (policy, _), parts in means.items()],
                [[policy, *(round(ms, 1) for ms in parts)] for (policy, _), parts in means.items()],
            )
        )
    tokens = [row.prompt_tokens for row in rows]
    described = f"Prompts of {min(tokens):,} to {max(tokens):,} tokens, {rate:g} requests per second."
    caption = f"each server: one process on CPUs, 1 NIC of {gigabits(rows[0].rate_bps)}"
    picture = cluster_picture.racks(name, CLUSTER, caption, others="store")
    return Section(name, told, described, drawn, tables, picture)


def _stages(rows: Sequence[Row]) -> list[float] | None:
    """Return the means of :data:`STAGES` over the requests that were answered; None if there are none."""
    parts = [
        (row.fetch_ms or 0.0, row.prefill_ms - (row.fetch_ms or 0.0), max(0.0, row.ttft_ms - row.prefill_ms))
        for row in rows
        if row.ttft_ms is not None and row.prefill_ms is not None
    ]
    return [fmean(column) for column in zip(*parts, strict=True)] if parts else None


def _difference(mine: Sequence[Row], others: Sequence[Row]) -> Estimate | None:
    """Return the difference of the shares in time, paired by request."""
    known = {(row.seed, row.request): row.in_time for row in others}
    changes = [float(row.in_time - known[row.seed, row.request]) for row in mine if (row.seed, row.request) in known]
    return mean_interval(changes) if len(changes) > 1 else None
