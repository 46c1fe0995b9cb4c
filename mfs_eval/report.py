"""``mfs report``: draws the results in a folder again, or compares those of two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level import sweep_page, sweep_rows
from mfs_eval.flow_level.sweep_report import report_sweep
from mfs_eval.live import live_page, live_rows
from mfs_eval.results import charts, page, report, schema
from mfs_eval.results.findings import difference
from mfs_eval.results.page import Page, Section, Table, Value
from mfs_eval.results.schema import Results, Run
from mfs_eval.serve import serve_page, serve_rows
from mfs_eval.studies import ablation_page, ablation_rows

RESULTS_FILE = "results.json"


PAGES: dict[str, Callable[[Path], Page]] = {
    RESULTS_FILE: lambda path: report.page_of(schema.read(path)),
    ablation_rows.FILE: ablation_page.page_of,
    sweep_rows.FILE: sweep_page.page_of,
    live_rows.FILE: live_page.page_of,
    serve_rows.FILE: serve_page.page_of,
}
"""The page of each kind of results, by the name of their file."""


def page_of_two(before: Results, after: Results, names: tuple[str, str]) -> Page:
    """Return the page that compares two results of ``mfs demo``: what changed for each scenario, rate and policy.

    Raises:
        EvaluationError: they have no run in common.
    """
    runs = {key: (old, new) for key, (old, new) in _paired(before.runs, after.runs).items() if old and new}
    if not runs:
        raise EvaluationError("the two results have no scenario, policy and rate in common; run mfs demo with the same")
    sections = []
    for scenario in dict.fromkeys(scenario for scenario, _, _ in runs):
        mine = {(policy, rate): pair for (name, policy, rate), pair in runs.items() if name == scenario}
        sections.append(_changes(scenario, mine))
    places = {f"{which}: {name}": value for which, one in zip(names, (before, after), strict=True)
              for name, value in (one.settings | report.origin(one.provenance)).items()
              if not name.startswith("scenario ")}  # fmt: skip
    return Page(
        title=f"{names[1]} compared with {names[0]}",
        introduction=(f"Changes from {names[0]} to {names[1]}; positive points mean more requests in time.",),
        policies=report.described(dict.fromkeys(policy for _, policy, _ in runs)),
        sections=sections,
        provenance=places,
    )


def _paired(before: Iterable[Run], after: Iterable[Run]) -> dict[tuple[str, str, float], tuple[list[Run], list[Run]]]:
    found: dict[tuple[str, str, float], tuple[list[Run], list[Run]]] = {}
    for side, runs in enumerate((before, after)):
        for run in runs:
            found.setdefault((run.scenario, run.policy, run.request_rate), ([], []))[side].append(run)
    return found


def _changes(scenario: str, runs: dict[tuple[str, float], tuple[list[Run], list[Run]]]) -> Section:
    certain: list[str] = []
    texts: list[list[str]] = []
    values: list[list[Value]] = []
    drawn: list[tuple[str, float, float]] = []
    for (policy, rate), (old, new) in runs.items():
        shares = [fmean(run.slo_attainment for run in side) for side in (old, new)]
        means = [1e3 * fmean(run.ttft_mean_s for run in side) for side in (old, new)]
        gain = difference(new, old)
        points = 100 * (shares[1] - shares[0])
        half = f" ± {100 * gain.half:.0f}" if gain is not None else ""
        if gain is not None and abs(gain.mean) > gain.half:
            certain.append(f"{policy} at {rate:g}/s: {points:+.0f}{half} points")
        drawn.append((policy, rate, points))
        texts.append([policy, f"{rate:g}", *(f"{share:.0%}" for share in shares), f"{points:+.1f}{half}",
                      *(f"{mean:.0f}" for mean in means), f"{means[1] - means[0]:+.0f}"])  # fmt: skip
        values.append([policy, rate, *shares, points, *means, means[1] - means[0]])
    headings = ("policy", "requests/s", "in time before, share", "in time after, share", "change, points",
                "TTFT mean before, ms", "after, ms", "change, ms")  # fmt: skip
    finding = "; ".join(certain) if certain else "no change in requests in time is larger than its interval"
    return Section(
        scenario,
        finding + ".",
        "",
        [charts.changes(drawn, finding + ".")],
        [Table("changes", "What changed", headings, texts, values)],
    )


def load(folder: Path) -> Path:
    """Return the results file in ``folder``.

    Raises:
        EvaluationError: there is none.
    """
    for name in PAGES:
        if (folder / name).exists():
            return folder / name
    raise EvaluationError(f"{folder}: has none of {', '.join(PAGES)}; run mfs demo --out {folder} first")


def write_report(folder: Path, other: Path | None = None, out: Path | None = None) -> Path:
    """Write the page of the results in ``folder``, or of what changed from there to ``other``; return its path.

    Of a sweep, the tables are printed and its pictures drawn too.

    Raises:
        EvaluationError: there are no results, they cannot be compared, or the page cannot be written.
    """
    path = load(folder)
    if other is not None:
        if {path.name, load(other).name} != {RESULTS_FILE}:
            raise EvaluationError("only results of mfs demo can be compared; name two of its folders")
        found = page_of_two(schema.read(path), schema.read(load(other)), (str(folder), str(other)))
        return page.write(found, out or folder / "compared.html")
    if path.name == sweep_rows.FILE:
        report_sweep(folder)
    return page.write(PAGES[path.name](path), out or folder / page.FILE)
