"""Pictures as SVG text: the same results give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mfs_eval.results import findings
from mfs_eval.results.palette import STYLES, Style, styles
from mfs_eval.results.schema import Run
from mfs_eval.results.statistics import Estimate

SIZE_INCHES = (6.4, 3.6)
ROW_INCHES = 0.28
NEUTRAL = STYLES["fifo"].colour
RATE_MARKERS = ("o", "s", "D", "^", "v", "P")
START_DASHES = ("-", "--", "-.")


def attainment(runs: Sequence[Run]) -> str:
    """Draw SLO attainment against request rate with its interval, one line per policy: the mean over seeds."""
    figure, axes = _figure("requests per second", "requests in time")
    policies = list(dict.fromkeys(run.policy for run in runs))
    for policy, style in styles(policies).items():
        rates = sorted({run.request_rate for run in runs if run.policy == policy})
        shares = [
            findings.attainment([run for run in runs if (run.policy, run.request_rate) == (policy, rate)])
            for rate in rates
        ]
        axes.errorbar(
            rates,
            [share.mean for share in shares],
            yerr=[share.half for share in shares],
            capsize=2,
            elinewidth=0.8,
            label=policy,
            **_drawn(style),
        )
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _legend(axes)
    return svg(figure)


def ablation(attained: Mapping[float, Sequence[tuple[str, Estimate]]], rates: str = "requests per second") -> str:
    """Draw SLO attainment with its interval, one row and colour per variant and one marker per request rate.

    ``rates`` is the title of the legend.
    """
    # Rates may lack variants: the order is that of the rate with the most.
    fullest = sorted(attained.values(), key=len, reverse=True)
    drawn = styles(list(dict.fromkeys(name for lines in fullest for name, _ in lines)))
    names = list(drawn)
    figure, axes = _figure("SLO attainment", "")
    figure.set_size_inches(SIZE_INCHES[0], 1.2 + ROW_INCHES * len(names))
    for index, (rate, lines) in enumerate(attained.items()):
        marker = RATE_MARKERS[index % len(RATE_MARKERS)]
        # Rates of a variant are drawn below each other.
        shift = (index - (len(attained) - 1) / 2) * 0.7 / max(1, len(attained))
        colours = [drawn[name].colour for name, _ in lines]
        means = np.array([estimate.mean for _, estimate in lines])
        halves = np.array([estimate.half if np.isfinite(estimate.half) else 0.0 for _, estimate in lines])
        places = [names.index(name) + shift for name, _ in lines]
        axes.hlines(places, means - halves, means + halves, colors=colours, linewidth=1.2)
        axes.scatter(means, places, c=colours, marker=marker, s=14, zorder=3)
        axes.plot([], [], marker, color=NEUTRAL, markersize=4, label=f"{rate:g}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    if attained:
        # Above the rows: inside the axes it would hide a row.
        axes.legend(title=rates, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(attained))
    return svg(figure)


def sweep(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw SLO attainment against the request rate per GPU, one line per variant."""
    figure, axes = _figure("requests per second and GPU", "SLO attainment")
    for variant, style in styles(list(curves)).items():
        rates, shares = zip(*curves[variant], strict=True)
        axes.plot(rates, shares, label=variant, **_drawn(style))
    axes.set_ylim(0, 1.02)
    if curves:
        axes.legend(fontsize=7)
    return svg(figure)


def recovery(firsts: Mapping[str, Sequence[int]], best: int) -> str:
    """Draw Q_1, an urgency code, after each tick of the controller, one line per start, with a line at ``best``."""
    figure, axes = _figure("ticks of the controller", "Q_1, eighths of an octave of MLU")
    for index, (name, codes) in enumerate(firsts.items()):
        dash = START_DASHES[index % len(START_DASHES)]
        axes.step(range(len(codes)), codes, where="post", label=name, color=STYLES["mfs"].colour, linestyle=dash)
    axes.axhline(best, linestyle=":", color=NEUTRAL, label="best when held")
    axes.legend()
    return svg(figure)


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


def _drawn(style: Style) -> dict[str, Any]:
    """Return a policy's style in Matplotlib's terms."""
    return {
        "marker": style.marker,
        "markersize": 5,
        "color": style.colour,
        "linestyle": (0, style.dash) if style.dash else "-",
    }


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element: the same text for the same figure."""
    text = io.StringIO()
    # A random salt or a date would make the same picture differ from run to run.
    with mpl.rc_context({"svg.hashsalt": "mfs", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
