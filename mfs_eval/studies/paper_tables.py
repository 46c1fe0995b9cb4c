"""Tables of docs/studies/paper.md, from the rows of its sweeps. Shares in per cent, by seed where several were run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from mfs_eval.flow_level.sweep_rows import Row
from mfs_eval.flow_level.tenants import ALIKE
from mfs_eval.results.markdown import table
from mfs_eval.studies import sweep_tables

CASE_NAMES = {"dbrx-conversation": "DBRX", "qwen3-coder-conversation": "Qwen3-Coder"}
POLICIES = ("fifo", "edf-explicit", "sjf", "karuna-paced", "llf", "static", "mfs-hosts", "mfs", "ceiling")
TENANTS = {
    ALIKE: "like the first",
    "loose": "has objectives 3 times as long",
    "eager": "states a third of its objectives",
}
RANKING = {
    "mfs": "`mfs`: hosts and switches, progress known at once",
    "hosts-only": "`hosts-only`: hosts, progress known at once",
    "stale-progress": "`stale-progress`: hosts and switches, remote ones learn of progress after 20 ms",
    "mfs-hosts": "`mfs-hosts`: hosts, late",
    "paper-hosts": "`paper-hosts`: the paper's rules, U = 0.5, E = 4",
    "static": "`static`",
    "switch-only": "`switch-only`",
    "fifo": "`fifo`",
}
PARAMETERS = {
    "paper-u-1": "the paper's U: 1 (E = 4)",
    "paper-e-8": "the paper's E: 8 (U = 0.5)",
    "levels-2": "levels: 2 (`mfs`)",
    "levels-4": "levels: 4 (`mfs`)",
    "load-low": "load of ports estimated at 0.5 times its value",
    "load-high": "load of ports estimated at 1.5 times its value",
}


def attainment(rows: Iterable[Row]) -> str:
    """Return attainment by case, request rate and variant; all rows are of one fabric."""
    lines = [line.strip("|\n").split("|") for line in sweep_tables.attainment(rows).splitlines()]
    heads, _, *cells = [[cell.strip() for cell in (line[0], *line[2:])] for line in lines]
    return table(heads, cells)


def two_cases(rows: Iterable[Row]) -> str:
    """Return attainment under all policies, mean and by seed, in the two cases with tenants alike."""
    chosen = [row for row in rows if row.tenants == ALIKE]
    rate = {name: next(row.rate_per_gpu for row in chosen if row.scenario == name) for name in CASE_NAMES}
    heads = [head for name, short in CASE_NAMES.items() for head in (f"{short}, {rate[name]:g}", "by seed")]
    lines = [
        (f"`{policy}`", *(cell for name in CASE_NAMES for cell in _cells(chosen, scenario=name, variant=policy)))
        for policy in POLICIES
    ]
    return table(("policy", *heads), lines)


def tenants(rows: Iterable[Row]) -> str:
    """Return attainment and 99th percentile of TTFT (milliseconds) of two tenants, the second of which differs."""
    rows = list(rows)
    heads = [head for short in CASE_NAMES.values() for head in (f"{short}: first, second", "p99, ms")]
    lines = []
    for name, described in TENANTS.items():
        for policy in ("fifo", "mfs"):
            cells = []
            for case in CASE_NAMES:
                own = _chosen(rows, scenario=case, tenants=name, variant=policy)
                for prefix, suffix, factor in (("attainment", "", 100), ("ttft_p99", "_s", 1000)):
                    means = (fmean(getattr(row, f"{prefix}_{which}{suffix}") for row in own) for which in _BOTH)
                    cells.append(", ".join(f"{factor * mean:.0f}" for mean in means))
            lines.append((described, f"`{policy}`", *cells))
    return table(("second tenant", "policy", *heads), lines)


def slo_factors(rows: Iterable[Row]) -> str:
    """Return attainment by SLO factor."""
    rows = [row for row in rows if row.oversubscription == 1]
    policies = ("fifo", "mfs", "ceiling")
    lines = [
        (f"{factor:g}", *(cell for name in policies for cell in _cells(rows, slo_factor=factor, variant=name)))
        for factor in sorted({row.slo_factor for row in rows})
    ]
    return table(("SLO factor", *(head for name in policies for head in (f"`{name}`", "by seed"))), lines)


def ranking(rows: Iterable[Row]) -> str:
    """Return attainment by who ranks flows, and what they know."""
    return _variants(rows, "who ranks, who knows", RANKING)


def parameters(rows: Iterable[Row]) -> str:
    """Return attainment by parameters of the policies and of the fabric."""
    rows = list(rows)
    oversubscribed = [
        (f"oversubscription 4:1, `{name}`", *_cells(rows, oversubscription=4, variant=name)) for name in ("mfs", "fifo")
    ]
    return _variants(rows, "parameter", PARAMETERS, oversubscribed)


_BOTH = ("first", "second")
_DEFAULT = {"slo_factor": 3.0, "oversubscription": 1}


def _variants(rows: Iterable[Row], heading: str, labels: Mapping[str, str], more: Sequence[Sequence[str]] = ()) -> str:
    rows = list(rows)
    lines = [(label, *_cells(rows, **_DEFAULT, variant=name)) for name, label in labels.items()]
    return table((heading, "in time", "by seed"), [*lines, *more])


def _chosen(rows: Iterable[Row], **values: object) -> list[Row]:
    """Return the rows with these values, by seed."""
    found = [row for row in rows if all(getattr(row, name) == value for name, value in values.items())]
    return sorted(found, key=lambda row: row.seed)


def _cells(rows: Iterable[Row], **values: object) -> tuple[str, str]:
    """Return the mean attainment of the rows with these values, and that of each seed."""
    shares = [100 * row.slo_attainment for row in _chosen(rows, **values)]
    return f"{fmean(shares):.0f}", ", ".join(f"{share:.0f}" for share in shares)
