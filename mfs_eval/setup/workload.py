"""What every policy has to do: requests, where they go, and by when they should be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mfs_ctrl import policies
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.testbed import RunSettings, rack
from mfs_eval.serving.objectives import SLO_FACTOR, low_load_records, objectives
from mfs_eval.serving.placement import Placement, place
from mfs_eval.serving.trace import Request
from mfs_eval.setup.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Workload:
    """What every policy has to do, the same for all of them.

    Attributes:
        requests: in the order of the trace.
        placements: for each request's index its unit and what it reuses there.
        slo_ns: for each request's index its objective, nanoseconds from its arrival.
    """

    requests: tuple[Request, ...]
    placements: dict[int, Placement]
    slo_ns: dict[int, int]


def workload(scenario: Scenario, trace: Sequence[Request], count: int, slo_factor: float = SLO_FACTOR) -> Workload:
    """The first ``count`` requests of ``trace`` after those that warm the caches, prompts not too long.

    The low-load TTFT that objectives are made of is measured: each request alone on the scenario's rack.

    Raises:
        EvaluationError: the trace has too few.
    """
    requests = select(scenario, trace, count)
    before = trace[: scenario.warm_requests]
    placements = place(requests, len(scenario.cluster.units), before, scenario.cache_blocks, scenario.hot_prefixes)
    with rack(scenario, policies.fifo(), RunSettings(tune_thresholds=False, tune_bias=False)) as idle:
        records = low_load_records(scenario.serving, requests, placements, idle.serving_network)
    return Workload(tuple(requests), placements, objectives(records, slo_factor))


def select(scenario: Scenario, trace: Sequence[Request], count: int) -> list[Request]:
    """The requests of ``trace`` that are served.

    Raises:
        EvaluationError: the trace has too few.
    """
    after = trace[scenario.warm_requests :]
    requests = [request for request in after if request.prompt_tokens <= scenario.longest_prompt][:count]
    if len(requests) < count:
        raise EvaluationError(
            f"the trace has {len(requests)} requests of at most {scenario.longest_prompt} tokens after its first "
            f"{scenario.warm_requests}, {count} are wanted; give a longer trace or fewer --requests"
        )
    return requests
