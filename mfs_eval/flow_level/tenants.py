"""Two tenants who share a data centre: who sends what, and by when each wants it. Data, and what became of each."""

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
    """How two tenants differ.

    Attributes:
        name: as on the command line.
        why: what it shows, in one line.
        longest: None: each request belongs to the second tenant by the toss of a coin; else that one has this share
            of the requests, those with the longest prompts.
        objective: the second tenant's objectives are so many times as long.
        stated: of its objectives the second tenant states this part; it is judged by the whole.
    """

    name: str
    why: str
    longest: float | None = None
    objective: float = 1.0
    stated: float = 1.0

    def second(self, requests: Sequence[Request]) -> frozenset[int]:
        """The requests of the second tenant, by index."""
        if self.longest is None:
            tosses = np.random.default_rng(0).random(len(requests)) < 0.5
            return frozenset(one.index for one, toss in zip(requests, tosses, strict=True) if toss)
        by_length = sorted(requests, key=lambda one: (one.prompt_tokens, one.index))
        return frozenset(one.index for one in by_length[round((1 - self.longest) * len(requests)) :])

    def wanted_ns(self, slo_ns: Mapping[int, int], second: Collection[int]) -> dict[int, int]:
        """The objectives that both are judged by."""
        return _times(slo_ns, second, self.objective)

    def stated_ns(self, slo_ns: Mapping[int, int], second: Collection[int]) -> dict[int, int]:
        """The objectives that the scheduler is told."""
        return _times(slo_ns, second, self.objective * self.stated)


TENANTS = {
    one.name: one
    for one in (
        Tenants(ALIKE, "nothing tells them apart"),
        Tenants("loose", "the second has objectives three times as long: is it starved?", objective=3.0),
        Tenants("eager", "the second states a third of its objectives: what does a lie earn?", stated=1 / 3),
        Tenants("bulk", "the second sends the longest quarter of the prompts", longest=0.25),
    )
}


@dataclass(frozen=True, slots=True)
class TenantOutcome:
    """What a tenant got; zeros where it has no requests.

    Attributes:
        attainment: share of its requests in time.
        progress: mean of low-load TTFT over TTFT, 0 to 1.
        ttft_p99_s: 99th percentile of its TTFTs, seconds.
    """

    attainment: float
    progress: float
    ttft_p99_s: float


def tenants_named(name: str) -> Tenants:
    """The tenants ``name``.

    Raises:
        EvaluationError: there are none of that name; the message lists them.
    """
    if name not in TENANTS:
        raise EvaluationError(f"there are no tenants {name!r}; there are {', '.join(TENANTS)}")
    return TENANTS[name]


def outcome(records: Iterable[RequestRecord], low_load_ns: Mapping[int, float]) -> TenantOutcome:
    """What became of one tenant's ``records``."""
    records = list(records)
    if not records:
        return TenantOutcome(0.0, 0.0, 0.0)
    return TenantOutcome(
        slo_attainment(records),
        fmean(low_load_ns[one.index] / one.ttft_ns for one in records),
        percentile([one.ttft_ns for one in records], 0.99) / NS_PER_S,
    )


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 where all have the same, 1/n where one has all (Jain, Chiu and Hawe, 1984)."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _times(slo_ns: Mapping[int, int], second: Collection[int], factor: float) -> dict[int, int]:
    return {index: round(value * factor) if index in second else value for index, value in slo_ns.items()}
