"""The report of a set of runs: one HTML file with tables and pictures, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from evaluation import pictures
from evaluation.results import Results, Run

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("slo_attainment", "SLO attainment", "{:.0%}"),
    ("ttft_mean_s", "TTFT mean, s", "{:.3f}"),
    ("ttft_p50_s", "TTFT p50, s", "{:.3f}"),
    ("ttft_p99_s", "TTFT p99, s", "{:.3f}"),
    ("collective_completion_mean_s", "collective, ms", "{:.2f}"),
    ("p2d_earliness_mean_s", "P2D early, s", "{:.3f}"),
    ("network_share", "network of TTFT", "{:.0%}"),
    ("packets", "packets", "{:,}"),
    ("packets_lost", "lost", "{}"),
    ("packets_reordered", "reordered", "{}"),
)
"""Attribute of :class:`~evaluation.results.Run`, heading, format."""


def row(run: Run) -> list[str]:
    """The cells of a run's row, in the order of :data:`COLUMNS`."""
    scale = {"collective_completion_mean_s": 1000.0}
    return [form.format(getattr(run, name) * scale.get(name, 1)) for name, _, form in COLUMNS]


def write(results: Results, path: Path) -> None:
    """Write the report of ``results`` to ``path``."""
    environment = Environment(loader=PackageLoader("evaluation"), autoescape=select_autoescape())
    scenarios = [_scenario(name, [run for run in results.runs if run.scenario == name]) for name in _scenarios(results)]
    text = environment.get_template("report.html").render(
        settings=results.settings, scenarios=scenarios, headings=[heading for _, heading, _ in COLUMNS]
    )
    path.write_text(text, "utf-8")


def _scenarios(results: Results) -> list[str]:
    return list(dict.fromkeys(run.scenario for run in results.runs))


def _scenario(name: str, runs: Sequence[Run]) -> dict[str, object]:
    rates = sorted({run.request_rate for run in runs})
    middle = rates[len(rates) // 2]
    shown = next((run for run in runs if run.policy == "mfs" and run.request_rate == middle), None)
    figures = [
        ("SLO attainment against request rate", pictures.attainment(runs)),
        (
            f"TTFT at {middle:g} requests per second",
            pictures.ttft_distribution([run for run in runs if run.request_rate == middle]),
        ),
    ]
    if shown is not None and shown.occupancy:
        figures.append(
            (f"Level occupancy under mfs at {middle:g} requests per second", pictures.level_occupancy(shown))
        )
    if shown is not None and shown.tuner:
        figures.append((f"Thresholds under mfs at {middle:g} requests per second", pictures.tuner_history(shown)))
    return {
        "name": name,
        "rates": [
            {"rate": rate, "rows": [(run.policy, run.seed, row(run)) for run in runs if run.request_rate == rate]}
            for rate in rates
        ],
        "figures": [(title, Markup(svg)) for title, svg in figures],
    }
