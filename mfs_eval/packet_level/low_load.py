"""Workloads whose objectives come from low-load TTFTs measured on the packet-level testbed."""

from __future__ import annotations

from collections.abc import Sequence

from mfs_ctrl import policies
from mfs_eval.packet_level.testbed import open_testbed
from mfs_eval.serving.objectives import SLO_FACTOR, low_load_records, objectives
from mfs_eval.serving.placement import place
from mfs_eval.serving.trace import Request
from mfs_eval.setup.run_settings import ControlSettings, RunSettings
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.workload import Workload, select


def workload(scenario: Scenario, trace: Sequence[Request], count: int, slo_factor: float = SLO_FACTOR) -> Workload:
    """Return the work that :func:`~mfs_eval.setup.workload.select` takes from ``trace``, with its objectives.

    An objective is ``slo_factor`` times the time to first token (TTFT) of the request alone on the scenario's testbed.

    Raises:
        EvaluationError: the trace has too few requests.
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    requests = select(scenario, trace, count)
    before = trace[: scenario.warm_requests]
    placements = place(requests, len(scenario.cluster.units), before, scenario.cache_blocks, scenario.hot_prefixes)
    untuned = RunSettings(control=ControlSettings(tune_thresholds=False, tune_bias=False))
    with open_testbed(scenario, policies.fifo(), untuned) as idle:
        records = low_load_records(scenario.serving, requests, placements, idle.serving_network)
    return Workload(tuple(requests), placements, objectives(records, slo_factor))
