"""Workloads whose objectives come from low-load TTFTs measured on the packet-level testbed."""

from __future__ import annotations

from collections.abc import Sequence

from mfs_ctrl import policies
from mfs_eval.packet_level.testbed import open_testbed
from mfs_eval.serving.objectives import SLO_FACTOR, low_load_records, objectives
from mfs_eval.serving.trace import Request
from mfs_eval.setup import windows
from mfs_eval.setup.run_settings import ControlSettings, RunSettings
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.windows import Window
from mfs_eval.setup.workload import Workload


def workload(scenario: Scenario, trace: Sequence[Request], count: int, slo_factor: float = SLO_FACTOR) -> Workload:
    """Return the work of the first ``count`` requests of ``trace`` after the warm-up, with its objectives.

    Raises:
        EvaluationError: the trace has too few requests.
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    return workload_of(scenario, windows.first(scenario, trace, count), slo_factor)


def workload_of(scenario: Scenario, window: Window, slo_factor: float = SLO_FACTOR) -> Workload:
    """Return the work of ``window``, with its objectives.

    An objective is ``slo_factor`` times the time to first token (TTFT) of the request alone on the scenario's testbed.

    Raises:
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    requests, placements = window.requests, windows.placements(scenario, window)
    untuned = RunSettings(control=ControlSettings(tune_thresholds=False, tune_bias=False))
    with open_testbed(scenario, policies.fifo(), untuned) as idle:
        records = low_load_records(scenario.serving, requests, placements, idle.serving_network)
    return Workload(requests, placements, objectives(records, slo_factor))
