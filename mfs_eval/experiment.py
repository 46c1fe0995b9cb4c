"""One packet-level experiment from Python, without files or process pools."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from mfs_ctrl.policy.policy import Policy
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level import experiment
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results.schema import Run
from mfs_eval.serving.trace import SAMPLE_PATH, Request, load_trace
from mfs_eval.setup.run_settings import RunSettings
from mfs_eval.setup.scenario import Scenario, scenario_named
from mfs_eval.setup.workload import Workload


def run(
    scenario: Scenario | str,
    policy: str | Policy = "mfs",
    *,
    request_rate: float | None = None,
    seed: int = 1,
    requests: int = 180,
    trace: Path | str | Sequence[Request] | None = None,
    settings: RunSettings | None = None,
) -> Run:
    """Serve a trace on a simulated testbed and return what became of its requests.

    The packets cross the compiled P4 program in the embedded switch, which a controller tunes over P4Runtime. The same
    arguments give the same result. The objective of a request is three times its time to first token (TTFT) in an idle
    testbed. The first run with a scenario and requests measures the objectives, which takes some seconds; later runs
    reuse them.

    Args:
        scenario: what is simulated: one of :data:`mfs_eval.scenarios`, its name, or a scenario of your own.
        policy: the scheduling policy: a built-in one by name, such as "mfs" or "static-reuse", the path of a
            policy file, or a :class:`~mfs_ctrl.policy.Policy`.
        request_rate: requests per second; by default the lowest rate of the scenario.
        seed: seed of the Poisson arrivals, not negative.
        requests: number of requests that are served; the first fifth is warm-up and does not count.
        trace: path of a Mooncake trace (JSON Lines), or its requests; by default the bundled sample.
        settings: settings of hosts, ports, controller, adversary and pruning.

    Raises:
        EvaluationError: an unknown scenario, an argument out of range, or a trace that cannot be read or is too short.
        mfs_ctrl.errors.PolicyError: there is no such policy, or its file is invalid.
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    if isinstance(scenario, str):
        scenario = scenario_named(scenario)
    if requests < 1 or seed < 0:
        raise EvaluationError(f"requests must be at least 1 and seed at least 0; they are {requests} and {seed}")
    available = load_trace(SAMPLE_PATH if trace is None else trace) if isinstance(trace, Path | str | None) else trace
    rate = scenario.request_rates[0] if request_rate is None else request_rate
    return experiment.run(scenario, _workload(scenario, tuple(available), requests), policy, rate, seed, settings)


@lru_cache(maxsize=8)
def _workload(scenario: Scenario, trace: tuple[Request, ...], count: int) -> Workload:
    return workload(scenario, trace, count)
