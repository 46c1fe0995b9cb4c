"""Charts of a report as Vega-Lite specifications, which the page's script draws.

All of them follow two parameters of the page: ``shown``, the policies to draw, and, where ``rates`` says so, ``rate``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from host_agent.protocol.stamp import LEVELS
from mfs_eval.results.palette import STYLES, styles
from mfs_eval.results.schema import Run, TunerPoint

Spec = dict[str, Any]

OF_NOTE = 8
"""With more policies than this, only those with a style of their own are drawn until the reader adds others."""
STAGES = {
    "queued_s": ("GPU queue", "#8a8f98"),
    "reuse_s": ("reused KV", "#c98500"),
    "compute_s": ("computing", "#4c9a5e"),
    "collective_s": ("collective", "#4f7fd0"),
    "hand_over_s": ("last KV", "#b05fb0"),
}
LEGEND_CHARACTERS = 28
"""Characters of a legend that fit beside each other on a narrow screen."""
APART = 0.004
"""Policies are drawn this share of the range of rates beside each other, so that error bars do not hide each other."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture: ``name`` is part of its permanent link, ``alternative`` says in words what it shows.

    ``rates``: those that the reader can choose from; none if it shows all or a fixed one.
    """

    name: str
    title: str
    alternative: str
    spec: Spec
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """An attainment at a rate: a mean and the ends of its interval, shares from 0 to 1."""

    policy: str
    rate: float
    mean: float
    low: float
    high: float


def attainment(points: Sequence[Point], alternative: str, rate_title: str = "requests per second") -> Chart:
    """Draw SLO attainment against the request rate with its interval, a line for each policy."""
    names = list(dict.fromkeys(point.policy for point in points))
    rates = [point.rate for point in points]
    beside = shown(names)
    step = APART * (max(rates) - min(rates) or 4 * max(rates))
    values = [
        {
            "policy": point.policy,
            "rate": point.rate,
            "x": round(point.rate + step * (2 * beside.index(point.policy) + 1 - len(beside)), 6)
            if point.policy in beside
            else point.rate,
            "mean": round(point.mean, 4),
            "low": round(max(0.0, point.low), 4),
            "high": round(min(1.0, point.high), 4),
        }
        for point in points
    ]
    x = {"field": "x", "type": "quantitative", "title": rate_title, "scale": {"zero": False, "padding": 12}}
    x["axis"] = {"values": sorted(set(rates)), "labelExpr": "datum.value"}
    y = {
        "field": "mean",
        "type": "quantitative",
        "title": "requests in time",
        "axis": {"format": ".0%"},
        "scale": {"domain": [0, 1]},
    }
    shared = _by_policy(names)
    spec = _spec(names, values, 300) | {
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.7},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": shared["color"]},
            },
            {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"x": x, "y": y, **_only(shared, "shape")}},
            {
                "params": [_ZOOM],
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": y,
                    **_only(shared, "strokeDash"),
                    "tooltip": [
                        {"field": "policy", "type": "nominal"},
                        {"field": "rate", "type": "quantitative", "title": rate_title},
                        {"field": "mean", "type": "quantitative", "title": "in time", "format": ".1%"},
                        {"field": "low", "type": "quantitative", "title": "from", "format": ".1%"},
                        {"field": "high", "type": "quantitative", "title": "to", "format": ".1%"},
                    ],
                },
            },
        ]
    }
    return Chart("attainment", "Requests in time, with 95 % intervals", alternative, spec)


def changes(
    points: Sequence[tuple[str, float, float]], alternative: str, rate_title: str = "requests per second"
) -> Chart:
    """Draw changes of the attainment, in percentage points, by policy and rate."""
    names = list(dict.fromkeys(policy for policy, _, _ in points))
    values = [{"policy": policy, "rate": rate, "change": round(change, 2)} for policy, rate, change in points]
    spec = _spec(names, values, 260) | {
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 60}},
        "encoding": {
            "x": {
                "field": "rate",
                "type": "quantitative",
                "title": rate_title,
                "axis": {"values": sorted({rate for _, rate, _ in points}), "labelExpr": "datum.value"},
                "scale": {"zero": False, "padding": 12},
            },
            "y": {"field": "change", "type": "quantitative", "title": "change, points"},
            **_by_policy(names),
            "tooltip": [
                {"field": "policy", "type": "nominal"},
                {"field": "rate", "type": "quantitative"},
                {"field": "change", "type": "quantitative"},
            ],
        },
    }
    return Chart("changes", "Change of the requests in time, in points", alternative, spec)


@dataclass(frozen=True, slots=True)
class Spread:
    """Times to first token (TTFT) of a policy at a rate, in milliseconds."""

    policy: str
    rate: float
    mean: float
    p50: float
    p99: float


def ttft_spread(spreads: Sequence[Spread]) -> Chart:
    """Draw mean, median and 99th percentile of the TTFT, a row for each policy, at a rate that the reader chooses."""
    names = list(dict.fromkeys(one.policy for one in spreads))
    rates = sorted({one.rate for one in spreads})
    values = [{name: _rounded(value) for name, value in asdict(one).items()} for one in spreads]
    y = {"field": "policy", "type": "nominal", "title": None, "sort": names}
    x = {"type": "quantitative", "title": "time to first token, ms", "scale": {"zero": True}}
    shared = _by_policy(names)
    spec = _spec(names, values, 40 + 26 * len(shown(names)), rates) | {
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 3},
                "encoding": {"y": y, "x": {**x, "field": "p50"}, "x2": {"field": "p99"}, "color": shared["color"]},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {
                    "y": y,
                    "x": {**x, "field": "mean"},
                    "color": shared["color"],
                    "shape": shared["shape"],
                    "tooltip": [
                        {"field": "policy", "type": "nominal"},
                        *({"field": name, "type": "quantitative", "format": ".0f"} for name in ("mean", "p50", "p99")),
                    ],
                },
            },
        ]
    }
    alternative = (
        "For each policy, the time to first token: a line from the median to the 99th percentile, and a point at the "
        "mean; the table has the values."
    )
    return Chart("ttft", "Time to first token: median, mean, 99th percentile", alternative, spec, tuple(rates))


class Timed(Protocol):
    """Times to first token under a policy at a rate."""

    @property
    def policy(self) -> str:
        """Its name."""
        ...

    @property
    def request_rate(self) -> float:
        """Requests per second."""
        ...

    @property
    def ttft_s(self) -> Sequence[float]:
        """Of each request."""
        ...


def ttft_distribution(runs: Sequence[Timed]) -> Chart:
    """Draw the share of requests with at most a TTFT, a line for each policy, at a rate that the reader chooses."""
    names, rates = _policies(runs), sorted({run.request_rate for run in runs})
    values = []
    for rate in rates:
        for policy in names:
            ttfts = sorted(
                ttft for run in runs if (run.policy, run.request_rate) == (policy, rate) for ttft in run.ttft_s
            )
            values += [
                {"policy": policy, "rate": rate, "ms": round(ttft * 1000, 1), "share": round(number / len(ttfts), 4)}
                for number, ttft in enumerate(ttfts, 1)
            ]
    spec = _spec(names, values, 300, rates) | {
        "params": [*_params(names, rates), _ZOOM],
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "ms",
                "type": "quantitative",
                "scale": {"type": "log", "nice": False},
                "title": "time to first token, ms",
                "axis": {"tickCount": 6, "format": "~s"},
            },
            "y": {
                "field": "share",
                "type": "quantitative",
                "title": "share of requests",
                "axis": {"format": ".0%"},
                "scale": {"domain": [0, 1]},
            },
            **_only(_by_policy(names), "shape"),
            "tooltip": [{"field": "policy", "type": "nominal"}],
        },
    }
    alternative = (
        "For each policy, the share of requests whose first token came within a time; the table below has mean, median "
        "and 99th percentile."
    )
    return Chart("ttft", "Distribution of the time to first token", alternative, spec, tuple(rates))


def stages(runs: Sequence[Run]) -> Chart | None:
    """Draw the mean TTFT of each policy by stage; None if the results do not have it."""
    runs = [run for run in runs if run.stages is not None]
    if not runs:
        return None
    means = {}
    for policy in _policies(runs):
        for rate in sorted({run.request_rate for run in runs}):
            here = [run.stages for run in runs if (run.policy, run.request_rate) == (policy, rate) and run.stages]
            means[policy, rate] = [
                1000 * sum(getattr(one, field) for one in here) / max(1, len(here)) for field in STAGES
            ]
    return stage_bars(means, list(STAGES.values()))


def stage_bars(means: Mapping[tuple[str, float], Sequence[float]], kinds: Sequence[tuple[str, str]]) -> Chart:
    """Draw the mean TTFT by stage, a bar for each policy, at a rate that the reader chooses.

    Args:
        means: milliseconds of each stage, by policy and rate.
        kinds: name and colour of each stage.
    """
    names, rates = list(dict.fromkeys(policy for policy, _ in means)), sorted({rate for _, rate in means})
    values = [
        {"policy": policy, "rate": rate, "stage": stage, "order": order, "ms": round(mean, 2)}
        for (policy, rate), by_stage in means.items()
        for order, (mean, (stage, _)) in enumerate(zip(by_stage, kinds, strict=True))
    ]
    columns = min(3, LEGEND_CHARACTERS // max(len(kind) for kind, _ in kinds)) or 1
    spec = _spec(names, values, 50 + 28 * len(names), rates) | {
        "mark": {"type": "bar"},
        "encoding": {
            "y": {"field": "policy", "type": "nominal", "title": None, "sort": names},
            "x": {"field": "ms", "type": "quantitative", "aggregate": "sum", "title": "mean time to first token, ms"},
            "order": {"field": "order", "type": "quantitative"},
            "color": {
                "field": "stage",
                "type": "nominal",
                "scale": {"domain": [kind for kind, _ in kinds], "range": [colour for _, colour in kinds]},
                "legend": {"title": None, "orient": "top", "columns": columns, "labelLimit": 300},
            },
            "tooltip": [
                {"field": "policy", "type": "nominal"},
                {"field": "stage", "type": "nominal"},
                {"field": "ms", "type": "quantitative", "format": ".1f"},
            ],
        },
    }
    alternative = "The mean time to first token of each policy, split into stages; the second table has the values."
    return Chart("stages", "Where the time went", alternative, spec, tuple(rates))


def levels(run: Run) -> Chart:
    """Draw the bytes that wait in the switch over time by level, the most urgent on top."""
    values = [
        {"s": round(sample.time_s, 3), "level": level, "KB": round(count / 1000, 2)}
        for sample in run.occupancy
        for level, count in enumerate(sample.bytes_by_level)
    ]
    spec = _spec([run.policy], values, 220, filtered=False) | {
        "mark": {"type": "area", "strokeWidth": 0.5, "stroke": "#808080", "interpolate": "step-after"},
        "encoding": {
            "x": {"field": "s", "type": "quantitative", "title": "seconds", "axis": {"tickCount": 6}},
            "y": {
                "field": "KB",
                "type": "quantitative",
                "stack": "zero",
                "title": "waiting in the switch, KB (scaled)",
            },
            "order": {"field": "level", "type": "quantitative"},
            "color": {
                "field": "level",
                "type": "ordinal",
                "scale": {"domain": list(range(LEVELS)), "scheme": "viridis"},
                "legend": {
                    "orient": "top",
                    "direction": "horizontal",
                    "columns": LEVELS,
                    "title": "level",
                    "symbolType": "square",
                    "symbolStrokeWidth": 0,
                },
            },
            "tooltip": [{"field": name, "type": "quantitative"} for name in ("s", "level", "KB")],
        },
    }
    alternative = (
        f"Bytes waiting in the switch under {run.policy} at {run.request_rate:g} requests per second, by level, seed "
        f"{run.seed}; bytes are those of the scaled model."
    )
    return Chart(f"levels-{run.policy}", f"Levels over time under {run.policy}", alternative, spec)


def promotions(run: Run) -> Chart:
    """Draw how often senders promoted flows over time."""
    values = [
        {"s": round(sample.time_s, 3), "promotions": count}
        for sample, count in zip(run.occupancy, run.promotions, strict=True)
    ]
    spec = _spec([run.policy], values, 120, filtered=False) | {
        "mark": {"type": "area", "interpolate": "step-after", "color": styles([run.policy])[run.policy].colour},
        "encoding": {
            "x": {"field": "s", "type": "quantitative", "title": "seconds", "axis": {"tickCount": 6}},
            "y": {"field": "promotions", "type": "quantitative", "title": "promotions", "axis": {"tickCount": 4}},
            "tooltip": [{"field": name, "type": "quantitative"} for name in ("s", "promotions")],
        },
    }
    alternative = (
        f"Promotions by senders under {run.policy}, {sum(run.promotions)} in all, in intervals of the samples."
    )
    return Chart(f"promotions-{run.policy}", f"Promotions over time under {run.policy}", alternative, spec)


THRESHOLDS = (
    ("mlu_threshold", "MLU to the top level", 1.0),
    ("tight_slack_s", "tight slack, ms", 1000.0),
    ("late_share", "late share of last-stage flows", 1.0),
    ("rho_max", "load of the busiest port", 1.0),
)
"""Attribute of :class:`~mfs_eval.results.schema.TunerPoint`, title with its unit, and factor."""


def thresholds(run: Run) -> list[Chart]:
    """Draw what the tuner saw and set, each quantity on an axis of its own, if there are values."""
    return [
        Chart(
            f"{name.replace('_', '-')}-{run.policy}",
            f"{title[0].upper()}{title[1:]}, under {run.policy}",
            f"{title[0].upper()}{title[1:]} after each step of the controller: {_range(run.tuner, name, factor)}.",
            _spec(
                [run.policy],
                [
                    {"s": round(point.time_s, 3), "value": round(value * factor, 4)}
                    for point in run.tuner
                    if (value := getattr(point, name)) is not None
                ],
                120,
                filtered=False,
            )
            | {
                "mark": {
                    "type": "line",
                    "interpolate": "step-after",
                    "point": {"color": styles([run.policy])[run.policy].colour, "size": 25},
                    "color": styles([run.policy])[run.policy].colour,
                },
                "encoding": {
                    "x": {"field": "s", "type": "quantitative", "title": "seconds", "axis": {"tickCount": 6}},
                    "y": {"field": "value", "type": "quantitative", "title": None, "axis": {"tickCount": 4}},
                    "tooltip": [
                        {"field": "s", "type": "quantitative"},
                        {"field": "value", "type": "quantitative", "title": title},
                    ],
                },
            },
        )
        for name, title, factor in THRESHOLDS
        if any(getattr(point, name) is not None for point in run.tuner)
    ]


def _range(points: Sequence[TunerPoint], name: str, factor: float) -> str:
    values = [value * factor for point in points if (value := getattr(point, name)) is not None]
    return f"from {min(values):.3g} to {max(values):.3g}"


_ZOOM: Spec = {
    "name": "zoom",
    "select": {
        "type": "interval",
        # Without the key a page could not be scrolled past a chart.
        "zoom": "wheel![event.shiftKey]",
        "translate": "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
    },
    "bind": "scales",
}


def shown(names: Sequence[str]) -> list[str]:
    """Return the policies that are drawn at first."""
    return [name for name in names if name in STYLES] if len(names) > OF_NOTE else list(names)


def _params(names: Sequence[str], rates: Sequence[float]) -> list[Spec]:
    found: list[Spec] = [{"name": "shown", "value": shown(names)}]
    return [*found, {"name": "rate", "value": rates[-1]}] if rates else found


def _spec(
    names: Sequence[str],
    values: list[dict[str, Any]],
    height: int,
    rates: Sequence[float] = (),
    filtered: bool = True,
) -> Spec:
    filters = [{"filter": "indexof(shown, datum.policy) >= 0"}] if filtered else []
    if rates:
        filters.append({"filter": "datum.rate == rate"})
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": values},
        "params": _params(names, rates) if filtered else [],
        "transform": filters,
    }


def _by_policy(names: Sequence[str]) -> Spec:
    chosen = styles(list(names))
    field = {"field": "policy", "type": "nominal", "legend": None}

    def scale(values: list[Any]) -> Spec:
        return {**field, "scale": {"domain": list(names), "range": values}}

    return {
        "color": scale([chosen[name].colour for name in names]),
        "strokeDash": scale([list(chosen[name].dash) or [1, 0] for name in names]),
        "shape": scale([chosen[name].shape for name in names]),
    }


def _only(channels: Spec, without: str) -> Spec:
    return {name: channel for name, channel in channels.items() if name != without}


def _rounded(value: str | float) -> str | float:
    return round(value, 2) if isinstance(value, float) else value


def _policies(runs: Sequence[Timed]) -> list[str]:
    return list(dict.fromkeys(run.policy for run in runs))
