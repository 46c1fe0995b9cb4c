"""``mfs serve``: workloads, messages where something is missing, and the whole with real engines where they are."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mfs_ctrl.cli import mfs
from mfs_eval.errors import EvaluationError
from mfs_eval.serve import engines, workload
from mfs_eval.serve.router import Answer
from mfs_eval.serve.serve import Served, Stamped
from mfs_eval.serve.serve_rows import rows
from mfs_eval.serve.summary import summary
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace

PYTHON = os.environ.get("MFS_VLLM_PYTHON", "")
OBJECTIVES = {256: 100.0, 2048: 1000.0}


@given(st.dictionaries(st.integers(1, 5000), st.floats(0, 1e4), min_size=2), st.integers(1, 5000))
def test_interpolation_goes_through_its_points_and_stays_between_neighbours(values: dict[int, float], at: int) -> None:
    found = workload.interpolated(values, at)
    below = [point for point in values if point <= at]
    above = [point for point in values if point >= at]
    if below and above:
        near = values[max(below)], values[min(above)]
        assert min(near) - 1e-6 <= found <= max(near) + 1e-6


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the common prefix."""
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def test_prompts_of_the_trace_share_what_the_trace_shares() -> None:
    requests = load_trace(SAMPLE_PATH)
    prompts = workload.of_trace(requests, 20, 2.0, 1, 2048, OBJECTIVES)
    fitting = [request for request in requests if request.prompt_tokens // workload.SHRINK <= 2048][:20]
    assert [len(prompt.tokens) for prompt in prompts] == [
        max(workload.BLOCK_TOKENS, request.prompt_tokens // workload.SHRINK) for request in fitting
    ]
    for one, request in zip(prompts, fitting, strict=True):
        for other, another in zip(prompts, fitting, strict=True):
            shared = common(request.blocks, another.blocks) * workload.BLOCK_TOKENS
            count = min(shared, len(one.tokens), len(other.tokens))
            assert one.tokens[:count] == other.tokens[:count]
    assert [prompt.arrival_s for prompt in prompts] == sorted(prompt.arrival_s for prompt in prompts)
    assert prompts == workload.of_trace(requests, 20, 2.0, 1, 2048, OBJECTIVES)
    assert prompts[0].tokens != workload.of_trace(requests, 20, 2.0, 2, 2048, OBJECTIVES)[0].tokens


def test_a_trace_that_is_too_short_is_named() -> None:
    with pytest.raises(EvaluationError, match="lower --requests"):
        workload.of_trace(load_trace(SAMPLE_PATH, limit=5), 20, 1.0, 1, 2048, OBJECTIVES)


def test_the_tight_request_comes_after_two_loose_ones_at_both_engines() -> None:
    prompts = workload.behind_loose(2, 1, 2048, 10_000, 512, 1000, 1.5, 8.0)
    assert [(each.group, each.engine, each.arrival_s, len(each.tokens)) for each in prompts[3:]] == [
        ("loose", 0, 8.0, 2048),
        ("loose", 1, 8.0, 2048),
        ("tight", 0, 9.5, 512),
    ]
    assert len({each.tokens for each in prompts}) == 6


def test_a_row_has_the_time_of_each_stage() -> None:
    prompt = workload.Prompt("s1-0", 0.0, (1, 2, 3), 500.0, "trace")
    good = Answer(prompt, "mfs-x-s1-0", 1, 0, 400.0, 100.0, (7,))
    bad = Answer(prompt, "mfs-x-s1-1", 0, 0, None, None, (), "timed out")
    record = {"began_ns": 10_000_000, "ended_ns": 60_000_000, "error": "", "payload_bytes": 5_000_000, "stamped": True}
    transfers = {
        "push": [{**record, "transfer": "mfs-x-s1-0", "request": "cmpl-mfs-x-s1-0-0-abc"}],
        "fetch": [{**record, "request": "cmpl-mfs-x-s1-0-0-abc", "payload_bytes": 2, "ended_ns": 30_000_000}],
    }
    found = rows(Served("mfs", 1, [good, bad], transfers, Stamped(1, (0,)), 1), 0.5, 10**8)
    assert (found[0].push_ms, found[0].fetch_ms, found[0].in_time, found[0].stamped) == (50.0, 20.0, 1, 1)
    assert (found[1].push_ms, found[1].ttft_ms, found[1].in_time, found[1].error) == (
        None,
        None,
        0,
        "timed out",
    )
    assert summary(found) == [
        ["mfs", "trace", "1", "2", "1", "50", "400", "400", "400", "100", "20", "50", "5.0"],
    ]


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MFS_VLLM_PYTHON", raising=False)
    with pytest.raises(EvaluationError, match="--python or MFS_VLLM_PYTHON"):
        engines.checked_python(None, 3)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EvaluationError, match="needs root"):
        engines.checked_python(Path(sys.executable), 3)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(EvaluationError, match="GB of memory"):
        engines.checked_python(Path(sys.executable), 100_000)
    with pytest.raises(EvaluationError, match="No such file"):
        engines.checked_python(tmp_path / "python", 0)
    with pytest.raises(EvaluationError, match=r"cannot import vLLM: .*vllm"):
        engines.checked_python(Path(sys.executable), 0)


def test_the_command_fails_before_anything_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MFS_VLLM_PYTHON", raising=False)
    result = CliRunner().invoke(mfs, ["serve"])
    assert isinstance(result.exception, EvaluationError)


@pytest.mark.skipif(not PYTHON, reason="MFS_VLLM_PYTHON is not set: the interpreter of an environment with vLLM")
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and host agents need root")
def test_real_engines_are_served_with_stamps_and_right_tokens(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "mfs_ctrl.cli", "serve", "--policy", "mfs", "--requests", "3", "--request-rate", "1"),
        *("--model", "llama-4x256", "--prefix", "tserve", "--out", str(tmp_path / "out")),
        *("--models", str(tmp_path / "models")),
    ]
    program = shutil.which("mfs", path=str(Path(sys.executable).parent))
    command = [program, *command[3:]] if program else command
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 requests' tokens are those of a single engine" in done.stdout
    with (tmp_path / "out" / "requests.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 3
    for row in found:
        assert row["error"] == ""
        assert row["stamped"] == "1"
        blocks = -(-int(row["prompt_tokens"]) // workload.BLOCK_TOKENS)
        assert int(row["push_bytes"]) == blocks * workload.BLOCK_TOKENS * 4096
