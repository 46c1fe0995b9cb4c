"""The report of a set of runs: one self-contained HTML file with tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist, fmean

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from mfs_eval.results import plots
from mfs_eval.results.output import write_atomically
from mfs_eval.results.schema import Results, Run
from mfs_eval.results.statistics import CONFIDENCE

COLUMNS: tuple[tuple[str, str, str, float], ...] = (
    ("slo_attainment", "in SLO", "{:.0%}", 1),
    ("ttft_mean_s", "TTFT", "{:.0f}", 1000),
    ("ttft_p50_s", "p50", "{:.0f}", 1000),
    ("ttft_p99_s", "p99", "{:.0f}", 1000),
    ("collective_completion_mean_s", "collective", "{:.1f}", 1000),
    ("p2d_earliness_mean_s", "early", "{:.0f}", 1000),
    ("network_share", "wait", "{:.0%}", 1),
    ("packets", "packets", "{:,.0f}", 1),
    ("packets_lost", "lost", "{:.0f}", 1),
    ("packets_reordered", "reordered", "{:.0f}", 1),
)
"""Attribute of :class:`~mfs_eval.results.schema.Run`, heading, format, and factor of the value."""

TRANSPORT = (
    "These runs have a simulated transport. Over real sockets there is hardly a gain: docs/studies/real-tcp.md has "
    "what `mfs live` gives."
)
LEGEND = (
    "Times in milliseconds. In SLO: requests whose TTFT is within three times that of the same request alone in the "
    "cluster, with a 95 % interval from the number of requests. TTFT: mean, median, 99th percentile. "
    "Collective: mean time of a step's all-to-all. Early: mean time from the last KV byte's arrival to the deadline. "
    "Wait: share of TTFT spent waiting for flows, queueing for the GPUs not counted. Packets: through the compiled "
    "program, acknowledgements included. Lost: in queues. Reordered: arrived after a later packet of the same flow."
)
HEADINGS = tuple(heading for _, heading, _, _ in COLUMNS)


def rows(runs: Sequence[Run], scenario: str, rate: float) -> list[tuple[str, list[str]]]:
    """Return each policy at one rate with its cells, in the order of :data:`COLUMNS`: means over the seeds."""
    here = [one for one in runs if (one.scenario, one.request_rate) == (scenario, rate)]
    policies = dict.fromkeys(one.policy for one in here)
    return [(policy, _cells([one for one in here if one.policy == policy])) for policy in policies]


def _cells(runs: Sequence[Run]) -> list[str]:
    """Return the mean of each column; attainment has an interval computed from the requests of all runs together."""
    cells = [form.format(fmean(getattr(one, name) for one in runs) * factor) for name, _, form, factor in COLUMNS]
    share = fmean(one.slo_attainment for one in runs)
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(share * (1 - share) / sum(r.requests for r in runs))
    return [f"{cells[0]}±{100 * half:.0f}", *cells[1:]]


def write(results: Results, path: Path) -> None:
    """Write the report of ``results`` to ``path``, and each scenario's attainment beside it as an SVG file.

    Raises:
        OSError: a file cannot be written. Files are replaced atomically.
    """
    environment = Environment(loader=PackageLoader("mfs_eval"), autoescape=select_autoescape())
    scenarios = [_scenario(name, [run for run in results.runs if run.scenario == name]) for name in _scenarios(results)]
    text = environment.get_template("report.html").render(
        settings=results.settings,
        provenance=results.provenance.model_dump(),
        scenarios=scenarios,
        headings=[heading for _, heading, _, _ in COLUMNS],
        legend=LEGEND,
        transport=TRANSPORT,
    )
    write_atomically(path, text)
    for name in _scenarios(results):
        attainment = plots.attainment([one for one in results.runs if one.scenario == name])
        write_atomically(path.parent / f"attainment-{name}.svg", attainment)


def _scenarios(results: Results) -> list[str]:
    return list(dict.fromkeys(run.scenario for run in results.runs))


def _scenario(name: str, runs: Sequence[Run]) -> dict[str, object]:
    rates = sorted({run.request_rate for run in runs})
    middle = rates[len(rates) // 2]
    shown = next((run for run in runs if run.policy == "mfs" and run.request_rate == middle), None)
    figures = [
        ("SLO attainment against request rate", plots.attainment(runs)),
        (
            f"TTFT at {middle:g} requests per second",
            plots.ttft_distribution([run for run in runs if run.request_rate == middle]),
        ),
    ]
    if shown is not None and shown.occupancy:
        figures.append((f"Level occupancy under mfs at {middle:g} requests per second", plots.level_occupancy(shown)))
    if shown is not None and shown.tuner:
        figures.append((f"Thresholds under mfs at {middle:g} requests per second", plots.tuner_history(shown)))
    return {
        "name": name,
        "rates": [{"rate": rate, "rows": rows(runs, name, rate)} for rate in rates],
        "figures": [(title, Markup(svg)) for title, svg in figures],
    }
