"""The gate: messages are permitted in the order of levels, with bounded bytes in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.daemon.gate import LOWEST_LIMIT_BYTES, Gate, default_limit
from host_agent.protocol.errors import RequestError

OWNER = object()


def gate(limit: int = 100, levels: dict[int, int] | None = None) -> Gate:
    chosen = levels or {}
    return Gate(limit, lambda flow: (chosen.get(flow, 1), flow))


def numbers(gate: Gate) -> list[int]:
    return [message.number for message in gate.turn()]


def test_the_most_urgent_message_goes_first_and_none_before_it() -> None:
    made = gate(100, {1: 3, 2: 7, 3: 3})
    filler = made.submit(9, 60, OWNER)
    assert numbers(made) == [filler]
    low, big, small = made.submit(1, 10, OWNER), made.submit(2, 90, OWNER), made.submit(3, 10, OWNER)
    # The big one does not fit yet, and what is less urgent does not overtake it.
    assert numbers(made) == []
    made.complete(filler, OWNER)
    assert numbers(made) == [big, low]
    made.complete(big, OWNER)
    assert numbers(made) == [small]


def test_levels_are_those_of_now() -> None:
    levels = {1: 2, 2: 3}
    made = gate(10, levels)
    first = made.submit(9, 10, OWNER)
    assert numbers(made) == [first]
    one, two = made.submit(1, 10, OWNER), made.submit(2, 10, OWNER)
    levels[1] = 6
    made.complete(first, OWNER)
    assert numbers(made) == [one]
    made.complete(one, OWNER)
    assert numbers(made) == [two]


def test_equal_levels_go_by_deadline_and_a_flow_keeps_its_order() -> None:
    made = gate(1000)
    sent = [made.submit(flow, 1, OWNER) for flow in (5, 4, 5, 4)]
    assert numbers(made) == [sent[1], sent[3], sent[0], sent[2]]


def test_a_message_beyond_the_limit_goes_alone() -> None:
    made = gate(100)
    big, other = made.submit(1, 1000, OWNER), made.submit(2, 1, OWNER)
    assert numbers(made) == [big]
    made.complete(big, OWNER)
    assert numbers(made) == [other]


def test_each_client_learns_its_own_messages_once() -> None:
    made, stranger = gate(), object()
    mine, theirs = made.submit(1, 1, OWNER), made.submit(2, 1, stranger)
    made.turn()
    assert made.permitted(OWNER) == [mine]
    assert made.permitted(OWNER) == []
    with pytest.raises(RequestError, match=f"no message {theirs} of this client"):
        made.complete(theirs, OWNER)
    with pytest.raises(RequestError, match="no message 77"):
        made.complete(77, OWNER)
    made.complete(theirs, stranger)
    with pytest.raises(RequestError, match="in flight"):
        made.complete(theirs, stranger)


def test_what_a_client_or_a_flow_leaves_does_not_block_others() -> None:
    made, stranger = gate(10), object()
    for number in range(3):
        made.submit(number, 10, OWNER)
    waits = made.submit(5, 10, stranger)
    made.turn()
    made.forget_flow(0)
    made.forget_owner(OWNER)
    assert made.in_flight_bytes == 0
    assert numbers(made) == [waits]
    assert made.permitted(OWNER) == []


def test_the_default_limit_is_a_millisecond_of_the_link() -> None:
    assert default_limit(100 * 10**9) == 12_500_000
    assert default_limit(10**6) == LOWEST_LIMIT_BYTES


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60), st.booleans()), max_size=60), st.integers(1, 100))
def test_the_bytes_in_flight_stay_bounded_and_everything_goes(steps: list[tuple[int, int, bool]], limit: int) -> None:
    made = gate(limit)
    flying: dict[int, int] = {}
    gone = 0
    for flow, size, complete in steps:
        made.submit(flow, size, OWNER)
        if complete and flying:
            number = min(flying)
            made.complete(number, OWNER)
            del flying[number]
        for message in made.turn():
            flying[message.number] = message.size
            gone += 1
        assert made.in_flight_bytes == sum(flying.values())
        assert made.in_flight_bytes <= limit or len(flying) == 1
    while flying:
        number = min(flying)
        made.complete(number, OWNER)
        del flying[number]
        for message in made.turn():
            flying[message.number] = message.size
            gone += 1
    assert (gone, made.waiting) == (len(steps), 0)
