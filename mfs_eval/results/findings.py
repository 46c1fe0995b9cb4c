"""What the runs of a scenario say, in a sentence with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist, fmean

from mfs_eval.results.schema import Run
from mfs_eval.results.statistics import CONFIDENCE, Estimate, mean_interval, paired_difference

LEADING, BASELINES = ("mfs", "mfs-tcp", "mfs-tail"), ("fifo", "static-reuse")


def attainment(runs: Sequence[Run]) -> Estimate:
    """Return the share of requests in time over the runs of one policy, its interval from their number."""
    share = fmean(run.slo_attainment for run in runs)
    requests = max(1, sum(run.requests for run in runs))
    return Estimate(share, NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(share * (1 - share) / requests))


def difference(runs: Sequence[Run], base: Sequence[Run]) -> Estimate | None:
    """Return how much more of the requests ``runs`` have in time than ``base``: both of one policy at one rate.

    The interval is of the paired difference, by seed where both have several, else by request. None if they share no
    seed, or if the results do not say which requests were in time.
    """
    by_seed = [{run.seed: run for run in each} for each in (runs, base)]
    shared = sorted(by_seed[0].keys() & by_seed[1].keys())
    if len(shared) > 1:
        return paired_difference(*({seed: one.slo_attainment for seed, one in each.items()} for each in by_seed))
    changes = [
        float(mine - other)
        for seed in shared
        # Runs of different requests have nothing to pair.
        if by_seed[0][seed].requests == by_seed[1][seed].requests
        for mine, other in zip(*(_in_time(each[seed]) for each in by_seed), strict=False)
    ]
    return mean_interval(changes) if len(changes) > 1 else None


def finding(runs: Sequence[Run]) -> str:
    """Return the finding of the runs of one scenario at their highest rate."""
    rate = max(run.request_rate for run in runs)
    here: dict[str, list[Run]] = {}
    for run in runs:
        if run.request_rate == rate:
            here.setdefault(run.policy, []).append(run)
    shares = {policy: attainment(each).mean for policy, each in here.items()}
    return sentence(f"{rate:g} requests per second", shares, lambda one, other: difference(here[one], here[other]))


def sentence(rate: str, shares: Mapping[str, float], difference_of: Callable[[str, str], Estimate | None]) -> str:
    """Return what the leading policy attains at ``rate``, and how far it is ahead of the baselines.

    The leading policy is the first of :data:`LEADING` that ran, else the one that attains most. ``shares``: attainment
    by policy. ``difference_of``: the paired difference between two policies; None if nothing is known of it.
    """
    leading = next((name for name in LEADING if name in shares), max(shares, key=lambda name: shares[name]))
    bases = [name for name in BASELINES if name in shares and name != leading]
    parts = [f"{leading} serves {shares[leading]:.0%} of the requests in time"]
    parts += [f"{name} {shares[name]:.0%}" for name in bases]
    found = [f"At {rate}, {', '.join(parts)}."]
    for name in bases:
        gain = difference_of(leading, name)
        if gain is None or not math.isfinite(gain.half):
            continue
        if gain.mean == gain.half == 0:
            found.append(f"The same requests are in time under {name}.")
            continue
        more = "more" if gain.mean >= 0 else "fewer"
        unsure = "; the interval includes no difference" if abs(gain.mean) <= gain.half else ""
        found.append(f"That is {abs(gain.mean) * 100:.0f} ± {gain.half * 100:.0f} points {more} than {name}{unsure}.")
    return " ".join(found)


def _in_time(run: Run) -> list[bool]:
    if not run.objective_s:
        return []
    return [ttft <= objective for ttft, objective in zip(run.ttft_s, run.objective_s, strict=True)]
