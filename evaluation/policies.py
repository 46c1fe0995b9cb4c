"""The policies that are compared, fitted to a workload where they have bands."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from evaluation.ideal_network import IdealNetwork
from evaluation.scenario import Scenario
from evaluation.serving import Serving
from evaluation.trace import Request
from evaluation.workload import Workload
from host_agent.flow import FlowSpec
from host_agent.level import log2_code
from host_agent.stamp import LEVELS, units_of
from mfs_ctrl import policy
from mfs_ctrl.policy import Policy, Thresholds

POLICIES = ("mfs", "static", "fifo", "sjf", "edf")
BANDS = LEVELS - 1
"""Levels that SJF and EDF divide flows into: all but the scavenger."""


class _SurveyNetwork(IdealNetwork):
    """A network without contention that notes what flows look like when they start."""

    def __init__(self, bits_per_second: int) -> None:
        super().__init__(bits_per_second)
        self.remaining_codes: list[int] = []
        self.slack_codes: list[int] = []

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        self.remaining_codes.append(log2_code(units_of(spec.total_bytes + spec.beyond_bytes)))
        self.slack_codes.append(log2_code(max(0, (spec.deadline_ns - self.now_ns) // 1000)))
        super().start_flow(source_host, spec, on_complete)


def policy_for(name: str, scenario: Scenario, work: Workload, requests: Iterable[Request]) -> Policy:
    """The policy ``name``; SJF and EDF with bands that hold equally many flows of this workload, uncontended.

    Raises:
        ValueError: no such policy.
    """
    if name in ("sjf", "edf"):
        network = _SurveyNetwork(scenario.serving.scaled_nic_bits_per_second)
        serving = Serving(scenario.serving, network, requests, work.slo_ns, work.placements)
        serving.start()
        network.run()
        if name == "sjf":
            return policy.sjf(_quantiles(network.remaining_codes))
        return policy.edf(_quantiles(network.slack_codes))
    plain = {
        "mfs": lambda: policy.mfs(Thresholds(near_rli=scenario.layers_per_step)),
        "static": policy.static,
        "fifo": policy.fifo,
    }
    if name not in plain:
        raise ValueError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    return plain[name]()


def _quantiles(codes: list[int]) -> list[int]:
    bounds = np.quantile(codes, [share / BANDS for share in range(1, BANDS)])
    return sorted({int(bound) for bound in bounds if bound >= 1})
