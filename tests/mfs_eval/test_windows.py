"""Windows of a trace, and the search for request rates over them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mfs_eval.errors import EvaluationError
from mfs_eval.serving.trace import TRACE_PATH, load_trace
from mfs_eval.setup import windows
from mfs_eval.setup.scenario import SCENARIOS
from mfs_eval.setup.workload import eligible
from mfs_eval.studies.rates import interpolated, search

TRACE = load_trace(TRACE_PATH)
TESTBED = SCENARIOS["testbed"]
COUNT = 120


def test_seeds_have_windows_of_their_own_over_the_whole_trace() -> None:
    available = windows.groups(TESTBED, TRACE, COUNT)
    drawn = [windows.drawn(TESTBED, TRACE, COUNT, seed) for seed in range(1, available + 1)]
    served = [request.index for window in drawn for request in window.requests]
    assert len(set(served)) == len(served) == available * COUNT
    # Ten of them already reach each quarter of the trace.
    quarters = {4 * window.requests[0].index // len(TRACE) for window in drawn[10:20]}
    assert quarters == {0, 1, 2, 3}


def test_caches_hold_what_came_right_before_a_window() -> None:
    for seed in (1, 11, 20):
        window = windows.drawn(TESTBED, TRACE, COUNT, seed)
        assert len(window.before) == TESTBED.warm_requests
        assert window.before[-1].index + 1 == window.requests[0].index
        assert max(request.prompt_tokens for request in window.requests) <= TESTBED.longest_prompt


def test_windows_of_all_lengths_leave_out_no_prompt() -> None:
    window = windows.chosen(TESTBED, TRACE, COUNT, "all-lengths", 3)
    indices = [request.index for request in window.requests]
    assert indices == list(range(indices[0], indices[0] + COUNT))
    assert max(request.prompt_tokens for request in window.requests) > TESTBED.longest_prompt


def test_the_first_prompts_are_the_same_for_all_seeds() -> None:
    one, other = (windows.chosen(TESTBED, TRACE, COUNT, "first", seed) for seed in (1, 2))
    assert one == other
    assert one.before == tuple(TRACE[: TESTBED.warm_requests])
    assert list(one.requests) == eligible(TESTBED, TRACE)[:COUNT]


def test_after_the_last_group_the_first_one_follows() -> None:
    available = windows.groups(TESTBED, TRACE, COUNT)
    assert windows.numbered(TESTBED, TRACE, COUNT, available + 2) == windows.numbered(TESTBED, TRACE, COUNT, 2)


def test_a_trace_that_is_too_short_for_a_window_is_refused() -> None:
    with pytest.raises(EvaluationError, match="but the run needs 120; use a longer trace or fewer --requests"):
        windows.drawn(TESTBED, TRACE[: TESTBED.warm_requests + 100], COUNT, 1)
    short = replace(TESTBED, warm_requests=0)
    assert len(windows.drawn(short, TRACE[:200], COUNT, 7).requests) == COUNT


def test_the_search_finds_the_rate_of_each_share() -> None:
    measured: list[float] = []

    def share(rate: float) -> float:
        measured.append(rate)
        return max(0.0, 1 - (rate / 40) ** 2)

    found = search(share, (5.0, 10.0, 12.0), (0.9, 0.8, 0.6, 0.4))
    for load, rate in found.items():
        assert 1 - (rate / 40) ** 2 == pytest.approx(load, abs=0.03)
    assert len(set(measured)) == len(measured) <= 9


def test_a_share_outside_the_measured_ones_is_not_interpolated() -> None:
    assert interpolated({10: 0.7, 20: 0.5}, 0.6) == 15
    with pytest.raises(EvaluationError, match="measure more rates"):
        interpolated({10: 0.7, 20: 0.5}, 0.4)
