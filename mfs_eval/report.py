"""``mfs report``: draws the results in a folder again, or compares those of two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level import sweep_page, sweep_rows
from mfs_eval.flow_level.sweep_report import report_sweep
from mfs_eval.live import live_page, live_rows
from mfs_eval.results import comparison, page, report, row_page, schema
from mfs_eval.results.page import Page
from mfs_eval.results.row_page import Rows
from mfs_eval.serve import serve_page, serve_rows
from mfs_eval.studies import ablation_page, ablation_rows

RESULTS_FILE = "results.json"
ROWS: dict[str, Callable[[Path], Rows]] = {
    ablation_rows.FILE: ablation_page.read,
    sweep_rows.FILE: sweep_page.read,
    live_rows.FILE: live_page.read,
}
"""What reads each kind of rows, by the name of their file."""
FILES = (RESULTS_FILE, *ROWS, serve_rows.FILE)


def page_of(path: Path) -> Page:
    """Return the page of one of :data:`FILES`.

    Raises:
        EvaluationError: it holds something else.
    """
    if path.name in ROWS:
        return row_page.page(ROWS[path.name](path))
    return serve_page.page_of(path) if path.name == serve_rows.FILE else report.page_of(schema.read(path))


def page_of_two(before: Path, after: Path, names: tuple[str, str]) -> Page:
    """Return the page that compares two of :data:`FILES` of one kind.

    Raises:
        EvaluationError: they cannot be compared, hold something else, or have no run in common.
    """
    if before.name != after.name or before.name == serve_rows.FILE:
        raise EvaluationError(
            "two results of mfs demo can be compared, or two of mfs ablate, of mfs sweep or of mfs live"
        )
    if before.name in ROWS:
        old, new = (ROWS[path.name](path) for path in (before, after))
        changes, policies = comparison.of_measures(old.measures, new.measures), {**old.policies, **new.policies}
        return comparison.page(changes, names, policies, (old.provenance, new.provenance), new.rate_title)
    first, second = schema.read(before), schema.read(after)
    described = report.described(run.policy for run in (*first.runs, *second.runs))
    return comparison.page(
        comparison.of_runs(first.runs, second.runs), names, described, (report.settings(first), report.settings(second))
    )


def load(folder: Path) -> Path:
    """Return the results file in ``folder``.

    Raises:
        EvaluationError: there is none.
    """
    for name in FILES:
        if (folder / name).exists():
            return folder / name
    raise EvaluationError(f"{folder}: has none of {', '.join(FILES)}; run mfs demo --out {folder} first")


def write_report(folder: Path, other: Path | None = None, out: Path | None = None) -> Path:
    """Write the page of the results in ``folder``, or of what changed from there to ``other``; return its path.

    Of a sweep, the tables are printed and its pictures drawn too.

    Raises:
        EvaluationError: there are no results, they cannot be compared, or the page cannot be written.
    """
    path = load(folder)
    if other is not None:
        return page.write(page_of_two(path, load(other), (str(folder), str(other))), out or folder / "compared.html")
    if path.name == sweep_rows.FILE:
        report_sweep(folder)
    return page.write(page_of(path), out or folder / page.FILE)
