"""The report of packet-level results: what it says, and the tables that ``mfs demo`` prints too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from mfs_ctrl import policies
from mfs_eval.results import charts, cluster_picture, plots
from mfs_eval.results.charts import Chart, Point
from mfs_eval.results.findings import LEADING, attainment, finding
from mfs_eval.results.output import write_atomically
from mfs_eval.results.page import Page, Section, Table, Value, html
from mfs_eval.results.schema import Provenance, Results, Run
from mfs_eval.setup.scenario import SCENARIOS

COLUMNS: tuple[tuple[str, str, str, str, float], ...] = (
    ("slo_attainment", "in SLO", "in time, share", "{:.0%}", 1),
    ("ttft_mean_s", "TTFT", "TTFT mean, ms", "{:.0f}", 1000),
    ("ttft_p50_s", "p50", "TTFT p50, ms", "{:.0f}", 1000),
    ("ttft_p99_s", "p99", "TTFT p99, ms", "{:.0f}", 1000),
    ("collective_completion_mean_s", "collective", "collective, ms", "{:.1f}", 1000),
    ("p2d_earliness_mean_s", "early", "early, ms", "{:.0f}", 1000),
    ("network_share", "wait", "wait, share of TTFT", "{:.0%}", 1),
    ("packets", "packets", "packets", "{:,.0f}", 1),
    ("packets_lost", "lost", "lost, packets", "{:.0f}", 1),
    ("packets_reordered", "reordered", "reordered, packets", "{:.0f}", 1),
)
"""Attribute of :class:`~mfs_eval.results.schema.Run`, headings on the terminal and in the report, format, factor."""
SHOWN_OVER_TIME = ("mfs", "static-reuse")
"""Policies whose queues are drawn over time."""

INTRODUCTION = (
    "A trace of LLM requests, replayed as stamped packets through the compiled P4 program. The program decided every "
    "level; the controller wrote and tuned its entries over P4Runtime."
)
TRANSPORT = (
    "These runs have a simulated transport. Over real sockets (mfs live) gains are smaller: the policy mfs-tcp has "
    "more requests in time than fifo in testbed, and fewer than static-reuse; in incast it gains nothing: "
    "docs/studies/real-tcp.md."
)
LEGEND = (
    "Times in milliseconds. In SLO: requests whose TTFT is within three times that of the same request alone in the "
    "cluster, with a 95 % interval from the number of requests. TTFT: mean, median, 99th percentile. "
    "Collective: mean time of a step's all-to-all. Early: mean time from the last KV byte's arrival to the deadline. "
    "Wait: share of TTFT spent waiting for flows, queueing for the GPUs not counted. Packets: through the compiled "
    "program, acknowledgements included. Lost: in queues. Reordered: arrived after a later packet of the same flow."
)
HEADINGS = tuple(heading for _, heading, _, _, _ in COLUMNS)
_DESCRIPTION = "scenario "
"""Settings that begin with this describe scenarios."""


def rows(runs: Sequence[Run], scenario: str, rate: float) -> list[tuple[str, list[str]]]:
    """Return each policy at one rate with its cells, in the order of :data:`COLUMNS`: means over the seeds."""
    here = [one for one in runs if (one.scenario, one.request_rate) == (scenario, rate)]
    policies = dict.fromkeys(one.policy for one in here)
    return [(policy, _cells([one for one in here if one.policy == policy])) for policy in policies]


def _cells(runs: Sequence[Run]) -> list[str]:
    """Return the mean of each column; attainment has an interval computed from the requests of all runs together."""
    cells = [form.format(fmean(getattr(one, name) for one in runs) * factor) for name, _, _, form, factor in COLUMNS]
    return [f"{cells[0]}±{100 * attainment(runs).half:.0f}", *cells[1:]]


def write(results: Results, path: Path) -> None:
    """Write the report of ``results`` to ``path``, and each scenario's attainment beside it as an SVG file.

    Raises:
        OSError: a file cannot be written. Files are replaced atomically.
    """
    write_atomically(path, html(page_of(results)))
    for name, runs in by_scenario(results).items():
        write_atomically(path.parent / f"attainment-{name}.svg", plots.attainment(runs))


def page_of(results: Results) -> Page:
    """Return the page of packet-level results."""
    return Page(
        title="MFS in the switch",
        introduction=(INTRODUCTION, TRANSPORT),
        policies=described(dict.fromkeys(run.policy for run in results.runs)),
        sections=[
            _section(name, runs, str(results.settings.get(_DESCRIPTION + name, "")))
            for name, runs in by_scenario(results).items()
        ],
        notes=(LEGEND,),
        provenance=settings(results),
    )


def settings(results: Results) -> dict[str, object]:
    """Return where results come from, for readers."""
    told = {name: value for name, value in results.settings.items() if not name.startswith(_DESCRIPTION)}
    return told | origin(results.provenance)


def by_scenario(results: Results) -> dict[str, list[Run]]:
    """Return the runs of each scenario."""
    found: dict[str, list[Run]] = {}
    for run in results.runs:
        found.setdefault(run.scenario, []).append(run)
    return found


def described(names: Iterable[str]) -> dict[str, str]:
    """Return what each policy does, in a line; nothing for one that is not built in."""
    built_in = policies.builtin_names()
    return {name: policies.load(name).description if name in built_in else "" for name in names}


def origin(provenance: Provenance) -> dict[str, object]:
    """Return a provenance for readers."""
    # Rows are provenances too, with the fields of a run besides.
    found = ((name, getattr(provenance, name)) for name in Provenance.model_fields)
    return {name.replace("_", " "): value for name, value in found if value}


def _section(name: str, runs: Sequence[Run], description: str) -> Section:
    tables = [_table(runs, name), *_stage_table(runs)]
    return Section(name, finding(runs), description, _charts(runs), tables, _picture(name, description))


def _picture(name: str, description: str) -> str:
    """Return the picture of the scenario; none if the results are of another one than has this name today."""
    scenario = SCENARIOS.get(name)
    if scenario is None or scenario.description != description:
        return ""
    return cluster_picture.of_scenario(scenario)


def _charts(runs: Sequence[Run]) -> list[Chart]:
    found = [charts.attainment(_points(runs), finding(runs)), charts.ttft_distribution(runs)]
    if (stages := charts.stages(runs)) is not None:
        found.append(stages)
    highest = max(run.request_rate for run in runs)
    shown = {run.policy: run for run in reversed(runs) if run.request_rate == highest}
    for policy in SHOWN_OVER_TIME:
        if policy in shown and shown[policy].occupancy:
            found.append(charts.levels(shown[policy]))
    leading = next((shown[name] for name in LEADING if name in shown), None)
    if leading is not None and any(leading.promotions):
        found.append(charts.promotions(leading))
    if leading is not None and leading.tuner:
        found += charts.thresholds(leading)
    return found


def _points(runs: Sequence[Run]) -> list[Point]:
    found = []
    for policy in dict.fromkeys(run.policy for run in runs):
        for rate in sorted({run.request_rate for run in runs if run.policy == policy}):
            here = attainment([run for run in runs if (run.policy, run.request_rate) == (policy, rate)])
            found.append(Point(policy, rate, here.mean, here.mean - here.half, here.mean + here.half))
    return found


def _table(runs: Sequence[Run], scenario: str) -> Table:
    texts: list[list[str]] = []
    values: list[list[Value]] = []
    for rate in sorted({run.request_rate for run in runs}):
        for policy, cells in rows(runs, scenario, rate):
            here = [run for run in runs if (run.policy, run.request_rate) == (policy, rate)]
            means = [fmean(getattr(run, name) for run in here) * factor for name, _, _, _, factor in COLUMNS]
            texts.append([policy, f"{rate:g}", *cells])
            values.append([policy, rate, *(round(mean, 6) for mean in means)])
    headings = ("policy", "requests/s", *(heading for _, _, heading, _, _ in COLUMNS))
    return Table("results", "Means over the seeds", headings, texts, values)


def _stage_table(runs: Sequence[Run]) -> list[Table]:
    texts: list[list[str]] = []
    values: list[list[Value]] = []
    for rate in sorted({run.request_rate for run in runs}):
        for policy in dict.fromkeys(run.policy for run in runs):
            here = [run.stages for run in runs if (run.policy, run.request_rate) == (policy, rate) and run.stages]
            if here:
                means = [fmean(getattr(one, name) for one in here) * 1000 for name in charts.STAGES]
                texts.append([policy, f"{rate:g}", *(f"{mean:.1f}" for mean in means)])
                values.append([policy, rate, *(round(mean, 6) for mean in means)])
    headings = ("policy", "requests/s", *(f"{name}, ms" for name, _ in charts.STAGES.values()))
    return [Table("stages", "Mean time to first token by stage", headings, texts, values)] if texts else []
