"""RoCEv2 of simulated hosts: ends that go back N, frames, and whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.roce import BTH
from scapy.layers.inet import IP, UDP

from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.hosts.frames import ip_udp_header
from mfs_eval.packet_level.hosts.rocev2.ends import QueuePairEnd, RdmaReceiver, RdmaSender
from mfs_eval.packet_level.hosts.rocev2.header import (
    ICRC,
    SEGMENT_BYTES,
    SEQUENCES,
    Packet,
    acknowledgement,
    ahead,
    data_headers,
    parse,
)
from mfs_eval.packet_level.hosts.segment_header import ACK_REQUEST
from mfs_eval.packet_level.hosts.transport import TransportCounters
from mfs_eval.setup.run_settings import RdmaSettings
from mfs_eval.studies import rdma
from mfs_eval.studies.rdma import BASE, VARIANTS, csv_text, markdown, read

RTO_NS = 1_000
FRONT = bytes(14)


def read_back(payload: bytes) -> Packet | None:
    return parse(FRONT + ip_udp_header(bytes(4), bytes(4), 1, len(payload), 0, 4791) + payload, len(FRONT))


@given(
    st.integers(0, SEQUENCES - 1),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_packets_are_those_of_rocev2(sequence: int, starts: bool, ends: bool, last: int | None, asks: bool) -> None:
    last = last if ends else None
    headers = data_headers(77, sequence, starts, ends, 4096, last, asks)
    packet = read_back(headers + bytes(64) + ICRC)
    assert packet is not None
    assert (packet.queue_pair, packet.sequence, packet.ack_request, packet.immediate) == (77, sequence, asks, last)
    layer = IP(ip_udp_header(bytes(4), bytes(4), 1, len(headers) + 68, 0, 4791) + headers + bytes(68))[UDP]
    assert (layer[BTH].dqpn, layer[BTH].psn, layer[BTH].ackreq) == (77, sequence, asks)
    kind = {(True, True): "ONLY", (True, False): "FIRST", (False, True): "LAST", (False, False): "MIDDLE"}
    name = layer[BTH].get_field("opcode").i2repr(layer[BTH], layer[BTH].opcode)
    assert f"RC_RDMA_WRITE_{kind[starts, ends]}" in name
    assert ("IMMEDIATE" in name) == (last is not None)


@given(st.integers(0, SEQUENCES - 1), st.booleans())
def test_acknowledgements_survive_the_wire(sequence: int, negative: bool) -> None:
    packet = read_back(acknowledgement(5, sequence, negative))
    assert packet is not None
    assert (packet.queue_pair, packet.sequence, packet.negative) == (5, sequence, negative)


@pytest.mark.parametrize("size", range(16))
def test_a_packet_that_is_too_short_is_none(size: int) -> None:
    assert read_back(bytes([0x0B]) * size) is None


def started(window: int = 4, sequence: int = 0) -> tuple[RdmaSender, RdmaReceiver, TransportCounters]:
    counters = TransportCounters()
    pair = QueuePairEnd(9)
    pair.sequence = sequence
    receiver = RdmaReceiver(9, counters)
    receiver._expected = sequence
    return RdmaSender(window, RTO_NS, counters, pair), receiver, counters


@given(
    st.lists(st.integers(1, 5 * SEGMENT_BYTES), min_size=1, max_size=8),
    st.lists(st.sampled_from(("deliver", "drop", "swap")), max_size=120),
    st.integers(1, 8),
    st.sampled_from((0, SEQUENCES - 3)),
)
def test_everything_arrives_once_and_in_order_whatever_the_network_does(
    messages: list[int], fates: list[str], window: int, first: int
) -> None:
    sender, receiver, _ = started(window, first)
    for size in messages:
        sender.write(size)
    sender.close()
    now_ns, arrived, wire, fate = 0, [], [], iter(fates)
    for _ in range(2000):
        if sender.done:
            break
        segment = sender.next_segment(now_ns, 3)
        if segment is not None:
            what = next(fate, "deliver")
            if what != "drop":
                wire.insert(max(0, len(wire) - 1) if what == "swap" else len(wire), segment)
            assert sender.in_flight <= window
        if segment is None or len(wire) > 1:
            for one in wire:
                if receiver.on_packet(one.sequence, bool(one.flags & ACK_REQUEST)):
                    arrived.append((one.offset, one.length))
            wire.clear()
            if receiver.ack_due:
                told = read_back(receiver.packed_ack())
                assert told is not None
                sender.acknowledged(told.sequence, told.negative)
            elif segment is None:
                now_ns = max(now_ns, sender.next_timeout_ns or now_ns)
                sender.on_timeout(now_ns)
    assert sender.done
    assert sender.unsent_bytes == 0
    position = 0
    for offset, length in arrived:
        assert offset == position
        position += length
    assert position == sum(messages)
    assert sender.pair.sequence == (first + len(arrived)) % SEQUENCES


def test_a_packet_that_is_overtaken_costs_the_window() -> None:
    sender, receiver, counters = started(window=4)
    sender.write(4 * SEGMENT_BYTES)
    sender.close()
    first, *rest = (sender.next_segment(0, 1) for _ in range(4))
    for segment in (*rest, first):
        assert segment is not None
        receiver.on_packet(segment.sequence, True)
    told = read_back(receiver.packed_ack())
    assert told is not None
    # What was held up has arrived in the meantime; the others were dropped.
    sender.acknowledged(told.sequence, told.negative)
    assert (counters.reordered, sender.in_flight) == (3, 3)
    sender.on_timeout(RTO_NS)
    assert sender.unsent_bytes == 3 * SEGMENT_BYTES


def test_a_receiver_asks_once_for_what_it_misses() -> None:
    _, receiver, _ = started()
    answers = []
    for sequence in (0, 2, 3, 1, 2):
        receiver.on_packet(sequence, False)
        if receiver.ack_due:
            told = read_back(receiver.packed_ack())
            assert told is not None
            answers.append((told.sequence, told.negative))
    assert answers == [(1, True)]


def test_sequence_numbers_wrap() -> None:
    assert ahead(1, SEQUENCES - 1) == 2
    assert ahead(SEQUENCES - 1, 1) == -2


def test_settings_are_checked() -> None:
    for wrong in ({"carrier": "shim"}, {"rise": "never"}, {"registration_delay_ns": -1}):
        with pytest.raises(ValueError, match="carrier"):
            RdmaSettings(**wrong)  # type: ignore[arg-type]


def test_the_study_runs_resumes_and_writes_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (BASE, "registered", "registered, rises at once", "DSCP per stage")
    monkeypatch.setattr(rdma, "VARIANTS", {name: VARIANTS[name] for name in names})
    arguments = ["--out", str(tmp_path), "--scenario", "testbed", "--requests", "5", "--seeds", "1"]
    done = CliRunner().invoke(rdma.rdma, arguments)
    assert done.exit_code == 0, done.output
    rows = read(tmp_path / "rdma.csv")
    assert [one.variant for one in rows] == list(names)
    assert csv_text(rows) == (tmp_path / "rdma.csv").read_text("utf-8")
    assert markdown(rows) == (tmp_path / "rdma.md").read_text("utf-8") == done.output
    # Nothing is lost, and what is registered is served as what is stamped.
    assert all(one.timeouts == 0 and one.packets > 500 for one in rows)
    assert rows[1].ttft_mean_s == pytest.approx(rows[0].ttft_mean_s, rel=0.2)
    monkeypatch.setattr(rdma, "measure", None)
    assert CliRunner().invoke(rdma.rdma, arguments).output == done.output
    (tmp_path / "rdma.csv").write_text("other\n", "utf-8")
    with pytest.raises(EvaluationError, match="not of `mfs study rdma`"):
        read(tmp_path / "rdma.csv")
