"""The policies that are compared. Those with bands are fitted to a workload."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import log2_code
from host_agent.protocol.stamp import LEVELS, Stage, units_of
from mfs_ctrl.policy import policy
from mfs_ctrl.policy.policy import KARUNA_HIGHEST, KARUNA_LOWEST, Policy, Thresholds
from mfs_eval.serving.engine import Serving, ServingConfig
from mfs_eval.serving.ideal_network import IdealNetwork
from mfs_eval.serving.trace import Request
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.workload import Workload

POLICIES = ("mfs", "static", "fifo", "sjf", "edf")
"""Policies that the demo compares."""
FOLDS = {f"mfs-{levels}-levels": levels for levels in (2, 4)}
WITHOUT_RED = "mfs-without-red"
STATIC_REUSE = "static-reuse"
KARUNA = "karuna"
KARUNA_PACED = "karuna-paced"
"""Karuna with rates, for senders that pace their flows."""
EDF_EXPLICIT = "edf-explicit"
LLF = "llf"
"""Clairvoyant least laxity first: flows have laxity deadlines and are ordered by them as in EDF."""
CEILING = "ceiling"
"""Not a policy but a network without contention: an upper bound for all policies."""
BANDS = LEVELS - 1
"""Levels that SJF (shortest job first) and EDF (earliest deadline first) use: all but the scavenger."""
KARUNA_BANDS = KARUNA_HIGHEST - KARUNA_LOWEST + 1
EXPLICIT_BANDS = LEVELS - 2
"""Levels of P2D flows if only these are ordered by EDF; below are one level for other flows, and the scavenger."""


class _SurveyNetwork(IdealNetwork):
    """A network without contention that records the codes of flows when they start."""

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


def serving_for(name: str, scenario: Scenario) -> ServingConfig:
    """Return what is served under the policy ``name``. Only the flow deadlines of a clairvoyant policy differ."""
    return replace(scenario.serving, laxity_deadlines=name == LLF)


def policy_for(name: str, scenario: Scenario, work: Workload, requests: Iterable[Request]) -> Policy:
    """Return the policy ``name``. If it has bands, they hold equally many flows of this workload without contention.

    Raises:
        ValueError: there is no such policy.
    """
    full = policy.mfs(Thresholds(near_rli=scenario.layers_per_step))
    plain: dict[str, Callable[[], Policy]] = {
        "mfs": lambda: full,
        "static": policy.static,
        STATIC_REUSE: policy.static_reuse,
        "fifo": policy.fifo,
        WITHOUT_RED: lambda: replace(policy.without_red(full), name=WITHOUT_RED),
    }
    plain |= {fold: partial(policy.folded, full, levels) for fold, levels in FOLDS.items()}
    banded: dict[str, Callable[[_SurveyNetwork], Policy]] = {
        "sjf": lambda seen: policy.sjf(_quantiles(seen.remaining_codes)),
        "edf": lambda seen: policy.edf(_quantiles(seen.slack_codes)),
        EDF_EXPLICIT: lambda seen: policy.edf_explicit(_quantiles(seen.last_slack_codes, EXPLICIT_BANDS)),
        KARUNA_PACED: lambda seen: policy.karuna_paced(_quantiles(seen.early_remaining_codes, KARUNA_BANDS)),
        KARUNA: lambda seen: policy.karuna(_quantiles(seen.early_remaining_codes, KARUNA_BANDS)),
        LLF: lambda seen: replace(policy.edf(_quantiles(seen.slack_codes)), name=LLF),
    }
    if name in plain:
        return plain[name]()
    if name in banded:
        return banded[name](_survey(serving_for(name, scenario), work, requests))
    names = dict.fromkeys((*POLICIES, *plain, *banded))
    raise ValueError(f"there is no policy {name!r}; there are {', '.join(names)}")


def _survey(config: ServingConfig, work: Workload, requests: Iterable[Request]) -> _SurveyNetwork:
    network = _SurveyNetwork(config.scaled_nic_bits_per_second)
    serving = Serving(config, network, requests, work.slo_ns, work.placements)
    serving.start()
    network.run()
    return network


def _quantiles(codes: list[int], bands: int = BANDS) -> list[int]:
    if not codes:
        return []
    bounds = np.quantile(codes, [share / bands for share in range(1, bands)])
    return sorted({int(bound) for bound in bounds if bound >= 1})
