"""The hosts' transport: reliable delivery, windows, losses versus overtaking, ECN, and the header."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import Stage
from mfs_eval.packet_level.hosts import segment_header
from mfs_eval.packet_level.hosts.agent import Agent, Flow
from mfs_eval.packet_level.hosts.receiver import Receiver
from mfs_eval.packet_level.hosts.sender import Segment, Sender
from mfs_eval.packet_level.hosts.transport import STRANDED_SHARE, TransportCounters, TransportError

RTO_NS = 1_000_000


class Path:
    """A network between a sender and a receiver that loses, duplicates and reorders at random."""

    def __init__(self, seed: int, loss: float, double: float, jitter_ns: int) -> None:
        self.random = random.Random(seed)
        self.loss, self.double, self.jitter_ns = loss, double, jitter_ns
        self.in_flight: list[tuple[int, int, object]] = []
        self.count = 0

    def send(self, item: object, now_ns: int) -> None:
        copies = 0 if self.random.random() < self.loss else 2 if self.random.random() < self.double else 1
        for _ in range(copies):
            self.count += 1
            self.in_flight.append((now_ns + 1000 + self.random.randint(0, self.jitter_ns), self.count, item))
        self.in_flight.sort(key=lambda entry: entry[:2])

    def arrived(self, now_ns: int) -> list[object]:
        items = [item for time_ns, _, item in self.in_flight if time_ns <= now_ns]
        self.in_flight = [entry for entry in self.in_flight if entry[0] > now_ns]
        return items

    @property
    def next_ns(self) -> int:
        return self.in_flight[0][0] if self.in_flight else 1 << 62


@settings(max_examples=150, deadline=None)
@given(
    messages=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    window=st.integers(1, 40),
    loss=st.sampled_from([0.0, 0.02, 0.3, 0.6]),
    double=st.sampled_from([0.0, 0.2]),
    jitter_ns=st.sampled_from([0, 20_000, 3_000_000]),
    marks=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 2**32),
)
def test_all_bytes_arrive_once_in_order_whatever_the_network_does(
    messages: list[int], window: int, loss: float, double: float, jitter_ns: int, marks: float, seed: int
) -> None:
    dice = random.Random(seed)
    data = bytes(dice.getrandbits(8) for _ in range(sum(messages)))
    sender = Sender(segment_bytes=16, window=window, rto_ns=RTO_NS)
    receiver: Receiver[bytes] = Receiver(connection=9)
    there, back = Path(seed, loss, double, jitter_ns), Path(seed + 1, loss, double, jitter_ns)
    received = b""
    level = 0
    now_ns = 0
    written = 0
    for _ in range(100_000):
        if written < len(messages) and dice.random() < 0.3:
            sender.write(messages[written])
            written += 1
            if written == len(messages) and dice.random() < 0.5:
                sender.close()
        elif written == len(messages):
            sender.close()
        if sender.at_boundary:
            level = min(7, level + dice.randint(0, 2))
        while (segment := sender.next_segment(now_ns, level)) is not None:
            assert sum(sender.in_flight[level:]) <= sender.window <= window
            there.send((segment, data[segment.offset : segment.offset + segment.length]), now_ns)
        for item in there.arrived(now_ns):
            assert isinstance(item, tuple)
            segment, payload = item
            assert isinstance(segment, Segment)
            received += b"".join(receiver.on_segment(segment.sequence, segment.flags, payload, dice.random() < marks))
            if receiver.ack_due:
                back.send(receiver.ack(), now_ns)
        for ack in back.arrived(now_ns):
            assert isinstance(ack, segment_header.Ack)
            sender.on_ack(ack)
        if sender.done:
            break
        now_ns = max(
            now_ns + 1, min(there.next_ns, back.next_ns, sender.next_timeout_ns or 1 << 62, now_ns + 1_000_000)
        )
        sender.on_timeout(now_ns)
    assert sender.done
    assert received == data
    assert receiver.complete
    if not loss and not jitter_ns:
        assert sender.counters == TransportCounters()


def fill(sender: Sender, level: int, now_ns: int = 0) -> list[Segment]:
    segments = []
    while (segment := sender.next_segment(now_ns, level)) is not None:
        segments.append(segment)
    return segments


def ack(cumulative: int, have: list[int], flags: int = 0) -> segment_header.Ack:
    highest = max(have, default=cumulative - 1)
    return segment_header.Ack(
        segment_header.ACK | flags, 1, cumulative, highest, sum(1 << highest - s for s in [*range(cumulative), *have])
    )


def test_a_message_is_cut_into_segments_and_marked_where_it_starts() -> None:
    sender = Sender(100, window=10)
    sender.write(250)
    sender.write(30)
    sender.close()
    segments = fill(sender, 0)
    assert [(s.offset, s.length, s.starts_message) for s in segments] == [
        (0, 100, True), (100, 100, False), (200, 50, False), (250, 30, True),
    ]  # fmt: skip
    assert [bool(s.flags & segment_header.FIN) for s in segments] == [False, False, False, True]


def test_acknowledgements_are_requested_every_half_window_at_the_end_and_when_the_window_closes() -> None:
    sender = Sender(1, window=4)
    sender.write(7)
    assert [s.flags & segment_header.ACK_REQUEST for s in fill(sender, 0)] == [0, 1, 0, 1]
    sender.on_ack(ack(4, []))
    assert [s.flags & segment_header.ACK_REQUEST for s in fill(sender, 0)] == [0, 1, 1]


def test_closing_after_the_last_byte_has_left_sends_an_empty_last_segment() -> None:
    sender = Sender(10)
    receiver: Receiver[int] = Receiver(1)
    sender.write(10)
    for segment in fill(sender, 0):
        receiver.on_segment(segment.sequence, segment.flags, segment.length)
    assert not receiver.complete
    sender.close()
    (end,) = fill(sender, 0)
    assert (end.length, end.flags) == (0, segment_header.FIN | segment_header.ACK_REQUEST)
    receiver.on_segment(end.sequence, end.flags, 0)
    assert receiver.complete
    sender.on_ack(receiver.ack())
    assert sender.done


def test_stranded_segments_do_not_hold_a_promoted_flow_back() -> None:
    sender = Sender(1, window=2)
    sender.write(10)
    assert len(fill(sender, 3)) == 2
    assert len(fill(sender, 5)) == 2
    assert len(fill(sender, 5)) == 0
    sender.on_ack(ack(0, [2, 3]))  # the two stranded segments are overtaken
    assert len(fill(sender, 5)) == 2
    assert sender.counters.retransmissions == 0


def test_an_overtaken_segment_is_lost_at_the_same_level_but_not_at_a_lower_one() -> None:
    low = Sender(1, window=8)
    low.write(8)
    low.next_segment(0, 1)
    fill(low, 4)
    low.on_ack(ack(0, [1, 2, 3, 4, 5, 6, 7]))
    assert fill(low, 4) == []

    same = Sender(1, window=8)
    same.write(8)
    fill(same, 4)
    same.on_ack(ack(0, [1, 2]))
    assert fill(same, 4) == []
    same.on_ack(ack(0, [1, 2, 3]))
    assert [(s.sequence, bool(s.flags & segment_header.RETRANSMISSION)) for s in fill(same, 4)] == [(0, True)]

    high = Sender(1, window=8)
    high.write(8)
    high.next_segment(0, 6)
    fill(high, 0)
    high.on_ack(ack(0, [1, 2, 3]))
    assert [s.sequence for s in fill(high, 0)] == [0]


OVERDUE_NS = RTO_NS // STRANDED_SHARE


def test_a_rescue_resends_only_what_is_overdue_at_a_lower_level() -> None:
    sender = Sender(1, window=4, rto_ns=RTO_NS)
    sender.write(4)
    sender.close()
    for sequence, (time_ns, level) in enumerate([(0, 2), (0, 6), (100, 2), (200, 3)]):
        segment = sender.next_segment(time_ns, level)
        assert segment is not None
        assert segment.sequence == sequence
    assert sender.waits_only

    sender.rescue(OVERDUE_NS - 1, 6)
    assert sender.unsent_bytes == 0
    assert not sender.at_boundary
    assert fill(sender, 6) == []

    sender.rescue(OVERDUE_NS + 100, 6)
    assert sender.unsent_bytes == 2
    assert sender.at_boundary, "the flow may rise where they start"
    again = fill(sender, 6, OVERDUE_NS + 100)
    assert [(s.sequence, s.starts_message) for s in again] == [(0, True), (2, False)]
    assert all(s.flags & segment_header.RETRANSMISSION for s in again)
    assert not sender.at_boundary
    assert sender.in_flight == (0, 0, 0, 1, 0, 0, 3, 0)
    assert sender.counters == TransportCounters(retransmissions=2)


def test_a_segment_that_arrives_before_its_rescue_is_not_resent() -> None:
    sender = Sender(1, rto_ns=RTO_NS)
    sender.write(2)
    sender.close()
    fill(sender, 1)
    sender.rescue(OVERDUE_NS, 5)
    sender.on_ack(ack(2, []))
    assert sender.done
    assert fill(sender, 5) == []
    assert sender.unsent_bytes == 0


def promoted_flow(messages: list[int]) -> Flow:
    """Return a flow that has filled its window of 4 at level 3 and whose layer then becomes due: level 5."""
    agent = Agent(1, window=4, rto_ns=RTO_NS)
    agent.set_policy([LevelRule(Stage.KV_REUSE, 5, rli=(0, 0)), LevelRule(Stage.KV_REUSE, 3)])
    flow = agent.open(FlowSpec(1, 1, Stage.KV_REUSE, 10**12, sum(messages), target_layer=3))
    for byte_count in messages:
        flow.write(byte_count)
    flow.level = agent.level(flow, 0)
    assert len(fill(flow.sender, flow.level)) == 4
    agent.advance(1, 3)
    agent.rescue(flow, OVERDUE_NS)
    return flow


def test_a_flow_that_has_sent_everything_is_rescued_at_its_new_level() -> None:
    flow = promoted_flow([4])
    assert flow.sender.unsent_bytes == 4
    again = fill(flow.sender, 5, OVERDUE_NS)
    assert [(s.sequence, s.starts_message) for s in again] == [(0, True), (1, False), (2, False), (3, False)]


def test_nothing_is_rescued_while_data_are_unsent() -> None:
    flow = promoted_flow([4, 2])
    assert flow.sender.unsent_bytes == 2
    following = fill(flow.sender, 5, OVERDUE_NS)
    assert [(s.sequence, s.flags & segment_header.RETRANSMISSION) for s in following] == [(4, 0), (5, 0)]


def test_timeouts_back_off_and_reset() -> None:
    sender = Sender(1, window=1, rto_ns=100)
    sender.write(2)
    fill(sender, 0, now_ns=0)
    assert not sender.on_timeout(99)
    assert sender.on_timeout(100)
    fill(sender, 0, now_ns=100)
    assert sender.next_timeout_ns == 300
    assert sender.on_timeout(300)
    fill(sender, 0, now_ns=300)
    assert sender.next_timeout_ns == 700
    sender.on_ack(ack(1, []))
    fill(sender, 0, now_ns=310)
    assert sender.next_timeout_ns == 410
    assert sender.counters == TransportCounters(retransmissions=2, timeouts=2)


def test_congestion_halves_the_window_once_per_window_and_it_grows_back() -> None:
    sender = Sender(1, window=8)
    sender.write(1000)
    fill(sender, 0)
    sender.on_ack(ack(2, [], segment_header.CE_ECHO))
    assert sender.window == 4
    sender.on_ack(ack(4, [], segment_header.CE_ECHO))
    assert sender.window == 4, "marks of the same window count once"
    done = 4
    while sender.window < 8:
        done += len(fill(sender, 0)) or 4
        sender.on_ack(ack(min(done, sender._next_sequence), []))
    for _ in range(5):
        sender.on_ack(ack(sender._next_sequence, []))
        fill(sender, 0)
    assert sender.window == 8
    for _ in range(5):
        sender.on_ack(ack(sender._next_sequence, [], segment_header.CE_ECHO))
        fill(sender, 0)
    assert sender.window == 1


def test_unsent_bytes_include_retransmissions() -> None:
    sender = Sender(10, window=2, rto_ns=5)
    sender.write(25)
    fill(sender, 0)
    assert sender.unsent_bytes == 5
    sender.on_timeout(5)
    assert sender.unsent_bytes == 15
    sender.on_ack(ack(2, []))
    assert sender.unsent_bytes == 5


def test_an_acknowledgement_of_segments_never_sent_is_ignored() -> None:
    sender = Sender(1)
    sender.write(5)
    fill(sender, 0)
    assert not sender.on_ack(ack(77, []))
    assert not sender.on_ack(ack(0, [50]))
    assert sum(sender.in_flight) == 4


def test_reordering_is_distinguished_from_retransmissions_and_duplicates() -> None:
    receiver: Receiver[str] = Receiver(1)
    assert receiver.on_segment(0, 0, "a") == ("a",)
    assert receiver.on_segment(2, 0, "c") == ()
    assert receiver.ack_due, "a gap is reported early"
    assert receiver.on_segment(1, 0, "b") == ("b", "c")
    assert receiver.on_segment(1, 0, "b") == ()
    receiver.on_segment(4, 0, "e")
    assert receiver.on_segment(3, segment_header.RETRANSMISSION, "d", ce=True) == ("d", "e")
    assert receiver.counters == TransportCounters(reordered=1, duplicates=1, marked=1)
    assert receiver.ack() == segment_header.Ack(segment_header.ACK | segment_header.CE_ECHO, 1, 5, 4, 0b11111)
    assert receiver.ack().flags == segment_header.ACK, "a mark is echoed once"


@pytest.mark.parametrize(("call", "words"), [("write", "closed"), ("nothing", "at least 1 byte")])
def test_invalid_calls_are_refused_with_a_reason(call: str, words: str) -> None:
    sender = Sender(1)
    if call == "write":
        sender.close()
    with pytest.raises(TransportError, match=words):
        sender.write(1 if call == "write" else 0)
    with pytest.raises(TransportError, match="positive"):
        Sender(1, window=0)


U32 = st.integers(0, 2**32 - 1)


@given(st.integers(0, 0x7F), st.integers(0, 0xFFFF), U32, U32, st.integers(0, 2**64 - 1))
def test_headers_are_unpacked_as_packed(flags: int, length: int, connection: int, number: int, bitmap: int) -> None:
    data = segment_header.DataHeader(flags, length, connection, number)
    assert segment_header.unpack(b"xx" + data.pack(), 2) == data
    acknowledgement = segment_header.Ack(flags | segment_header.ACK, connection, number, number, bitmap)
    assert segment_header.unpack(acknowledgement.pack()) == acknowledgement
    for packed in (data.pack(), acknowledgement.pack()):
        with pytest.raises(segment_header.SegmentHeaderError, match="does not fit"):
            segment_header.unpack(packed[:-1])


def test_a_rescue_that_turns_out_unnecessary_starts_no_message() -> None:
    sender = Sender(segment_bytes=16, window=4, rto_ns=RTO_NS)
    sender.write(16)
    sender.close()
    assert sender.next_segment(0, 1) is not None
    sender.rescue(RTO_NS, 7)
    assert sender.at_boundary
    assert sender.on_ack(segment_header.Ack(segment_header.ACK, 1, 1, 0, 0))
    assert sender.done
    assert not sender.at_boundary
