"""Pictures as SVG text: the same results give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from host_agent.protocol.stamp import LEVELS
from mfs_eval.results.schema import Run
from mfs_eval.results.statistics import Estimate

COLOURS = {
    "mfs": "#d62728",
    "static": "#1f77b4",
    "static-reuse": "#ff7f0e",
    "fifo": "#7f7f7f",
    "sjf": "#2ca02c",
    "edf": "#9467bd",
}
OTHER_COLOUR = "#8c564b"
SIZE_INCHES = (6.4, 3.6)
ROW_INCHES = 0.28


def attainment(runs: Sequence[Run]) -> str:
    """Draw SLO attainment against request rate, one line per policy: the mean over seeds."""
    figure, axes = _figure("requests per second", "SLO attainment")
    for policy in _policies(runs):
        rates = sorted({run.request_rate for run in runs if run.policy == policy})
        means = [
            np.mean([run.slo_attainment for run in runs if (run.policy, run.request_rate) == (policy, rate)])
            for rate in rates
        ]
        axes.plot(rates, means, marker="o", label=policy, color=_colour(policy))
    axes.set_ylim(0, 1.02)
    _legend(axes)
    return _svg(figure)


def ttft_distribution(runs: Sequence[Run]) -> str:
    """Draw the distribution of TTFT, one line per policy: the share of requests with at most that TTFT."""
    figure, axes = _figure("TTFT, seconds", "share of requests")
    for policy in _policies(runs):
        values = np.sort([ttft for run in runs if run.policy == policy for ttft in run.ttft_s])
        axes.step(values, np.arange(1, len(values) + 1) / len(values), label=policy, color=_colour(policy))
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    _legend(axes)
    return _svg(figure)


def level_occupancy(run: Run) -> str:
    """Draw the bytes waiting in the switch over time by level, the most urgent on top."""
    figure, axes = _figure("seconds", "bytes waiting in the switch")
    times = [sample.time_s for sample in run.occupancy]
    by_level = np.array([sample.bytes_by_level for sample in run.occupancy], dtype=float).reshape(-1, LEVELS).T
    palette = mpl.colormaps["viridis"](np.linspace(0, 1, LEVELS))
    axes.stackplot(times, by_level, colors=palette, labels=[f"level {level}" for level in range(LEVELS)])
    axes.legend(*(list(reversed(part)) for part in axes.get_legend_handles_labels()), fontsize=7, loc="upper left")
    return _svg(figure)


def tuner_history(run: Run) -> str:
    """Draw the thresholds as the tuner moved them, and the share of late flows that it acted on."""
    figure, axes = _figure("seconds", "threshold")
    times = [point.time_s for point in run.tuner]
    axes.step(
        times, [point.mlu_threshold for point in run.tuner], where="post", label="MLU to the top level", color="C3"
    )
    axes.step(
        times, [point.tight_slack_s for point in run.tuner], where="post", label="tight slack, seconds", color="C0"
    )
    late = [(point.time_s, point.late_share) for point in run.tuner if point.late_share is not None]
    axes.plot([time for time, _ in late], [share for _, share in late], ".", label="late share", color="C7")
    axes.set_ylim(bottom=0)
    axes.legend()
    return _svg(figure)


def ablation(attained: Mapping[float, Sequence[tuple[str, Estimate]]], rates: str = "requests per second") -> str:
    """Draw SLO attainment with its interval, one row per variant and one colour per request rate.

    ``rates`` is the title of the legend.
    """
    # Rates may lack variants: the order is that of the rate with the most.
    fullest = sorted(attained.values(), key=len, reverse=True)
    names = list(dict.fromkeys(name for lines in fullest for name, _ in lines))
    figure, axes = _figure("SLO attainment", "")
    figure.set_size_inches(SIZE_INCHES[0], 1.2 + ROW_INCHES * len(names))
    for index, (rate, lines) in enumerate(attained.items()):
        # Rates of a variant are drawn below each other.
        shift = (index - (len(attained) - 1) / 2) * 0.7 / max(1, len(attained))
        axes.errorbar(
            [estimate.mean for _, estimate in lines],
            [names.index(name) + shift for name, _ in lines],
            xerr=[estimate.half if np.isfinite(estimate.half) else 0.0 for _, estimate in lines],
            fmt="o",
            markersize=3,
            capsize=2,
            label=f"{rate:g}",
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    if attained:
        # Above the rows: inside the axes it would hide a row.
        axes.legend(title=rates, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(attained))
    return _svg(figure)


def sweep(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw SLO attainment against the request rate per GPU, one line per variant."""
    figure, axes = _figure("requests per second and GPU", "SLO attainment")
    styles = ("-", "--", ":", "-.")
    for index, (variant, points) in enumerate(curves.items()):
        rates, shares = zip(*points, strict=True)
        axes.plot(rates, shares, styles[index // 10 % len(styles)], marker="o", markersize=3, label=variant)
    axes.set_ylim(0, 1.02)
    if curves:
        axes.legend(fontsize=7)
    return _svg(figure)


def recovery(firsts: Mapping[str, Sequence[int]], best: int) -> str:
    """Draw Q_1, an urgency code, after each tick of the controller, one line per start, with a line at ``best``."""
    figure, axes = _figure("ticks of the controller", "Q_1, eighths of an octave of MLU")
    for name, codes in firsts.items():
        axes.step(range(len(codes)), codes, where="post", label=name)
    axes.axhline(best, linestyle=":", color="C7", label="best when held")
    axes.legend()
    return _svg(figure)


def _policies(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.policy for run in runs))


def _colour(policy: str) -> str:
    return COLOURS.get(policy, OTHER_COLOUR)


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    return figure, axes


def _legend(axes: Axes) -> None:
    # Matplotlib warns if a legend has no entries.
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    # A random salt or a date would make the same picture differ from run to run.
    with mpl.rc_context({"svg.hashsalt": "mfs", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
