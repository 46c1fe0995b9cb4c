"""The load that a host measures follows the traffic that goes first, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.units import LOAD_LIMIT
from mfs_eval.packet_level.hosts.load_meter import LoadMeter

RATE_BPS = 1_000_000_000
INTERVAL_NS = 20_000_000
FULL_BYTES = RATE_BPS // 8 * INTERVAL_NS // 1_000_000_000
"""Bytes that the link carries in an interval."""

WEIGHTS = st.floats(0.05, 1.0)


def meter(weight: float = 0.2) -> LoadMeter:
    return LoadMeter(RATE_BPS, INTERVAL_NS, weight)


@given(st.floats(0.0, 1.5), WEIGHTS)
def test_a_constant_load_is_approached_from_below_and_reached(share: float, weight: float) -> None:
    one = meter(weight)
    byte_count = round(share * FULL_BYTES)
    target = min(LOAD_LIMIT, byte_count / FULL_BYTES)
    before = 0.0
    for interval in range(1, 400):
        one.count(byte_count)
        assert one.update(interval * INTERVAL_NS)
        assert before - 1e-9 <= one.load <= target + 1e-9
        before = one.load
    assert one.load == pytest.approx(target, abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(0, 20 * FULL_BYTES), st.integers(1, 50 * INTERVAL_NS)), max_size=50),
    WEIGHTS,
)
def test_the_load_is_never_above_its_limit_nor_below_zero(intervals: list[tuple[int, int]], weight: float) -> None:
    one = meter(weight)
    now_ns = 0
    for byte_count, elapsed_ns in intervals:
        one.count(byte_count)
        now_ns += elapsed_ns
        one.update(now_ns)
        assert 0 <= one.load <= LOAD_LIMIT


@given(WEIGHTS)
def test_the_load_of_an_idle_link_decays_by_the_weight_each_interval(weight: float) -> None:
    one = meter(weight)
    one.count(FULL_BYTES // 2)
    one.update(INTERVAL_NS)
    for interval in range(2, 20):
        before = one.load
        assert one.update(interval * INTERVAL_NS)
        assert one.load == pytest.approx((1 - weight) * before, abs=1e-12)


@given(st.integers(1, 60), st.floats(0.0, 0.85), st.floats(0.0, 0.85), WEIGHTS)
def test_a_long_pause_counts_as_several_intervals_with_its_mean_load(
    intervals: int, first: float, later: float, weight: float
) -> None:
    at_once, one_by_one = meter(weight), meter(weight)
    byte_count = round(later * FULL_BYTES)
    for one in (at_once, one_by_one):
        one.count(round(first * FULL_BYTES))
        one.update(INTERVAL_NS)
    at_once.count(intervals * byte_count)
    assert at_once.update((1 + intervals) * INTERVAL_NS)
    for interval in range(intervals):
        one_by_one.count(byte_count)
        one_by_one.update((2 + interval) * INTERVAL_NS)
    assert at_once.load == pytest.approx(one_by_one.load, abs=1e-9)


def test_the_load_is_updated_only_after_an_interval_and_counts_all_bytes() -> None:
    one = meter(1.0)
    one.count(FULL_BYTES // 4)
    assert not one.update(INTERVAL_NS - 1)
    assert one.load == 0
    one.count(FULL_BYTES // 4)
    assert one.update(INTERVAL_NS)
    assert one.load == pytest.approx(0.5)
