"""``mfs report``: draws the results in a folder again, or compares those of two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level import sweep_rows
from mfs_eval.flow_level.sweep_report import report_sweep
from mfs_eval.live import live_rows
from mfs_eval.results import charts, report, schema
from mfs_eval.results.charts import Point
from mfs_eval.results.findings import difference, sentence
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.results.page import Page, Section, Table, Value, html
from mfs_eval.results.rows import StoredRow, read_rows
from mfs_eval.results.schema import Results, Run
from mfs_eval.results.statistics import mean_interval, paired_difference
from mfs_eval.setup.policies import CEILING
from mfs_eval.studies import ablation_rows

RESULTS_FILE, REPORT_FILE = "results.json", "report.html"


@dataclass(frozen=True, slots=True)
class Measure:
    """What a page needs of a row: where it belongs and what was attained; times in milliseconds."""

    group: str
    policy: str
    rate: float
    seed: int
    attained: float
    mean_ms: float
    p99_ms: float


def _of_ablation(row: ablation_rows.Row) -> Measure:
    return _measure(row.scenario, row.variant, row.request_rate, row)


def _of_sweep(row: sweep_rows.Row) -> Measure:
    group = f"{row.scenario}-{row.servers}-{row.oversubscription}-{row.slo_factor:g}-{row.layout}-{row.tenants}"
    return _measure(group, row.variant, row.rate_per_gpu, row)


def _of_live(row: live_rows.Row) -> Measure:
    return _measure(f"{row.cluster}-{row.hosts}-{row.switch}-{row.queue_bytes}", row.policy, row.request_rate, row)


def _measure(group: str, policy: str, rate: float, row: ablation_rows.Row | sweep_rows.Row | live_rows.Row) -> Measure:
    return Measure(group, policy, rate, row.seed, row.slo_attainment, row.ttft_mean_s * 1e3, row.ttft_p99_s * 1e3)


@dataclass(frozen=True, slots=True)
class Kind:
    """A file of rows: its type, what a page takes from each, and how the rate is called."""

    rows: type[StoredRow]
    measure: Callable[..., Measure]
    rate: str = "requests per second"


KINDS = {
    ablation_rows.FILE: Kind(ablation_rows.Row, _of_ablation),
    sweep_rows.FILE: Kind(sweep_rows.Row, _of_sweep, "requests per second and GPU"),
    live_rows.FILE: Kind(live_rows.Row, _of_live),
}


def page_of_rows(path: Path) -> Page:
    """Return the page of a file of rows: means over seeds with intervals by Student's t.

    Raises:
        EvaluationError: the file holds something else, or nothing.
    """
    kind = KINDS[path.name]
    rows = read_rows(path, kind.rows)
    if not rows:
        raise EvaluationError(f"{path}: holds no runs")
    measures = [kind.measure(row) for row in rows]
    groups = dict.fromkeys(measure.group for measure in measures)
    return Page(
        title=f"Results of {path.name}",
        introduction=("Means over seeds; intervals by Student's t, where there are several seeds.",),
        policies=report.described(dict.fromkeys(measure.policy for measure in measures)),
        sections=[_section(group, [one for one in measures if one.group == group], kind.rate) for group in groups],
        notes=("Times in milliseconds of the model. In time: share of the requests that meet their objective.",),
        provenance={"file": path.name, "runs": len(rows), **report.origin(rows[0])},
    )


def _section(name: str, measures: Sequence[Measure], rate_title: str) -> Section:
    points: list[Point] = []
    texts: list[list[str]] = []
    values: list[list[Value]] = []
    for policy in dict.fromkeys(one.policy for one in measures):
        for rate in sorted({one.rate for one in measures if one.policy == policy}):
            here = [one for one in measures if (one.policy, one.rate) == (policy, rate)]
            attained = mean_interval([one.attained for one in here])
            half = attained.half if len(here) > 1 else 0.0
            points.append(Point(policy, rate, attained.mean, attained.mean - half, attained.mean + half))
            numbers = [attained.mean, half, fmean(one.mean_ms for one in here), fmean(one.p99_ms for one in here)]
            interval = f"{numbers[0]:.1%}" + (f" ± {100 * half:.1f}" if len(here) > 1 else "")
            texts.append([policy, f"{rate:g}", str(len(here)), interval, f"{numbers[2]:.0f}", f"{numbers[3]:.0f}"])
            values.append([policy, rate, len(here), numbers[0], round(numbers[2], 3), round(numbers[3], 3)])
    highest = max(point.rate for point in points)
    by_seed: dict[str, dict[int, float]] = {}
    for one in measures:
        if one.rate == highest:
            by_seed.setdefault(one.policy, {})[one.seed] = one.attained
    told = sentence(
        f"{highest:g} {rate_title}",
        {policy: fmean(shares.values()) for policy, shares in by_seed.items() if policy != CEILING},
        lambda policy, base: paired_difference(by_seed[policy], by_seed[base]),
    )
    headings = ("policy", rate_title, "seeds", "in time, share", "TTFT mean, ms", "TTFT p99, ms")
    table = Table("results", "Means over the seeds", headings, texts, values)
    return Section(name, told, "", [charts.attainment(points, told, rate_title)], [table])


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
    for name in (RESULTS_FILE, *KINDS):
        if (folder / name).exists():
            return folder / name
    raise EvaluationError(
        f"{folder}: has none of {', '.join((RESULTS_FILE, *KINDS))}; run mfs demo --out {folder} first"
    )


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
        file = out or folder / "compared.html"
    else:
        found = report.page_of(schema.read(path)) if path.name == RESULTS_FILE else page_of_rows(path)
        file = out or folder / REPORT_FILE
    if path.name == sweep_rows.FILE:
        report_sweep(folder)
    with writing(file):
        write_atomically(file, html(found))
    return file
