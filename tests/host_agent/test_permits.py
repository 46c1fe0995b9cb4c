"""The division of the budget among flows: a pure function."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from host_agent.daemon.permits import INTERFACE_BUDGETS, SEGMENTS, Pending, allocate, budget_bytes

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
    of_interface = round(INTERFACE_BUDGETS * budget)
    of_destination = dict.fromkeys((flow.destination for flow in found), budget)
    for number, flow in enumerate(sorted(found, key=lambda flow: (-flow.level, flow.deadline_ns, flow.slot))):
        window = windows[flow.slot]
        assert flow.in_flight <= window <= flow.in_flight + flow.unsent
        left = max(0, min(of_destination[flow.destination], of_interface))
        new = window - flow.in_flight
        # New bytes fit what the flow and those before it leave of both budgets ...
        assert new == 0 or window <= left
        # ... and use it up to less than a segment: work conserving.
        assert new == flow.unsent or max(0, left - window) < SEGMENT
        assert new == flow.unsent or new % SEGMENT == 0
        assert permits[flow.slot].sustained is (flow.in_flight <= left)
        assert number or window > 0 or flow.unsent == 0, "the most urgent flow may send"
        of_destination[flow.destination] -= window
        of_interface -= window


def test_the_budget_covers_a_late_tick_of_a_fast_link() -> None:
    assert budget_bytes(20_000_000, SEGMENT, 0.003) == SEGMENTS * SEGMENT
    assert budget_bytes(100_000_000_000, SEGMENT, 0.003) == 62_500_000
