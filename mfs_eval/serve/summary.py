"""The table at the end of ``mfs serve``."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from mfs_eval.serve.serve_rows import Row

SUMMARY = (
    "policy", "group", "runs", "requests", "failed", "in time, %", "TTFT mean, ms", "p50", "p99", "prefill p50, ms",
    "fetch p50, ms", "push p50, ms", "KV stamped, MB",
)  # fmt: skip


def summary(found: Sequence[Row]) -> list[list[str]]:
    """Return the cells of :data:`SUMMARY` for each policy and group."""

    def middle(values: Sequence[float | None]) -> str:
        present = [value for value in values if value is not None]
        return f"{statistics.median(present):.0f}" if present else ""

    cells = []
    for policy, group in Counter((row.policy, row.group) for row in found):
        these = [row for row in found if (row.policy, row.group) == (policy, group)]
        times = sorted(row.ttft_ms for row in these if row.ttft_ms is not None)
        tail = times[min(len(times) - 1, int(len(times) * 0.99))] if times else 0.0
        stamped = sum(row.push_bytes for row in these if row.stamped)
        cells.append(
            [
                policy,
                group,
                str(len({row.seed for row in these})),
                str(len(these)),
                str(len(these) - len(times)),
                f"{100 * statistics.fmean(row.in_time for row in these):.0f}",
                f"{statistics.fmean(times):.0f}" if times else "",
                middle(times),
                f"{tail:.0f}",
                middle([row.prefill_ms for row in these]),
                middle([row.fetch_ms for row in these]),
                middle([row.push_ms for row in these]),
                f"{stamped / 1e6:.1f}",
            ]
        )
    return cells
