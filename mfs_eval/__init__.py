"""Experiments: the serving model, the packet-level and the flow-level engine, studies and benchmarks.

One experiment in Python::

    from mfs_eval import run, scenarios

    result = run(scenarios["incast"], policy="mfs", request_rate=39, seed=1, requests=60)
    print(result.slo_attainment, result.ttft_p99_s)

Names are imported when they are first used (PEP 562), so ``import mfs_eval`` itself is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfs_eval.errors import EvaluationError
    from mfs_eval.experiment import run
    from mfs_eval.results.schema import Run
    from mfs_eval.serving.trace import Request, load_trace
    from mfs_eval.setup.run_settings import RunSettings
    from mfs_eval.setup.scenario import SCENARIOS as scenarios
    from mfs_eval.setup.scenario import Scenario

__all__ = ["EvaluationError", "Request", "Run", "RunSettings", "Scenario", "load_trace", "run", "scenarios"]

_HOMES = {
    "EvaluationError": ("mfs_eval.errors", "EvaluationError"),
    "Request": ("mfs_eval.serving.trace", "Request"),
    "Run": ("mfs_eval.results.schema", "Run"),
    "RunSettings": ("mfs_eval.setup.run_settings", "RunSettings"),
    "Scenario": ("mfs_eval.setup.scenario", "Scenario"),
    "load_trace": ("mfs_eval.serving.trace", "load_trace"),
    "run": ("mfs_eval.experiment", "run"),
    "scenarios": ("mfs_eval.setup.scenario", "SCENARIOS"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
