"""The robust effective deadline (RED) of a batch, against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.effective_deadline import robust_effective_deadline, split


@pytest.mark.parametrize(
    ("deadlines", "expected"),
    [
        ([70], 70),
        ([50, 50, 50], 50),
        ([10, 30], 20),  # f = 1/2: (10 + 30) / 2
        ([10, 12, 100], 40),  # split after 12: 2/3 of 10 + 1/3 of 100
        ([10, 90, 100], 63),  # split after 10: 1/3 of 10 + 2/3 of 90 = 63.3
        ([100, 12, 10], 40),  # the order in which they are given does not matter
        ([0, 10, 20], 6),  # equal gaps: split at the first, 1/3 of 0 + 2/3 of 10 = 6.7
        ([-30, -10], -20),  # deadlines in the past
    ],
)
def test_effective_deadlines_match_values_computed_by_hand(deadlines: list[int], expected: int) -> None:
    assert robust_effective_deadline(deadlines) == expected


def test_deadlines_are_split_at_the_largest_gap() -> None:
    assert split([100, 10, 12]) == ([10, 12], [100])
    assert split([0, 10, 20]) == ([0], [10, 20])
    assert split([50, 50]) == ([], [50, 50])


def test_one_outlier_hardly_moves_the_effective_deadline() -> None:
    """The deadline is robust against one urgent request among many patient ones, and vice versa."""
    assert robust_effective_deadline([0] + [1000] * 9) == 900
    assert robust_effective_deadline([0] * 9 + [1000]) == 100


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="without requests"):
        robust_effective_deadline([])


@given(st.lists(st.integers(-(10**15), 10**15), min_size=1, max_size=40), st.integers(-(10**15), 10**15))
def test_it_lies_within_the_deadlines_and_shifts_with_the_clock(deadlines: list[int], shift: int) -> None:
    effective = robust_effective_deadline(deadlines)
    assert min(deadlines) <= effective <= max(deadlines)
    assert robust_effective_deadline([deadline + shift for deadline in deadlines]) == effective + shift
