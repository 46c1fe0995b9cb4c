"""The work of a run: requests, their placement and their objectives, the same for every policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mfs_eval.errors import EvaluationError
from mfs_eval.serving.placement import Placement
from mfs_eval.serving.trace import Request
from mfs_eval.setup.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of a run, the same for every policy.

    Attributes:
        requests: in the order of the trace.
        placements: by request index, the prefill unit and what the request reuses there.
        slo_ns: by request index, the objective (SLO, service-level objective) in nanoseconds from arrival.
    """

    requests: tuple[Request, ...]
    placements: dict[int, Placement]
    slo_ns: dict[int, int]


def eligible(scenario: Scenario, trace: Sequence[Request]) -> list[Request]:
    """Return the requests of ``trace`` that follow the warm-up requests and are not too long."""
    return [request for request in trace[scenario.warm_requests :] if request.prompt_tokens <= scenario.longest_prompt]


def select(scenario: Scenario, trace: Sequence[Request], count: int) -> list[Request]:
    """Return the first ``count`` requests of ``trace`` that follow the warm-up requests and are not too long.

    Raises:
        EvaluationError: the trace has too few.
    """
    requests = eligible(scenario, trace)[:count]
    if len(requests) < count:
        raise EvaluationError(
            f"the trace has {len(requests)} requests of at most {scenario.longest_prompt} tokens after its first "
            f"{scenario.warm_requests}, but the run needs {count}; use a longer trace or fewer --requests"
        )
    return requests
