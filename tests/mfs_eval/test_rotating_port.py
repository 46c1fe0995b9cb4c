"""A port whose queues rotate: waiting packets rise in time, none is lost, and the link is never idle."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfs_eval.packet_level.rotating_port import RotatingPort
from soft_switch.queues.traffic_manager import Port, PortConfigError, QueueConfig
from tests.soft_switch.test_traffic_manager import ARRIVALS, drive

RATE = 1_000_000_000
FRAME = 1000
FRAME_NS = 8192  # 1,000 bytes and 24 of the wire
UNGUARANTEED = [QueueConfig(0.0)] * 8


def served(port: Port[str], arrivals: Sequence[tuple[int, str, int]]) -> list[str]:
    """Return the order in which frames, given as (time, name, level), leave a busy link."""
    order = []
    now_ns = 0
    waiting = sorted(arrivals)
    while waiting or len(port):
        while waiting and waiting[0][0] <= now_ns:
            at_ns, name, level = waiting.pop(0)
            port.enqueue(name, FRAME, level, at_ns)
        dequeued = port.next()
        if dequeued is None:
            now_ns = waiting[0][0]
            continue
        order.append(dequeued.item)
        now_ns += port.transmission_ns(FRAME)
    return order


def steady(level: int, count: int) -> list[tuple[int, str, int]]:
    """Return frames of one level that keep the link busy."""
    return [(index * FRAME_NS, f"steady {index}", level) for index in range(count)]


def test_a_waiting_packet_is_promoted_past_later_ones_of_a_higher_level() -> None:
    arrivals = [(0, "old", 2), *steady(5, 60)]
    assert served(Port(RATE, UNGUARANTEED), arrivals)[-1] == "old"
    # It rises from level 2 to level 5 in three turns and is then ahead of everything that arrives there.
    order = served(RotatingPort(RATE, UNGUARANTEED, period_ns=10 * FRAME_NS), arrivals)
    assert order.index("old") == pytest.approx(30, abs=2)


def test_the_scavenger_is_never_promoted() -> None:
    arrivals = [(0, "given up", 0), *steady(1, 100)]
    assert served(RotatingPort(RATE, UNGUARANTEED, period_ns=FRAME_NS), arrivals)[-1] == "given up"


def test_a_turn_waits_until_the_top_queue_is_empty() -> None:
    burst = [(0, f"top {index}", 7) for index in range(50)]
    port: RotatingPort[str] = RotatingPort(RATE, UNGUARANTEED, period_ns=FRAME_NS)
    order = served(port, [(0, "below", 6), *burst, (20 * FRAME_NS, "late", 7)])
    assert order[-2:] == ["late", "below"]


@settings(max_examples=100, deadline=None)
@given(arrivals=ARRIVALS, period_ns=st.sampled_from([1_000, 50_000, 3_000_000]))
def test_every_packet_leaves_once_and_the_link_never_idles_before_one(
    arrivals: list[tuple[int, int, int]], period_ns: int
) -> None:
    unlimited = [QueueConfig(limit_bytes=1 << 30)] * 8
    plain = drive(Port(RATE, unlimited), arrivals)
    turned = drive(RotatingPort(RATE, unlimited, period_ns=period_ns), arrivals)
    assert sorted(sent.length for sent in turned) == sorted(sent.length for sent in plain)
    # Work conserving: whatever the order, the link finishes at the same time, to the nanosecond per pause.
    if plain:
        assert abs(turned[-1].end_ns - plain[-1].end_ns) <= len(plain)


@pytest.mark.parametrize(("period_ns", "lowest"), [(0, 1), (-1, 1), (1, -1), (1, 7)])
def test_impossible_calendars_are_refused(period_ns: int, lowest: int) -> None:
    with pytest.raises(PortConfigError, match="cannot rotate"):
        RotatingPort(RATE, period_ns=period_ns, lowest=lowest)
