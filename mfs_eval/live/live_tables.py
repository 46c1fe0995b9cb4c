"""Tables of runs over real sockets, from their rows, in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from mfs_ctrl.policy import builtin_names
from mfs_eval.live.live_rows import Row
from mfs_eval.results.markdown import table
from mfs_eval.results.statistics import paired_difference

BASE = "fifo"

MEASURES: Mapping[str, tuple[str, float, Callable[[Sequence[float]], float]]] = {
    "in time, %": ("slo_attainment", 100, fmean),
    "TTFT mean, ms": ("ttft_mean_s", 1e3, fmean),
    "TTFT p99, ms": ("ttft_p99_s", 1e3, fmean),
    "sent again": ("retransmitted", 1, fmean),
    "dropped as old": ("too_old", 1, fmean),
    "timeouts": ("timeouts", 1, fmean),
    "longest stall, ms": ("longest_stall_s", 1e3, max),
}
"""By heading: a column of the rows, the factor that converts it to the unit, and what becomes of several runs."""
DIFFERENCES = {"points": ("slo_attainment", 100), "mean, ms": ("ttft_mean_s", 1e3), "p99, ms": ("ttft_p99_s", 1e3)}
MIDDLE = (0.3, 0.6)
"""Attainment of fair sharing in windows that are neither easy nor hopeless."""
MIDDLE_HEADING = "points where fifo attains 30 to 60 % (windows)"
RECOMMENDED = "order-option"
"""Hosts that are set up as recommended."""
_HOLD = "-hold"
_SETTING = ("cluster", "hosts", "switch", "queue_bytes", "request_rate")


def grouped(rows: Sequence[Row]) -> dict[tuple[Any, ...], dict[str, dict[int, Row]]]:
    """Return rows by setting (the first fields of a row's key), policy and seed."""
    found: dict[tuple[Any, ...], dict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[tuple(getattr(row, name) for name in _SETTING)][row.policy][row.seed] = row
    return found


def summary(rows: Sequence[Row]) -> str:
    """Return means over seeds, with the paired difference of the attainment from fair sharing."""
    lines = []
    for (cluster, hosts, switch, queue_bytes, rate), policies in grouped(rows).items():
        where = (cluster, f"{rate:g}", hosts, switch, f"{queue_bytes // 1024:,}")
        lines += [(*where, *_cells(policy, policies, MEASURES)) for policy in policies]
    setting = ("cluster", "requests/s", "hosts", "switch", "queues, KiB")
    return table((*setting, "policy", "runs", *MEASURES, f"ahead of {BASE}, points"), lines)


def headline(rows: Sequence[Row]) -> str:
    """Return what a first look needs: built-in policies on servers set up as recommended, the highest load first."""
    measures = ("in time, %", "TTFT mean, ms", "TTFT p99, ms", "timeouts", "longest stall, ms")
    known = builtin_names()
    lines = []
    for (cluster, hosts, _, queue_bytes, rate), policies in sorted(
        grouped(rows).items(), key=lambda one: (*one[0][:-1], -one[0][-1])
    ):
        if hosts == RECOMMENDED:
            where = cluster, f"{rate:g}", f"{queue_bytes // 1024:,}"
            lines += [(*where, *_cells(policy, policies, measures)) for policy in policies if policy in known]
    heading = ("cluster", "requests/s", "queues, KiB", "policy", "runs", *measures, f"ahead of {BASE}, points")
    return table(heading, lines)


def differences(rows: Sequence[Row], policy: str) -> str:
    """Return the paired differences of ``policy`` from the others in the same setting, with 95 % intervals.

    Runs whose hosts hold flows are also compared with those without, which is what an operator has before. The last
    column is of the windows in which fair sharing, without hold if there are such runs, attains a :data:`MIDDLE` share.
    """
    groups = grouped(rows)
    lines = []
    for (cluster, hosts, *rest), policies in groups.items():
        if policy not in policies:
            continue
        switch, queue_bytes, rate = rest
        where = (cluster, f"{rate:g}", hosts, switch, f"{queue_bytes // 1024:,}")
        others = [(name, "", found) for name, found in policies.items() if name != policy]
        fair = policies.get(BASE, {})
        if _HOLD in hosts:
            unheld = groups.get((cluster, hosts.replace(_HOLD, ""), *rest), {})
            others += [(name, " without hold", found) for name, found in unheld.items()]
            fair = unheld.get(BASE, fair)
        middle = {seed for seed, row in fair.items() if MIDDLE[0] <= row.slo_attainment <= MIDDLE[1]}
        for name, note, other in others:
            found = [_difference(policies[policy], other, *column) for column in DIFFERENCES.values()]
            if any(found):
                chosen = {seed: row for seed, row in policies[policy].items() if seed in middle}
                points = _difference(chosen, other, *DIFFERENCES["points"])
                share = f"{points} ({len(chosen.keys() & other.keys())})" if points else ""
                lines.append((*where, f"`{policy}` - `{name}`{note}", *found, share))
    setting = ("cluster", "requests/s", "hosts", "switch", "queues, KiB")
    return table((*setting, "policies", *DIFFERENCES, MIDDLE_HEADING), lines)


def _cells(
    policy: str, policies: Mapping[str, Mapping[int, Row]], measures: Sequence[str] | Mapping[str, Any]
) -> list[str]:
    """Return the cells of a policy, from its name on."""
    rows = list(policies[policy].values())
    cells = [f"`{policy}`", str(len(rows))]
    for name in measures:
        column, factor, over = MEASURES[name]
        cells.append(f"{over([factor * getattr(row, column) for row in rows]):,.0f}")
    ahead = policy != BASE and BASE in policies
    return [*cells, _difference(policies[policy], policies[BASE], "slo_attainment", 100) if ahead else ""]


def _difference(policy: Mapping[int, Row], other: Mapping[int, Row], column: str, factor: float) -> str:
    mine, theirs = (
        {seed: factor * float(getattr(row, column)) for seed, row in rows.items()} for rows in (policy, other)
    )
    found = paired_difference(mine, theirs)
    return "" if found is None else f"{found.mean:+.0f} ± {found.half:.0f}"
