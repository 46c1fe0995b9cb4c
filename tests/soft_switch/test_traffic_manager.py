"""The traffic manager: constant bit rate, strict priority, guaranteed shares, byte limits, counts, conservation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_agent.protocol.level import GUARANTEED_SHARE
from soft_switch.queues.traffic_manager import QUEUES, LinkTimer, Port, PortConfigError, QueueConfig, wire_bytes

MTU = 1538
LENGTHS = st.integers(1, MTU)
RATES = st.sampled_from([1_000, 999_983, 10_000_000, 1_000_000_007, 100_000_000_000])


@dataclass(frozen=True)
class Sent:
    start_ns: int
    end_ns: int
    length: int
    queue: int
    busy: tuple[bool, ...]  # which queues were not empty when it was chosen


def drive(port: Port[int], arrivals: list[tuple[int, int, int]]) -> list[Sent]:
    """Enqueue (gap in ns, length, priority) and dequeue packets as fast as the link allows."""
    sent = []
    now_ns = free_ns = 0
    pending = list(reversed(arrivals))
    next_ns = pending[-1][0] if pending else 0
    while pending or len(port):
        now_ns = max(free_ns, now_ns) if len(port) else max(free_ns, next_ns)
        while pending and next_ns <= now_ns:
            _, length, priority = pending.pop()
            port.enqueue(len(pending), length, priority, next_ns)
            next_ns += pending[-1][0] if pending else 0
        busy = tuple(size > 0 for size in port.occupancy())
        dequeued = port.next()
        if dequeued is None:
            continue
        length = lengths_of(arrivals)[dequeued.item]
        free_ns = now_ns + port.transmission_ns(length)
        sent.append(Sent(now_ns, free_ns, length, dequeued.queue, busy))
        now_ns = free_ns
        if not len(port) and next_ns > free_ns:
            assert port.next() is None  # the link is free and pauses
    return sent


def lengths_of(arrivals: list[tuple[int, int, int]]) -> list[int]:
    return [length for _, length, _ in reversed(arrivals)]


ARRIVALS = st.lists(st.tuples(st.integers(0, 3_000_000), LENGTHS, st.integers(0, 7)), max_size=80)


@given(RATES, ARRIVALS)
def test_the_link_never_exceeds_its_rate_and_never_idles_while_packets_wait(
    rate: int, arrivals: list[tuple[int, int, int]]
) -> None:
    sent = drive(Port(rate), arrivals)
    begin = 0
    for index, packet in enumerate(sent):
        if index and packet.start_ns > sent[index - 1].end_ns:
            # A pause: nothing waited when the link became free.
            assert sum(packet.busy) >= 1
            begin = index
        bits = 8 * sum(wire_bytes(p.length) for p in sent[begin : index + 1])
        elapsed_ns = packet.end_ns - sent[begin].start_ns
        assert bits * 1_000_000_000 <= rate * elapsed_ns
        assert bits * 1_000_000_000 > rate * (elapsed_ns - 1), "a saturated port is not idle"


@given(RATES, st.lists(LENGTHS, min_size=1, max_size=300))
def test_link_time_is_the_time_of_all_bits_rounded_up_once(rate: int, lengths: list[int]) -> None:
    timer = LinkTimer(rate)
    bits = 8 * sum(map(wire_bytes, lengths))
    assert sum(map(timer.transmission_ns, lengths)) == -(-bits * 1_000_000_000 // rate)


def test_wire_bytes_count_padding_fcs_preamble_and_gap() -> None:
    assert [wire_bytes(length) for length in (1, 60, 61, 1514)] == [84, 84, 85, 1538]


@given(ARRIVALS)
def test_priority_is_strict_without_shares(arrivals: list[tuple[int, int, int]]) -> None:
    port: Port[int] = Port(10_000_000, [QueueConfig(0, 1 << 20)] * QUEUES)
    for packet in drive(port, arrivals):
        assert packet.queue == max(queue for queue in range(QUEUES) if packet.busy[queue])


SHARES = st.lists(st.integers(0, 16), min_size=QUEUES, max_size=QUEUES).filter(lambda parts: sum(parts) <= 128)


@settings(max_examples=60)
@given(SHARES, st.lists(st.tuples(LENGTHS, st.integers(0, 7)), min_size=20, max_size=400))
def test_a_backlogged_queue_gets_its_share_and_lower_queues_no_more_than_theirs(
    parts: list[int], packets: list[tuple[int, int]]
) -> None:
    shares = [Fraction(part, 128) for part in parts]
    port: Port[int] = Port(10**9, [QueueConfig(share, 1 << 30) for share in shares])
    sent = drive(port, [(0, length, priority) for length, priority in packets])
    total = 0
    largest = wire_bytes(MTU)
    by_queue = [0] * QUEUES
    overtaking = [0] * QUEUES  # bytes that a queue sent while a higher one waited
    for packet in sent:
        size = wire_bytes(packet.length)
        for queue in range(QUEUES):
            if packet.busy[queue]:
                # All queues are filled at the start, so each is backlogged until its last packet.
                lag = shares[queue] * total - by_queue[queue]
                assert lag <= largest + shares[queue] * QUEUES * largest
        total += size
        by_queue[packet.queue] += size
        if any(packet.busy[packet.queue + 1 :]):
            overtaking[packet.queue] += size
            # It overtakes only within its share.
            assert overtaking[packet.queue] <= shares[packet.queue] * total + size
    assert total == sum(wire_bytes(length) for length, _ in packets)


@given(st.lists(st.integers(0, 5_000), min_size=QUEUES, max_size=QUEUES), ARRIVALS)
def test_limits_hold_and_every_loss_is_counted(limits: list[int], arrivals: list[tuple[int, int, int]]) -> None:
    port: Port[int] = Port(10_000_000, [QueueConfig(limit_bytes=limit) for limit in limits])
    taken = dict.fromkeys(range(QUEUES), 0)
    for index, (gap, length, priority) in enumerate(arrivals):
        room = port.occupancy()[priority] + length <= limits[priority]
        assert port.enqueue(index, length, priority, index) is room
        assert all(size <= limit for size, limit in zip(port.occupancy(), limits, strict=True))
        if gap % 2:
            dequeued = port.next()
            if dequeued is not None:
                taken[dequeued.queue] += arrivals[dequeued.item][1]
    for queue, counters in enumerate(port.counters):
        offered = [length for _, length, priority in arrivals if priority == queue]
        assert counters.enqueued_bytes + counters.dropped_bytes == sum(offered)
        assert counters.enqueued_packets + counters.dropped_packets == len(offered)
        assert counters.dequeued_bytes == taken[queue]
        assert counters.enqueued_bytes - counters.dequeued_bytes == port.occupancy()[queue]
    assert len(port) == sum(c.enqueued_packets - c.dequeued_packets for c in port.counters)


def test_depths_are_those_before_enqueueing_and_after_dequeueing() -> None:
    port: Port[str] = Port(10**9)
    for name in "abc":
        port.enqueue(name, 100, 5, 7)
    assert [tuple(port.next() or ()) for _ in range(3)] == [("a", 5, 7, 0, 2), ("b", 5, 7, 1, 1), ("c", 5, 7, 2, 0)]
    assert port.next() is None


def test_an_unused_share_is_not_saved() -> None:
    """A queue that was empty while others sent does not overtake when it has packets again."""
    port: Port[str] = Port(10**9, [QueueConfig(limit_bytes=10**7)] * QUEUES)
    turn = GUARANTEED_SHARE.denominator
    for _ in range(4 * turn):
        port.enqueue("high", 1000, 7, 0)
    for _ in range(2 * turn):
        port.next()
    port.enqueue("low", 1000, 0, 0)
    order = [dequeued.item for _ in range(2 * turn) if (dequeued := port.next()) is not None]
    assert turn - 4 <= order.index("low") <= turn + 1


@pytest.mark.parametrize(
    ("rate", "queues", "words"),
    [
        (0, None, "rate of 0"),
        (1, [QueueConfig()] * 7, "8 queues"),
        (1, [QueueConfig(limit_bytes=-1)] * 8, "limits"),
        (1, [QueueConfig(0.2)] * 8, "at most 1"),
        (1, [QueueConfig(-0.1)] * 8, "0 or more"),
    ],
)
def test_invalid_ports_are_refused(rate: int, queues: list[QueueConfig] | None, words: str) -> None:
    with pytest.raises(PortConfigError, match=words):
        Port(rate, queues)
