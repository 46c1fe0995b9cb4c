"""The policies that are compared, with their bands fitted to a workload."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import log2_code
from host_agent.protocol.stamp import Stage, units_of
from mfs_ctrl import Policy, policies
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.ideal_network import IdealNetwork
from mfs_eval.serving.trace import Request
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.workload import Workload

POLICIES = ("mfs", "static", "fifo", "sjf", "edf")
"""Those that the demo compares."""
FOLDS = {f"mfs-{levels}-levels": levels for levels in (2, 4)}
"""The MFS policy on switches with fewer queues."""
WITHOUT_RED = "mfs-without-red"
STATIC_REUSE = "static-reuse"
STATIC_BANDS = "static-bands"
KARUNA = "karuna"
KARUNA_PACED = "karuna-paced"
"""Karuna with rates, for senders that pace."""
EDF_EXPLICIT = "edf-explicit"
LLF = "llf"
"""Clairvoyant least laxity first: flows have laxity deadlines and are ordered by them as in EDF."""
CEILING = "ceiling"
"""Not a policy but a network without contention, which no policy can beat."""
NEAR_RLI = "near_rli"
"""Threshold of the relative layer index (RLI) up to which a layer is near: as many layers as the model steps by."""


class _SurveyNetwork(IdealNetwork):
    """A network without contention that records what flows look like when they start."""

    def __init__(self, bits_per_second: int) -> None:
        super().__init__(bits_per_second)
        self.remaining_codes: list[int] = []
        self.early_remaining_codes: list[int] = []
        self.slack_codes: list[int] = []
        self.last_slack_codes: list[int] = []

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        remaining_code = log2_code(units_of(spec.total_bytes + spec.beyond_bytes))
        self.remaining_codes.append(remaining_code)
        if spec.stage != Stage.P2D:
            self.early_remaining_codes.append(remaining_code)
        slack_code = log2_code(max(0, (spec.deadline_ns - self.now_ns) // 1000))
        self.slack_codes.append(slack_code)
        if spec.stage == Stage.P2D:
            self.last_slack_codes.append(slack_code)
        super().start_flow(source_host, spec, on_complete)


_FITTED: dict[str, Callable[[_SurveyNetwork], list[int]]] = {
    "sjf": lambda seen: seen.remaining_codes,
    "edf": lambda seen: seen.slack_codes,
    LLF: lambda seen: seen.slack_codes,
    EDF_EXPLICIT: lambda seen: seen.last_slack_codes,
    KARUNA: lambda seen: seen.early_remaining_codes,
    KARUNA_PACED: lambda seen: seen.early_remaining_codes,
}
"""The codes that the bands of a policy divide."""


def serving_for(name: str, scenario: Scenario) -> ServingConfig:
    """Return what is served under policy ``name``: always the same, except the deadlines of a clairvoyant's flows."""
    return replace(scenario.serving, laxity_deadlines=name == LLF)


def policy_for(name: str, scenario: Scenario, work: Workload, requests: Iterable[Request]) -> Policy:
    """Return the built-in policy ``name``, fitted to the scenario, or the policy in the TOML file ``name``, as it is.

    The bands of a built-in policy hold equally many flows of this workload without contention.

    Raises:
        PolicyError: there is no such policy.
    """
    chosen = policies.load("mfs" if name in FOLDS else name)
    if name not in FOLDS and name not in policies.builtin_names():
        return chosen
    if NEAR_RLI in chosen.thresholds:
        chosen = chosen.at({NEAR_RLI: scenario.layers_per_step})
    if name in FOLDS:
        return policies.folded(chosen, FOLDS[name])
    if name in _FITTED:
        seen = _survey(serving_for(name, scenario), work, requests)
        return chosen.with_bands(_quantiles(_FITTED[name](seen), len(chosen.bands) + 1))
    return chosen


def _survey(config: ServingConfig, work: Workload, requests: Iterable[Request]) -> _SurveyNetwork:
    network = _SurveyNetwork(config.scaled_nic_bits_per_second)
    serving = Serving(config, network, requests, work.slo_ns, work.placements)
    serving.start()
    network.run()
    return network


def _quantiles(codes: list[int], bands: int) -> list[int]:
    if not codes:
        return []
    bounds = np.quantile(codes, [share / bands for share in range(1, bands)])
    return sorted({int(bound) for bound in bounds if bound >= 1})
