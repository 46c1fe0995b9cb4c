"""Two tenants that share a data centre: their requests, their objectives, and how each fared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from host_agent.protocol.units import NS_PER_S
from mfs_eval.errors import EvaluationError
from mfs_eval.serving.metrics import RequestRecord, percentile, slo_attainment
from mfs_eval.serving.trace import Request

ALIKE = "alike"


@dataclass(frozen=True, slots=True)
class Tenants:
    """Difference between two tenants.

    Attributes:
        name: as on the command line.
        why: what it shows, in one line.
        longest: share of the requests, those with the longest prompts, that belong to the second tenant; None assigns
            each request at random.
        objective: factor of the second tenant's objectives.
        stated: factor of the objectives that the second tenant states to the scheduler; it is judged without it.
    """

    name: str
    why: str
    longest: float | None = None
    objective: float = 1.0
    stated: float = 1.0

    def second(self, requests: Sequence[Request]) -> frozenset[int]:
        """Return the indices of the second tenant's requests."""
        if self.longest is None:
            tosses = np.random.default_rng(0).random(len(requests)) < 0.5
            return frozenset(one.index for one, toss in zip(requests, tosses, strict=True) if toss)
        by_length = sorted(requests, key=lambda one: (one.prompt_tokens, one.index))
        return frozenset(one.index for one in by_length[round((1 - self.longest) * len(requests)) :])

    def wanted_ns(self, slo_ns: Mapping[int, int], second: Collection[int]) -> dict[int, int]:
        """Return the objectives that both tenants are judged by."""
        return _times(slo_ns, second, self.objective)

    def stated_ns(self, slo_ns: Mapping[int, int], second: Collection[int]) -> dict[int, int]:
        """Return the objectives that the scheduler is told."""
        return _times(slo_ns, second, self.objective * self.stated)


TENANTS = {
    one.name: one
    for one in (
        Tenants(ALIKE, "the tenants do not differ"),
        Tenants("loose", "the second has objectives three times as long: is it starved?", objective=3.0),
        Tenants("eager", "the second states a third of its objectives: does lying pay?", stated=1 / 3),
        Tenants("bulk", "the second sends the longest quarter of the prompts", longest=0.25),
    )
}


@dataclass(frozen=True, slots=True)
class TenantOutcome:
    """Outcome of one tenant; zeros if it has no requests.

    Attributes:
        attainment: share of its requests in time.
        progress: mean of low-load TTFT (time to first token) over TTFT, 0 to 1.
        ttft_p99_s: 99th percentile of its TTFTs, seconds.
    """

    attainment: float
    progress: float
    ttft_p99_s: float


def tenants_named(name: str) -> Tenants:
    """Return the tenants called ``name``.

    Raises:
        EvaluationError: there are none; the message lists the names.
    """
    if name not in TENANTS:
        raise EvaluationError(f"there are no tenants {name!r}; there are {', '.join(TENANTS)}")
    return TENANTS[name]


def outcome(records: Iterable[RequestRecord], low_load_ns: Mapping[int, float]) -> TenantOutcome:
    """Return the outcome of one tenant's ``records``."""
    records = list(records)
    if not records:
        return TenantOutcome(0.0, 0.0, 0.0)
    return TenantOutcome(
        slo_attainment(records),
        fmean(low_load_ns[one.index] / one.ttft_ns for one in records),
        percentile([one.ttft_ns for one in records], 0.99) / NS_PER_S,
    )


def jain(values: Sequence[float]) -> float:
    """Return Jain's fairness index: 1 if all are equal, 1/n if one has everything (Jain, Chiu and Hawe, 1984)."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _times(slo_ns: Mapping[int, int], second: Collection[int], factor: float) -> dict[int, int]:
    return {index: round(value * factor) if index in second else value for index, value in slo_ns.items()}
