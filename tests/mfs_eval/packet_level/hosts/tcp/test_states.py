"""What sender and receiver do in the situations that levels create: probes, reordering, stale segments, undo."""

from __future__ import annotations

from mfs_eval.packet_level.hosts.segment_header import ACK
from mfs_eval.packet_level.hosts.sender import Segment
from mfs_eval.packet_level.hosts.tcp.header import NO_DUPLICATE, TcpAck
from mfs_eval.packet_level.hosts.tcp.receiver import TcpReceiver
from mfs_eval.packet_level.hosts.tcp.sender import State, TcpSender
from mfs_eval.packet_level.hosts.transport import TransportCounters
from mfs_eval.setup.run_settings import TcpSettings

MS = 1_000_000
RTT = 20 * MS


def opened(segments: int, *, timestamps: bool = True, close: bool = True) -> TcpSender:
    """Return a sender that has measured a round trip with its first segment, and has ``segments`` more."""
    sender = TcpSender(TcpSettings(timestamps=timestamps, receive_window_bytes=64), segment_bytes=1)
    sender.write(1)
    assert len(fill(sender, 0)) == 1
    sender.on_ack(ack(1, echo=1), RTT)
    sender.write(segments)
    if close:
        sender.close()
    return sender


def fill(sender: TcpSender, now_ns: int, level: int = 0) -> list[Segment]:
    segments = []
    while (segment := sender.next_segment(now_ns, level)) is not None:
        sender.left(segment.sequence)
        segments.append(segment)
    return segments


def ack(cumulative: int, have: tuple[int, ...] = (), echo: int = 0, duplicate: int = NO_DUPLICATE) -> TcpAck:
    highest = max(have, default=max(cumulative - 1, 0))
    bitmap = sum(1 << highest - s for s in {*range(cumulative), *have})
    return TcpAck(ACK, 1, cumulative, highest, bitmap, echo, duplicate)


def numbers(segments: list[Segment]) -> list[int]:
    return [segment.sequence for segment in segments]


def expire(sender: TcpSender) -> int:
    due_ns = sender.next_timeout_ns
    assert due_ns is not None
    assert sender.on_timeout(due_ns)
    return due_ns


def test_a_tail_loss_is_probed_once_and_then_times_out() -> None:
    sender = opened(3)
    assert numbers(fill(sender, RTT)) == [1, 2, 3]
    probe_ns = expire(sender)
    assert probe_ns == RTT + 2 * RTT + 2 * MS
    assert numbers(fill(sender, probe_ns)) == [3]
    timeout_ns = expire(sender)
    assert timeout_ns == probe_ns + RTT + 200 * MS
    assert sender.counters == TransportCounters(retransmissions=1, timeouts=1)
    assert sender.state is State.LOSS
    assert numbers(fill(sender, timeout_ns)) == [1], "a window of one"
    assert expire(sender) == timeout_ns + 2 * (RTT + 200 * MS)


def test_a_probe_is_new_data_if_there_are_any() -> None:
    sender = opened(20)
    assert len(fill(sender, RTT)) == 10
    probe_ns = expire(sender)
    assert numbers(fill(sender, probe_ns)) == [11]
    assert sender.counters == TransportCounters()


def test_a_lone_segment_is_given_the_time_of_a_delayed_acknowledgement() -> None:
    sender = opened(1)
    fill(sender, RTT)
    assert sender.next_timeout_ns == RTT + RTT + 200 * MS, "not beyond the timeout"


def test_a_probe_that_repaired_a_loss_lowers_the_window_unless_it_arrived_twice() -> None:
    for duplicate in (NO_DUPLICATE, 3):
        sender = opened(3, close=False)
        fill(sender, RTT)
        probe_ns = expire(sender)
        assert numbers(fill(sender, probe_ns)) == [3]
        before = sender.connection.cubic.cwnd
        sender.write(1)
        assert numbers(fill(sender, probe_ns)) == [4]
        sender.on_ack(ack(4, duplicate=duplicate), probe_ns + RTT)
        sender.on_ack(ack(5), probe_ns + RTT)
        assert (sender.connection.cubic.cwnd < before) == (duplicate == NO_DUPLICATE)


def test_without_reordering_three_later_segments_make_a_loss() -> None:
    sender = opened(6)
    fill(sender, RTT)
    sender.on_ack(ack(1, (2, 3)), 2 * RTT)
    assert sender.state is State.DISORDER
    assert fill(sender, 2 * RTT) == []
    sender.on_ack(ack(1, (2, 3, 4)), 2 * RTT)
    assert sender.state is State.RECOVERY
    assert numbers(fill(sender, 2 * RTT)) == [1]


def test_with_two_later_segments_a_quarter_of_the_round_trip_makes_a_loss() -> None:
    sender = opened(6)
    fill(sender, RTT)
    sender.on_ack(ack(1, (2, 3)), 2 * RTT)
    assert sender.next_timeout_ns == 2 * RTT + RTT // 4 + 2 * MS
    due_ns = expire(sender)
    assert numbers(fill(sender, due_ns)) == [1]


def test_after_reordering_time_decides_not_the_count() -> None:
    sender = opened(20)
    fill(sender, RTT)
    sender.on_ack(ack(1, (2, 3)), 2 * RTT)
    sender.on_ack(ack(4), 2 * RTT + MS)  # 1 was only late
    assert sender.connection.rack.reordering_seen
    fill(sender, 2 * RTT + MS)
    sender.on_ack(ack(4, (5, 6, 7, 8, 9)), 2 * RTT + 2 * MS)
    assert sender.state is State.DISORDER
    assert all(s.sequence > 4 for s in fill(sender, 2 * RTT + 2 * MS))
    due_ns = sender.next_timeout_ns
    assert due_ns is not None
    assert due_ns <= 2 * RTT + 2 * MS + RTT // 4 + 2 * MS
    sender.on_timeout(due_ns)
    assert fill(sender, due_ns)[0].sequence == 4


def test_a_spurious_timeout_is_undone_by_the_echo_but_not_without_time_stamps() -> None:
    for timestamps, state in ((True, State.OPEN), (False, State.LOSS)):
        sender = opened(4, timestamps=timestamps)
        cubic = sender.connection.cubic
        fill(sender, RTT)
        before = cubic.cwnd
        probe_ns = expire(sender)
        fill(sender, probe_ns)
        late_ns = expire(sender)
        assert numbers(fill(sender, late_ns)) == [1]
        assert cubic.cwnd == 1
        # The first segment's original arrives; the acknowledgement echoes its time stamp.
        sender._frto = False
        sender.on_ack(ack(2, echo=sender.stamp(RTT) if timestamps else 0), late_ns + MS)
        assert sender.state in (state, State.DISORDER if timestamps else state)
        assert (cubic.cwnd >= before) == timestamps
        assert (sender._board.lost == 0) == timestamps, "nothing counts as lost any more"


def test_frto_undoes_a_timeout_when_an_original_arrives_selectively() -> None:
    sender = opened(5, timestamps=False)
    fill(sender, RTT)
    before = sender.connection.cubic.cwnd
    probe_ns = expire(sender)
    fill(sender, probe_ns)
    late_ns = expire(sender)
    fill(sender, late_ns)
    sender.on_ack(ack(1, (3,)), late_ns + MS)
    assert sender.state is State.DISORDER
    assert sender.connection.cubic.cwnd >= before


def test_dsack_undoes_a_recovery() -> None:
    sender = opened(6, timestamps=False)
    fill(sender, RTT)
    before = sender.connection.cubic.cwnd
    sender.on_ack(ack(1, (2, 3, 4)), 2 * RTT)
    assert numbers(fill(sender, 2 * RTT)) == [1]
    sender.on_ack(ack(5), 2 * RTT + MS)
    sender.on_ack(ack(5, duplicate=1), 3 * RTT)
    assert sender.connection.cubic.cwnd >= before
    assert sender.connection.cubic.ssthresh > before


def test_what_is_still_in_the_hosts_queue_is_not_sent_again() -> None:
    sender = opened(1)
    assert sender.next_segment(RTT, 0) is not None
    timeout_ns = expire(sender)
    assert sender.next_segment(timeout_ns, 0) is None
    timeout_ns = expire(sender)
    assert sender.counters.timeouts == 1
    assert sender.next_segment(timeout_ns, 0) is None
    assert sender.next_timeout_ns == timeout_ns + 2 * (RTT + 200 * MS), "only the timeout doubles"
    sender.left(1)
    assert sender.next_segment(timeout_ns + MS, 0) is not None, "once it has left the host"


# --- the receiver ----------------------------------------------------------------------------------------------------


def test_every_second_segment_is_acknowledged_at_once_and_a_single_one_after_40_ms() -> None:
    receiver = TcpReceiver(1, TcpSettings())
    receiver.on_segment(0, 0, 1, 5 * MS)
    assert not receiver.ack_due
    assert receiver.ack_by_ns == 45 * MS
    receiver.on_segment(1, 0, 1, 6 * MS)
    assert receiver.ack_due
    assert receiver.ack() == TcpAck(ACK, 1, 2, 1, 0b11, 1, NO_DUPLICATE)
    assert (receiver.ack_due, receiver.ack_by_ns) == (False, None)
    receiver.on_segment(3, 0, 2, 7 * MS)
    assert receiver.ack_due, "a gap"
    assert receiver.ack().echo == 1, "the echo is of the last segment in order"
    receiver.on_segment(2, 0, 2, 8 * MS)
    assert receiver.ack_due, "a gap is filled"
    receiver.ack()
    receiver.on_segment(2, 0, 3, 9 * MS)
    assert receiver.ack().duplicate == 2
    assert receiver.counters == TransportCounters(duplicates=1, reordered=1)


def test_merged_segments_are_acknowledged_at_once_or_when_they_are_no_longer_held() -> None:
    receiver = TcpReceiver(1, TcpSettings(merged_segments=4, merge_ns=3_000_000))
    for sequence in range(3):
        receiver.on_segment(sequence, 0, 0, 0)
        assert not receiver.ack_due
    assert receiver.ack_by_ns == 3_000_000
    receiver.on_segment(3, 0, 0, 0)
    assert receiver.ack_due
    receiver.ack()
    receiver.on_segment(5, 0, 0, 0)
    assert receiver.ack_due, "a gap"


def stranded(timestamps: bool) -> tuple[TcpSender, TcpReceiver, int]:
    """Segments 1 to 4 wait in a low queue while the flow's timeout sends 1 again at a high level; then they arrive."""
    sender = opened(4, timestamps=timestamps)
    receiver = TcpReceiver(1, TcpSettings(timestamps=timestamps))
    receiver.on_segment(0, 0, sender.stamp(0), 0)
    receiver.ack()
    waiting = fill(sender, RTT)
    probe_ns = expire(sender)
    waiting += fill(sender, probe_ns)
    now_ns = expire(sender)
    (again,) = fill(sender, now_ns, 5)
    receiver.on_segment(again.sequence, again.flags, sender.stamp(now_ns), now_ns + MS)
    receiver.ack()  # is on its way
    for segment in waiting[:4]:
        receiver.on_segment(segment.sequence, segment.flags, sender.stamp(RTT), now_ns + 2 * MS)
    return sender, receiver, now_ns


def test_stranded_segments_are_stale_once_a_retransmission_has_overtaken_them() -> None:
    sender, receiver, now_ns = stranded(timestamps=True)
    assert receiver.counters.stale == 4
    assert not receiver.complete
    # An acknowledgement sent before echoes an old time stamp: the timeout is undone, so nothing is sent again ...
    sender._frto = False
    sender.on_ack(ack(2, echo=sender.stamp(RTT)), now_ns + 3 * MS)
    assert sender._board.lost == 0
    assert fill(sender, now_ns + 3 * MS, 5) == []
    # ... until the probe and the next timeout.
    due_ns = sender.next_timeout_ns
    assert due_ns is not None
    assert due_ns - now_ns > RTT
    assert not sender.done


def test_without_time_stamps_stranded_segments_count_when_they_arrive() -> None:
    _, receiver, _ = stranded(timestamps=False)
    assert receiver.counters.stale == 0
    assert receiver.complete
