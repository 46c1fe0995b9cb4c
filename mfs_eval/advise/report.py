"""An advice as tables for people, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from mfs_eval.advise.advice import COMPARED, FULL_LOAD, GOOD, Advice, AtRate, points
from mfs_eval.results.markdown import table
from mfs_eval.results.statistics import Estimate
from mfs_eval.setup.policies import CEILING, STATIC_REUSE
from mfs_eval.setup.variants import FLOOR

MODEL = (
    "Flows as fluids: no packets, no losses. Over the kernel's TCP gains were small, and classes gave more than MFS "
    "(docs/studies/real-tcp.md)."
)
TIGHT = 0.7
"""Load of a link above which requests begin to wait for it."""


def as_json(advice: Advice) -> str:
    """Return ``advice`` as JSON, with the fields of :class:`~mfs_eval.advise.advice.Advice`."""
    return json.dumps(asdict(advice), indent=2, allow_nan=False)


def as_text(advice: Advice) -> str:
    """Return ``advice`` as tables in Markdown, the advice for each request rate first."""
    parts = [f"{advice.windows} windows of {advice.requests} requests; intervals of 95 % over windows.\n"]
    parts += [_at(one) for one in advice.at]
    rates = [one.request_rate for one in advice.at]
    lines = [
        (
            name,
            *(f"{rate * one.mean_s:.2f}, {rate * one.highest_s:.2f}{_mark(rate * one.highest_s)}" for rate in rates),
        )
        for name, one in advice.offered.items()
    ]
    headings = ("offered load: mean, highest", *(f"at {rate:g}/s" for rate in rates))
    parts.append(table(headings, lines))
    if advice.goodput:
        lines = [
            (f"`{name}`", f"{advice.goodput[name].mean:.3g} ± {advice.goodput[name].half:.2g}") for name in COMPARED
        ]
        parts.append(table(("policy", f"goodput: requests/s with {GOOD:.0%} in time"), lines))
    return "\n".join([*parts, MODEL + "\n"])


def _at(one: AtRate) -> str:
    lines = [
        (
            f"`{step.policy}`",
            step.deploy,
            _share(step.attainment),
            "" if step.policy == FLOOR else points(step.over_nothing),
            "" if step.policy in (FLOOR, STATIC_REUSE) else points(step.over_classes),
        )
        for step in one.steps
    ]
    lines.append((f"`{CEILING}`", "(no contention)", _share(one.ceiling), "", ""))
    headings = ("policy", "deploy", "in time, %", "over nothing, points", "over static classes, points")
    return f"{one.request_rate:g} requests/s. {one.advice}\n\n{table(headings, lines)}"


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.0f} ± {100 * estimate.half:.0f}"


def _mark(load: float) -> str:
    return " short" if load >= FULL_LOAD else " tight" if load >= TIGHT else ""
