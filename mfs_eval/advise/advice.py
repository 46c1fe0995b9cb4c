"""What each policy attains in a cluster, and what to deploy first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mfs_eval.advise.cluster_file import Described
from mfs_eval.advise.windows import Offered, Window, cut, prepare
from mfs_eval.flow_level.experiment import play
from mfs_eval.flow_level.variants import variant_named
from mfs_eval.packet_level.experiment import WARM_UP_SHARE
from mfs_eval.results.statistics import Estimate, mean_interval, paired_difference
from mfs_eval.runner import run_all
from mfs_eval.serving.trace import Request
from mfs_eval.setup.policies import CEILING, STATIC_BANDS, STATIC_REUSE
from mfs_eval.setup.variants import FLOOR, FULL

STEPS = {
    FLOOR: "nothing",
    STATIC_REUSE: "three DSCP classes, set by hosts",
    STATIC_BANDS: "order in hosts: bands of slack, marked as DSCP",
    "mfs-marks": "order in hosts: MFS, marked as DSCP",
    FULL: "order in hosts and in the switch",
}
"""What to deploy for a policy, from the least work to the most."""
COMPARED = (*STEPS, CEILING)
WORTH = 0.03
"""The gain in attainment below which more is not worth its work."""
GOOD = 0.9
"""Attainment that defines goodput."""
HOPELESS = 0.5
"""Attainment below which capacity comes before order."""
FULL_LOAD = 1.0
SEARCHED = (1 / 32, 2.0)
"""Goodput is searched between these loads of the busiest link or unit."""
HALVINGS = 6
"""Rates differ by 7 % at the end of the search."""


@dataclass(frozen=True, slots=True)
class Step:
    """A policy at a request rate.

    Attributes:
        policy: its name.
        deploy: what it asks for.
        attainment: share of requests in time.
        over_nothing: gain of attainment over the first step.
        over_classes: gain of attainment over the three static classes.
    """

    policy: str
    deploy: str
    attainment: Estimate
    over_nothing: Estimate
    over_classes: Estimate


@dataclass(frozen=True, slots=True)
class AtRate:
    """What the policies attain at a request rate, and what follows.

    Attributes:
        request_rate: requests per second.
        steps: from the least work to the most.
        ceiling: attainment without contention in the network.
        loads: by class, the load of the busiest link or unit: above 1 it cannot keep up.
        deploy: the policy to deploy.
        advice: sentences for the user.
    """

    request_rate: float
    steps: tuple[Step, ...]
    ceiling: Estimate
    loads: Mapping[str, float]
    deploy: str
    advice: str


@dataclass(frozen=True, slots=True)
class Advice:
    """The answer for a cluster.

    Attributes:
        windows: of the trace.
        requests: per window, the first fifth of them not counted.
        at: by request rate.
        goodput: by policy, requests per second up to which :data:`GOOD` are in time; empty if it was not searched.
        offered: by class, what a request offers, mean over windows.
    """

    windows: int
    requests: int
    at: tuple[AtRate, ...]
    goodput: Mapping[str, Estimate]
    offered: Mapping[str, Offered]


def advise(
    cluster: Described,
    trace: Sequence[Request],
    windows: int,
    count: int,
    goodput: bool = True,
    jobs: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Advice:
    """Return what each policy attains in ``cluster`` on ``windows`` windows of ``count`` requests of ``trace``.

    Args:
        cluster: the cluster and its request rates.
        trace: requests whose prompts are used; arrivals are drawn.
        windows: at most so many.
        count: requests per window.
        goodput: whether to search it, which takes most of the time.
        jobs: number of processes; None for one per core.
        tell: called with what happens next.

    Raises:
        EvaluationError: the trace is too short.
    """
    parts = cut(cluster.scenario, trace, windows, count)
    tell(f"{len(parts)} windows of {count} requests: objectives, and what they offer to each link")
    prepared = run_all("windows", prepare, [(cluster, number, *part) for number, part in enumerate(parts, 1)], jobs)
    flows = fmean(window.flows for window in prepared)
    rates = cluster.scenario.request_rates
    planned = [(rate, name, window) for rate in rates for name in COMPARED for window in prepared]
    tell(f"{len(planned)} runs at your request rates, each of about {flows:,.0f} flows")
    shares = run_all("runs", attained, [(cluster, window, name, rate) for rate, name, window in planned], jobs)
    found: dict[float, dict[str, dict[int, float]]] = {rate: {name: {} for name in COMPARED} for rate in rates}
    for (rate, name, window), share in zip(planned, shares, strict=True):
        found[rate][name][window.number] = share
    offered = {
        name: Offered(
            fmean(window.offered[name].mean_s for window in prepared),
            fmean(window.offered[name].highest_s for window in prepared),
            prepared[0].offered[name].count,
        )
        for name in prepared[0].offered
    }
    best = {}
    if goodput:
        searched = [(name, window) for name in COMPARED for window in prepared]
        tell(f"{len(searched)} searches for the highest rate with {GOOD:.0%} in time")
        reached = run_all("goodput", highest_rate, [(cluster, window, name) for name, window in searched], jobs)
        for name in COMPARED:
            own = [rate for (policy, _), rate in zip(searched, reached, strict=True) if policy == name]
            best[name] = mean_interval(own)
    at = tuple(
        judge(rate, found[rate], {name: rate * one.highest_s for name, one in offered.items()}) for rate in rates
    )
    return Advice(len(parts), count, at, best, offered)


def attained(cluster: Described, window: Window, policy: str, request_rate: float) -> float:
    """Return the share of the window's requests in time, under ``policy`` at ``request_rate`` requests per second."""
    warm = round(WARM_UP_SHARE * len(window.work.requests))
    variant = variant_named(policy)
    played = play(cluster.scenario, cluster.fabric, window.work, variant, request_rate, window.number, warm)
    return played.run.slo_attainment


def highest_rate(cluster: Described, window: Window, policy: str) -> float:
    """Return a request rate at which :data:`GOOD` of the window's requests are in time, and not at 7 % more.

    By bisection; if no rate will do, the lowest of the search.
    """
    full = FULL_LOAD / max(one.highest_s for one in window.offered.values())
    low, high = (math.log(share * full) for share in SEARCHED)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if attained(cluster, window, policy, math.exp(middle)) >= GOOD:
            low = middle
        else:
            high = middle
    return math.exp(low)


def judge(rate: float, found: Mapping[str, Mapping[int, float]], loads: Mapping[str, float]) -> AtRate:
    """Return what follows from the attainment of each policy in each window, and from the loads at this rate."""
    steps = {
        name: Step(name, deploy, _mean(found[name]), _gain(found, name, FLOOR), _gain(found, name, STATIC_REUSE))
        for name, deploy in STEPS.items()
    }
    ceiling = _mean(found[CEILING])
    to_win = ceiling.mean - steps[FLOOR].attainment.mean
    chosen = FLOOR if ceiling.mean < HOPELESS or to_win < WORTH else _chosen(found)
    return AtRate(rate, tuple(steps.values()), ceiling, loads, chosen, _advice(steps, ceiling, loads, chosen))


def _mean(shares: Mapping[int, float]) -> Estimate:
    return mean_interval(list(shares.values()))


def _gain(found: Mapping[str, Mapping[int, float]], name: str, base: str) -> Estimate:
    gain = paired_difference(found[name], found[base])
    assert gain is not None  # all policies have the same windows
    return gain


def _worth(gain: Estimate) -> bool:
    """Return whether a gain is at least :data:`WORTH` and beyond its interval."""
    return gain.mean >= WORTH and gain.mean > gain.half


def _chosen(found: Mapping[str, Mapping[int, float]]) -> str:
    """Return the least work that is worth it, and over which no more work is worth it."""
    names = [name for name in STEPS if _worth(_gain(found, name, FLOOR))]
    for number, name in enumerate(names):
        if not any(_worth(_gain(found, later, name)) for later in names[number + 1 :]):
            return name
    return FLOOR


def _advice(steps: Mapping[str, Step], ceiling: Estimate, loads: Mapping[str, float], chosen: str) -> str:
    best, classes = steps[chosen], steps[STATIC_REUSE].over_nothing
    lost = max(0.0, ceiling.mean - steps[FLOOR].attainment.mean)
    busiest = max(loads, key=lambda name: loads[name])
    capacity = f"Busiest: {busiest}, offered {loads[busiest]:.2f} of what one can do."
    if ceiling.mean < HOPELESS:
        return (
            f"Nothing helps in the network: without any contention {ceiling.mean:.0%} would be in time. Add "
            f"capacity or lower the rate. {capacity}"
        )
    if lost < WORTH:
        return f"Deploy nothing: contention in the network costs {100 * lost:.1f} points. {capacity}"
    told = []
    if chosen == FLOOR:
        told.append(
            f"Deploy nothing: contention in the network costs {100 * lost:.0f} points, and no order of flows clearly "
            "wins a part of it back."
        )
        unclear = [step for step in steps.values() if step.over_nothing.mean >= WORTH]
        told += [
            f"Not clear in these windows: `{step.policy}`, {points(step.over_nothing)} points." for step in unclear
        ]
    elif chosen == STATIC_REUSE:
        more = steps[FULL].over_classes
        enough, unsettled = ("", ", which these windows do not settle") if more.mean >= WORTH else (" are enough", "")
        told.append(
            f"Three static classes{enough}: {points(classes)} points over nothing, to which the switch adds "
            f"{points(more)}{unsettled}."
        )
    else:
        told.append(
            f"Deploy {best.deploy} (`{chosen}`): {points(best.over_nothing)} points over nothing, "
            f"{points(best.over_classes)} over three static classes."
        )
        if chosen != FULL:
            told.append(f"The switch: {points(steps[FULL].over_nothing)} points over nothing.")
        if _worth(classes):
            told.append(f"Begin with {steps[STATIC_REUSE].deploy}: {points(classes)} points.")
        if classes.mean <= -max(WORTH, classes.half):
            told.append(f"Three static classes alone do harm: {points(classes)} points.")
    if best.attainment.mean < HOPELESS:
        told.append(f"Even so only {best.attainment.mean:.0%} are in time: capacity comes first.")
    return " ".join([*told, capacity])


def points(gain: Estimate) -> str:
    """Return a difference of attainments in points with its interval."""
    return f"{round(100 * gain.mean, 1) + 0.0:+.1f} ± {100 * gain.half:.1f}"
