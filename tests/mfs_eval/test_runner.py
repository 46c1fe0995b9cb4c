"""Runs in worker processes: results, errors, and the end of the workers however the parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mfs_eval.errors import EvaluationError
from mfs_eval.runner import _Lines, run_all
from tests.support.controller import eventually

WITHIN_S = 30.0
SLEEPING = """
import os, sys, time
from pathlib import Path
from mfs_eval.runner import run_all

def sleep(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)

run_all("sleeping", sleep, [(sys.argv[1],)] * 4, jobs=2)
"""


def run_after(index: int, folder: Path, awaited: int | None) -> int:
    """Return ``index`` once run ``awaited`` has ended."""
    if awaited is not None:
        eventually((folder / str(awaited)).exists)
    (folder / str(index)).touch()
    return index


def fail(index: int) -> None:
    raise ValueError(f"run {index} failed")


def die() -> None:
    os._exit(3)


@pytest.mark.parametrize(("jobs", "awaited"), [(1, None), (2, 2)])
def test_results_are_in_the_order_of_the_arguments(jobs: int, awaited: int | None, tmp_path: Path) -> None:
    done: list[int] = []
    runs = [(0, tmp_path, awaited), (1, tmp_path, None), (2, tmp_path, None)]
    assert run_all("runs", run_after, runs, jobs, done.append) == [0, 1, 2]
    assert sorted(done) == [0, 1, 2]
    if awaited is None:
        assert done == [0, 1, 2]
    else:
        assert done.index(0) > done.index(1)


def test_long_work_is_commented_on_where_there_is_no_terminal() -> None:
    lines = _Lines("runs", 100, began_s=0)
    said = [lines.after(done, now_s=60.0 * done) for done in range(1, 101)]
    # After the first, and after each tenth while more than a minute is left.
    assert said[0] == "runs: 1 of 100 done, about 99 min left"
    assert [done for done, line in enumerate(said, 1) if line] == [1, *range(11, 100, 10)]
    assert _Lines("runs", 100, began_s=0).after(1, now_s=0.5) == ""


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_error_of_a_run_is_raised(jobs: int) -> None:
    with pytest.raises(ValueError, match="run 7 failed"):
        run_all("runs", fail, [(7,)], jobs)


def test_a_worker_that_dies_is_an_error_with_a_way_out() -> None:
    with pytest.raises(EvaluationError, match=r"a worker process died.*fewer --jobs"):
        run_all("runs", die, [(), ()], 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SLEEPING, str(tmp_path)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        eventually(lambda: len(list(tmp_path.iterdir())) == 2)
        if number == signal.SIGINT:
            # As Ctrl-C does it: the whole process group gets the signal.
            os.killpg(parent.pid, number)
        else:
            parent.send_signal(number)
        _, errors = parent.communicate(timeout=WITHIN_S)
        eventually(lambda: not any(Path(f"/proc/{worker.name}").exists() for worker in tmp_path.iterdir()))
        # Only the parent reports the interruption.
        assert errors.count("Traceback") == (number == signal.SIGINT)
    finally:
        parent.kill()
        parent.wait()
