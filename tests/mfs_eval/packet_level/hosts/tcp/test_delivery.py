"""The simulated TCP over networks that lose, double and reorder, and between hosts around a switch."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfs_eval.packet_level.hosts.sender import Segment
from mfs_eval.packet_level.hosts.tcp.header import TcpAck
from mfs_eval.packet_level.hosts.tcp.receiver import TcpReceiver
from mfs_eval.packet_level.hosts.tcp.sender import TcpSender
from mfs_eval.packet_level.hosts.transport import TransportCounters, TransportError
from mfs_eval.setup.run_settings import TcpSettings

MS = 1_000_000


class Wire:
    """One direction of a network with random loss, doubling and delay."""

    def __init__(self, dice: random.Random, loss: float, double: float, jitter_ns: int) -> None:
        self.dice, self.loss, self.double, self.jitter_ns = dice, loss, double, jitter_ns
        self.heap: list[tuple[int, int, object]] = []
        self.count = 0

    def send(self, item: object, now_ns: int) -> None:
        copies = 0 if self.dice.random() < self.loss else 2 if self.dice.random() < self.double else 1
        for _ in range(copies):
            self.count += 1
            heapq.heappush(self.heap, (now_ns + MS + self.dice.randint(0, self.jitter_ns), self.count, item))

    def arrived(self, now_ns: int) -> list[object]:
        items = []
        while self.heap and self.heap[0][0] <= now_ns:
            items.append(heapq.heappop(self.heap)[2])
        return items


@settings(max_examples=200)
@given(
    messages=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    window=st.integers(1, 40),
    loss=st.sampled_from([0.0, 0.02, 0.3]),
    double=st.sampled_from([0.0, 0.2]),
    jitter_ns=st.sampled_from([0, MS // 50, 3 * MS, 300 * MS]),
    timestamps=st.booleans(),
    hold=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_everything_is_delivered_once_whatever_the_network_does(
    messages: list[int],
    window: int,
    loss: float,
    double: float,
    jitter_ns: int,
    timestamps: bool,
    hold: float,
    seed: int,
) -> None:
    dice = random.Random(seed)
    chosen = TcpSettings(receive_window_bytes=16 * window, timestamps=timestamps)
    sender = TcpSender(chosen, segment_bytes=16)
    receiver = TcpReceiver(9, chosen)
    there, back = Wire(dice, loss, double, jitter_ns), Wire(dice, loss, double, jitter_ns)
    host_queue: list[tuple[Segment, int]] = []
    received: dict[int, int] = {}
    now_ns = written = 0
    for _ in range(200_000):
        if written < len(messages) and dice.random() < 0.3:
            sender.write(messages[written])
            written += 1
        if written == len(messages):
            sender.close()
        while sender.queued < 2 and (segment := sender.next_segment(now_ns, 0)) is not None:
            host_queue.append((segment, sender.stamp(now_ns)))
        assert sender.in_flight_bytes <= 16 * window
        while host_queue and dice.random() >= hold:
            entry = host_queue.pop(0)
            sender.left(entry[0].sequence)
            there.send(entry, now_ns)
        for item in there.arrived(now_ns):
            assert isinstance(item, tuple)
            segment, stamp = item
            if receiver.on_segment(segment.sequence, segment.flags, stamp, now_ns):
                assert segment.offset not in received
                received[segment.offset] = segment.length
                assert receiver.complete == (sender._fin_sent and sum(received.values()) == sum(messages))
            if receiver.ack_due:
                back.send(receiver.ack(), now_ns)
        if receiver.ack_by_ns is not None and receiver.ack_by_ns <= now_ns:
            back.send(receiver.ack(), now_ns)
        for ack in back.arrived(now_ns):
            assert isinstance(ack, TcpAck)
            sender.on_ack(ack, now_ns)
            consistent(sender)
        if sender.done:
            break
        times = [wire.heap[0][0] for wire in (there, back) if wire.heap]
        times += [time for time in (sender.next_timeout_ns, receiver.ack_by_ns) if time is not None]
        if host_queue or written < len(messages) or sender.can_send(0):
            times.append(now_ns + MS)
        assert times, "nothing in flight, no timer: the flow would never end"
        now_ns = max(now_ns + 1, min(times))
        sender.on_timeout(now_ns)
        consistent(sender)
    assert sender.done
    assert receiver.complete
    position = 0
    for offset, length in sorted(received.items()):
        assert offset == position
        position += length
    assert position == sum(messages)
    if not loss and jitter_ns < MS and not double and not hold:
        assert sender.counters == TransportCounters()


def consistent(sender: TcpSender) -> None:
    sent = sender._board.unacked.values()
    assert sender._board.sacked == sum(s.sacked for s in sent)
    assert sender._board.lost == sum(s.lost for s in sent)
    assert sender._board.repeating == sum(s.repeating for s in sent)
    assert not any(s.sacked and (s.lost or s.repeating) for s in sent)
    assert sender.connection.cubic.cwnd >= 1


def test_a_segment_may_hold_two_messages_and_starts_one_only_when_new() -> None:
    sender = TcpSender(TcpSettings(), segment_bytes=100)
    sender.write(150)
    sender.write(100)
    sender.close()
    made = [sender.next_segment(0, 0) for _ in range(3)]
    assert [(s.offset, s.length, s.starts_message) for s in made if s] == [
        (0, 100, True), (100, 100, True), (200, 50, False),
    ]  # fmt: skip
    assert [bool(s.flags & 2) for s in made if s] == [False, False, True]
    assert sender.next_segment(0, 0) is None


def test_invalid_calls_are_refused() -> None:
    sender = TcpSender(TcpSettings())
    with pytest.raises(TransportError, match="at least 1 byte"):
        sender.write(0)
    sender.close()
    with pytest.raises(TransportError, match="closed"):
        sender.write(1)
    with pytest.raises(ValueError, match="must be positive"):
        TcpSettings(rto_min_ns=0)
