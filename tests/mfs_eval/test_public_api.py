"""The names that mfs_eval exports, and an experiment through them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

import mfs_eval
from mfs_ctrl import policies
from mfs_eval import EvaluationError, Run, RunSettings, load_trace, run, scenarios
from mfs_eval.serving.trace import SAMPLE_PATH
from mfs_eval.setup.run_settings import ControlSettings

TINY = replace(scenarios["testbed"], scale=60_000, layers_per_step=8)


def play(**arguments: object) -> Run:
    return run(**{"scenario": TINY, "requests": 8, "request_rate": 25.0, **arguments})  # type: ignore[arg-type]


def test_every_exported_name_exists() -> None:
    for name in mfs_eval.__all__:
        assert getattr(mfs_eval, name) is not None
        assert name in dir(mfs_eval)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        mfs_eval.nonsense  # noqa: B018


def test_importing_the_package_imports_no_engine() -> None:
    check = "import sys, mfs_eval; print(sorted({'numpy', 'grpc', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_policy_and_a_trace_can_be_given_as_names_or_as_objects() -> None:
    by_name = play(policy="static")
    assert by_name.requests == 6, "a fifth is warm-up"
    assert play(policy=policies.static(), trace=SAMPLE_PATH) == by_name
    assert play(policy="static", trace=load_trace(SAMPLE_PATH)) == by_name
    assert play(policy="static", seed=2) != by_name


def test_a_policy_of_your_own_is_played_under_its_name() -> None:
    own = replace(policies.fifo(), name="own")
    assert play(policy=own) == play(policy="fifo").model_copy(update={"policy": "own"})


def test_settings_reach_the_run() -> None:
    settings = RunSettings(control=ControlSettings(tick_ns=500_000_000))
    assert (play(settings=settings).tuner[0].time_s, play().tuner[0].time_s) == (0.5, 1.0)


def test_arguments_out_of_range_are_refused_with_their_names() -> None:
    with pytest.raises(EvaluationError, match="no scenario 'testbet'; there are testbed, incast"):
        play(scenario="testbet")
    with pytest.raises(EvaluationError, match="requests must be at least 1"):
        play(requests=0)
    with pytest.raises(EvaluationError, match="seed at least 0"):
        play(seed=-1)
    with pytest.raises(EvaluationError, match="positive number of requests per second"):
        play(request_rate=0.0)
    with pytest.raises(ValueError, match="no policy 'mfz'"):
        play(policy="mfz")
