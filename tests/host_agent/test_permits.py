"""The division of the budget among flows: a pure function."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from host_agent.daemon.permits import SEGMENTS, Pending, allocate, budget_bytes

SEGMENT = 1436
flows = st.lists(
    st.builds(
        Pending,
        slot=st.integers(0, 1000),
        destination=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]),
        level=st.integers(0, 7),
        deadline_ns=st.integers(0, 5),
        in_flight=st.one_of(st.just(0), st.integers(0, 60_000)),
        unsent=st.integers(0, 100_000),
    ),
    max_size=12,
    unique_by=lambda flow: flow.slot,
)
budgets = st.integers(SEGMENT, 50 * SEGMENT)


@given(flows, budgets)
def test_the_budget_goes_to_the_most_urgent_flows(found: list[Pending], budget: int) -> None:
    permits = allocate(found, budget, SEGMENT)
    windows = {slot: permit.window for slot, permit in permits.items()}
    assert permits == allocate(found[::-1], budget, SEGMENT), "the order of the flows does not matter"
    assert windows.keys() == {flow.slot for flow in found}
    groups = defaultdict(list)
    for flow in found:
        groups[flow.destination].append(flow)
        assert flow.in_flight <= windows[flow.slot] <= flow.in_flight + flow.unsent
    for group in groups.values():
        group.sort(key=lambda flow: (-flow.level, flow.deadline_ns, flow.slot))
        left = budget
        for flow in group:
            new = windows[flow.slot] - flow.in_flight
            # New bytes fit what the flow and those before it leave of the budget ...
            assert new == 0 or windows[flow.slot] <= left
            # ... and use it up to less than a segment: work conserving.
            assert new == flow.unsent or max(0, left - windows[flow.slot]) < SEGMENT
            assert new == flow.unsent or new % SEGMENT == 0
            assert permits[flow.slot].sustained is (flow.in_flight <= max(0, left))
            left -= windows[flow.slot]
        first = group[0]
        assert windows[first.slot] > 0 or first.unsent == 0


def test_the_budget_covers_a_late_tick_of_a_fast_link() -> None:
    assert budget_bytes(20_000_000, SEGMENT, 0.003) == SEGMENTS * SEGMENT
    assert budget_bytes(100_000_000_000, SEGMENT, 0.003) == 62_500_000
