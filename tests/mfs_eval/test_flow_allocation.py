"""Shares of links after any events, compared with exact progressive filling and with linear programs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfs_eval.flow_level.allocation import add, finished, next_finish, remove, set_cap, set_level, settle
from mfs_eval.flow_level.shares import MAX_HOPS, NONE, UNSETTLED, Shares, grown, shares
from tests.support.fair_reference import Flow, by_linear_programs, progressive_filling

LINKS = 6
CLOSE = 1e-6


class Network:
    """Flows on links, one event at a time."""

    def __init__(self, capacity: list[int], room: int = 64) -> None:
        self.state = shares(np.array(capacity, np.float64), room)
        self.capacity = {link: Fraction(value) for link, value in enumerate(capacity)}
        self.flows: dict[int, Flow] = {}
        self.now = 0.0

    def add(self, number: int, path: tuple[int, ...], level: int, size: float = 1e9) -> None:
        row = np.full((1, MAX_HOPS), NONE)
        row[0, : len(path)] = path
        add(self.state, np.array([number]), row, np.full_like(row, level), np.array([size]), self.now)
        self.flows[number] = (path, level)

    def remove(self, number: int) -> None:
        remove(self.state, number)
        del self.flows[number]

    def rank(self, number: int, level: int) -> None:
        path, _ = self.flows[number]
        for position in range(len(path)):
            set_level(self.state, number * MAX_HOPS + position, level)
        self.flows[number] = (path, level)

    def rates(self) -> dict[int, float]:
        settle(self.state, self.now)
        assert self.state.counts[UNSETTLED] == 0
        return {number: float(self.state.rate[number]) for number in self.flows}

    def wanted(self) -> dict[int, float]:
        rates = progressive_filling(self.capacity, list(self.flows.values()))
        return dict(zip(self.flows, map(float, rates), strict=True))


paths = st.lists(st.integers(0, LINKS - 1), min_size=1, max_size=4, unique=True).map(tuple)
some_flows = st.lists(st.tuples(paths, st.integers(0, 7)), min_size=1, max_size=14)
capacities = st.lists(st.integers(1, 12), min_size=LINKS, max_size=LINKS)


@settings(max_examples=150)
@given(capacities, some_flows)
def test_rates_are_those_of_progressive_filling(capacity: list[int], flows: list[Flow]) -> None:
    network = Network(capacity)
    for number, (path, level) in enumerate(flows):
        network.add(number, path, level)
    assert network.rates() == pytest.approx(network.wanted(), abs=CLOSE)


@settings(max_examples=150)
@given(capacities, some_flows, st.data())
def test_after_any_events_shares_equal_those_of_a_fresh_start(
    capacity: list[int], flows: list[Flow], data: st.DataObject
) -> None:
    network = Network(capacity)
    for number, (path, level) in enumerate(flows):
        network.add(number, path, level)
        if data.draw(st.booleans()):
            network.rates()
        if len(network.flows) > 1 and data.draw(st.booleans()):
            network.remove(data.draw(st.sampled_from(sorted(network.flows))))
        if data.draw(st.booleans()):
            network.rank(data.draw(st.sampled_from(sorted(network.flows))), data.draw(st.integers(0, 7)))
    assert network.rates() == pytest.approx(network.wanted(), abs=CLOSE)


@settings(max_examples=25)
@given(capacities, st.lists(st.tuples(paths, st.integers(0, 2)), min_size=1, max_size=7))
def test_the_reference_agrees_with_linear_programs(capacity: list[int], flows: list[Flow]) -> None:
    exact = {link: Fraction(value) for link, value in enumerate(capacity)}
    filled = [float(rate) for rate in progressive_filling(exact, flows)]
    assert by_linear_programs(exact, flows) == pytest.approx(filled, abs=1e-5)


@settings(max_examples=150)
@given(capacities, st.lists(st.tuples(paths, st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=14))
def test_if_places_disagree_links_stay_within_capacity_and_full_links_limit_flows(
    capacity: list[int], flows: list[tuple[tuple[int, ...], int, int]]
) -> None:
    """The first link and the others rank by different levels, as hosts and switches do."""
    state = shares(np.array(capacity, np.float64), 64)
    rows = np.full((len(flows), MAX_HOPS), NONE)
    levels = np.zeros_like(rows)
    for index, (path, host, switch) in enumerate(flows):
        rows[index, : len(path)] = path
        levels[index] = switch
        levels[index, 0] = host
    add(state, np.arange(len(flows)), rows, levels, np.full(len(flows), 1e9), 0.0)
    settle(state, 0.0)
    load = {link: sum(state.rate[i] for i, (path, *_) in enumerate(flows) if link in path) for link in range(LINKS)}
    assert all(load[link] <= capacity[link] + CLOSE for link in range(LINKS))
    # In the rare case without consistent shares, flows fit, but nothing else is guaranteed.
    for index, (path, *_) in enumerate(() if state.counts[UNSETTLED] else flows):
        assert any(_limits(state, flows, load, capacity, index, link) for link in path)


def _limits(
    state: Shares,
    flows: list[tuple[tuple[int, ...], int, int]],
    load: dict[int, float],
    capacity: list[int],
    index: int,
    link: int,
) -> bool:
    """Whether ``link`` is full, with no faster flow of the same level and no sending flow of a lower one."""

    def level(one: int) -> int:
        path, host, switch = flows[one]
        return host if path[0] == link else switch

    others = [one for one, (path, *_) in enumerate(flows) if link in path and one != index]
    return (
        load[link] >= capacity[link] - 1e-5
        and all(state.rate[one] <= state.rate[index] + 1e-5 for one in others if level(one) == level(index))
        and all(state.rate[one] <= 1e-5 for one in others if level(one) < level(index))
    )


def test_flows_end_when_their_bytes_have_been_sent() -> None:
    network = Network([10])
    network.add(0, (0,), 3, size=100)
    network.add(1, (0,), 3, size=50)
    network.rates()
    assert next_finish(network.state) == pytest.approx(10)  # 5 each
    out = np.zeros(4, np.int64)
    network.now = 10.0
    assert finished(network.state, 10.0, out) == 1
    assert out[0] == 1
    settle(network.state, 10.0)
    assert next_finish(network.state) == pytest.approx(15)  # 50 left, alone


def test_a_flow_of_a_lower_level_gets_nothing_while_a_higher_one_fills_the_link() -> None:
    network = Network([10])
    network.add(0, (0,), 1, size=100)
    network.add(1, (0,), 2, size=100)
    assert network.rates() == {0: 0.0, 1: 10.0}
    network.now = 4.0
    network.rank(0, 5)
    assert network.rates() == {0: 10.0, 1: 0.0}
    assert network.state.left[1] == pytest.approx(60)


@settings(max_examples=60)
@given(capacities, some_flows)
def test_links_in_order_serve_the_oldest_flow_of_a_level_first(capacity: list[int], flows: list[Flow]) -> None:
    network = Network(capacity)
    network.state.in_order[:] = True
    for number, (path, level) in enumerate(flows):
        network.add(number, path, level)
        network.rates()
    # As if each flow had its own level.
    ranks = [(path, level * len(flows) - number) for number, (path, level) in enumerate(flows)]
    wanted = progressive_filling(network.capacity, ranks)
    assert network.rates() == pytest.approx(dict(enumerate(map(float, wanted))), abs=CLOSE)


def test_a_cap_leaves_the_rest_to_lower_levels() -> None:
    network = Network([10])
    network.add(0, (0,), 7)
    network.add(1, (0,), 1)
    network.rates()
    set_cap(network.state, 0, 3.0)
    assert network.rates() == pytest.approx({0: 3.0, 1: 7.0})


def test_growing_the_arrays_changes_no_rates() -> None:
    network = Network([10, 4], room=2)
    network.add(0, (0, 1), 3, size=100)
    network.add(1, (0,), 3, size=30)
    before = network.rates()
    network.state = grown(network.state, 8)
    network.add(5, (1,), 3)
    assert network.rates() == pytest.approx({0: 2.0, 1: 8.0, 5: 2.0})
    assert before == pytest.approx({0: 4.0, 1: 6.0})
    assert network.state.finish[network.state.heap[0]] == network.state.finish.min()


def test_only_links_that_an_event_touches_are_served() -> None:
    links = 400
    network = Network([10] * links, room=links)
    for number in range(links // 2):
        network.add(number, (2 * number, 2 * number + 1), 3)
    settle(network.state, 0.0)
    network.add(links // 2, (0, 1), 3)
    assert settle(network.state, 0.0) <= 8
