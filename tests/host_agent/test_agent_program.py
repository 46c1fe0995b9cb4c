"""The programs in the kernel, packet by packet (BPF_PROG_TEST_RUN). Needs root and eBPF, but no interface."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from host_agent.ebpf.bpf import Programs
from host_agent.ebpf.flows import FlowTable, monotonic_after
from host_agent.ebpf.layout import CLASS_MAJOR, Config
from host_agent.ebpf.object import load
from host_agent.protocol.errors import RequestError
from host_agent.protocol.flow_request import FiveTuple, FlowRequest, FlowUpdate, Match
from host_agent.protocol.level import LevelRule, bias_code, decide, level_key, log2_code
from host_agent.protocol.registration import QueuePair, registration
from host_agent.protocol.stamp import SCAVENGER, STAMP_BYTES, TOP_LEVEL, Flags, Stage, Stamp, units_of
from mfs_ctrl import Policy, policies
from tests.support.ebpf import loaded

BIAS = bias_code(100e9)
RULES = policies.mfs().rules
SECOND = 1_000_000
CONTEXT_BYTES = 192
REDIRECT, NEXT_FILTER = 7, 0xFFFFFFFF
PRIORITY_OFFSET = 32
UDP_FLOW = FiveTuple("udp", "10.0.0.1", 7, "10.0.0.2", 8)
TCP_FLOW = FiveTuple("tcp", "10.0.0.1", 7, "10.0.0.2", 8)


class Host:
    """The programs of one host; ``send`` returns the stamp and the level of a packet."""

    def __init__(self) -> None:
        self.programs = Programs.load(load())
        self.table = FlowTable(self.programs.maps, Config(0, 1514, CLASS_MAJOR, share=True))
        self.table.set_policy(RULES, BIAS)

    def send(self, packet: Ether) -> tuple[Stamp, int]:
        raw = bytes(packet)
        _, out, context = self.programs.egress.run(raw, bytes(CONTEXT_BYTES))
        assert out == raw[:12] + b"\x88\xb5" + out[14 : 14 + STAMP_BYTES] + raw[14:]
        (priority,) = struct.unpack_from("<I", context, PRIORITY_OFFSET)
        assert priority >> 16 == CLASS_MAJOR
        return Stamp.unpack(out[14:]), (priority & 0xFFFF) - 1

    def open(self, match: FiveTuple = UDP_FLOW, stage: Stage = Stage.P2D, slack_us: int = SECOND, **more: int) -> int:
        fields = {"batch": 9, "total_bytes": 100_000, **more}
        deadline_ns = monotonic_after(slack_us)
        return self.table.open(FlowRequest(Match(addresses=match), stage=stage, deadline_ns=deadline_ns, **fields))


@pytest.fixture
def host() -> Iterator[Host]:
    with loaded(Host) as host:
        yield host


def frame(size: int = 1000) -> Ether:
    ends = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.0.0.1", dst="10.0.0.2")
    return ends / UDP(sport=7, dport=8) / (b"x" * size)


def segment(seq: int, size: int) -> Ether:
    ends = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.0.0.1", dst="10.0.0.2")
    return ends / TCP(sport=7, dport=8, seq=seq & 0xFFFFFFFF, flags="A") / (b"x" * size)


def test_the_stamp_is_what_the_codec_reads(host: Host) -> None:
    deadline_ns = monotonic_after(SECOND)
    match = Match(addresses=UDP_FLOW)
    host.table.open(FlowRequest(match, 9, Stage.P2D, deadline_ns, 2500, 4, beyond_bytes=5000, number=3))
    stamps = []
    for _ in range(3):
        before = (deadline_ns - time.monotonic_ns()) // 1000
        stamp, _ = host.send(frame())
        assert (deadline_ns - time.monotonic_ns()) // 1000 <= stamp.slack_us <= before
        stamps.append(stamp)
    assert all((s.stage, s.next_type, s.batch, s.flow, s.target_layer) == (Stage.P2D, 0x0800, 9, 3, 4) for s in stamps)
    assert [stamp.remaining for stamp in stamps] == [units_of(7500), units_of(6500), units_of(5500)]
    assert [stamp.flags for stamp in stamps] == [Flags.FIRST | Flags.BOUNDARY, Flags.NONE, Flags.LAST]


def test_ipv6_is_stamped_too(host: Host) -> None:
    host.open(FiveTuple("udp", "fd00::1", 7, "fd00::2", 8))
    ends = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IPv6(src="fd00::1", dst="fd00::2")
    stamp, _ = host.send(ends / UDP(sport=7, dport=8) / b"x")
    assert stamp.next_type == 0x86DD


def test_retransmitted_segments_keep_their_stamp_and_count_once(host: Host) -> None:
    start = 2**32 - 1500
    host.open(TCP_FLOW, total_bytes=3000)
    first, again, rest = (host.send(segment(start + at, size))[0] for at, size in ((0, 1000), (0, 1000), (1000, 1000)))
    last, last_again = (host.send(segment(start + 2000, 1000))[0] for _ in range(2))
    assert [s.remaining for s in (first, again, rest, last)] == [units_of(left) for left in (3000, 3000, 2000, 1000)]
    assert (first.flags, again.flags) == (Flags.FIRST | Flags.BOUNDARY, Flags.NONE)
    assert last.flags == last_again.flags == Flags.LAST
    assert host.table.report()[0].state.sent_bytes == 3000


def test_packets_without_payload_have_no_stage(host: Host) -> None:
    host.open(TCP_FLOW)
    stamp, level = host.send(segment(5, 0))
    assert (stamp.stage, stamp.batch, level) == (Stage.NONE, 9, TOP_LEVEL)


@pytest.mark.parametrize(
    "chosen", [policies.mfs(), policies.static(), policies.edf([60, 100, 140]), policies.sjf([30, 60, 90])]
)
def test_the_kernel_decides_the_same_level_as_hosts_and_switch(host: Host, chosen: Policy) -> None:
    host.table.set_policy(chosen.rules, BIAS)
    seen = set()
    for stage in (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D):
        for target in (0, 1, 2, 3, 200):
            for slack_us in (-SECOND, 0, 90, 700, 20_000, 200_000, 5 * SECOND, 3600 * SECOND):
                for beyond in (0, 100_000, 10**7, 10**9, 10**13):
                    host.open(stage=stage, slack_us=slack_us, target_layer=target, beyond_bytes=beyond)
                    stamp, level = host.send(frame())
                    rli = max(0, stamp.target_layer - stamp.current_layer)
                    key = level_key(stamp.stage, rli, stamp.slack_us, stamp.remaining, BIAS)
                    assert level == decide(chosen.rules, key, 1), key
                    seen.add(level)
    assert len(seen) >= 3


def test_a_flow_rises_only_where_a_message_starts_and_falls_only_to_the_scavenger(host: Host) -> None:
    tight_level, later_level = 3, 1
    rules = [
        LevelRule(Stage.P2D, SCAVENGER, late=(1, 1)),
        LevelRule(Stage.P2D, tight_level, slack_code=(0, log2_code(SECOND))),
        LevelRule(Stage.P2D, later_level),
    ]
    host.table.set_policy(rules, BIAS)
    flow = host.open(slack_us=500_000, total_bytes=4000, message_bytes=2000)
    later, tight = [monotonic_after(us) for us in (60 * SECOND, 500_000)]
    host.table.update(flow, FlowUpdate(deadline_ns=later))
    assert host.send(frame())[1] == later_level
    host.table.update(flow, FlowUpdate(deadline_ns=tight))
    assert host.send(frame())[1] == later_level
    stamp, level = host.send(frame())
    assert (stamp.flags, level) == (Flags.BOUNDARY, tight_level)
    host.table.update(flow, FlowUpdate(deadline_ns=later))
    assert host.send(frame())[1] == tight_level
    host.table.update(flow, FlowUpdate(pruned=True))
    stamp, level = host.send(frame())
    assert stamp.slack_us <= 0
    assert level == SCAVENGER


def test_reported_and_received_progress_is_stamped_and_never_decreases(host: Host) -> None:
    host.open(stage=Stage.KV_REUSE, target_layer=9)
    assert host.send(frame())[0].current_layer == 0
    host.table.advance(9, 2)
    assert host.send(frame())[0].current_layer == 2
    for layer in (7, 3):
        told = Stamp(Stage.NONE, batch=9, current_layer=layer).pack()
        raw = bytes(frame(20))
        verdict, left, _ = host.programs.xdp_ingress.run(raw[:12] + b"\x88\xb5" + told + raw[14:], b"")
        assert (verdict, left) == (2, raw)
        assert host.send(frame())[0].current_layer == 7
    counters = host.table.counters()
    assert (counters.removed, counters.learnt) == (2, 1)


def test_the_filter_removes_the_stamp_in_two_passes(host: Host) -> None:
    raw = bytes(frame(20))
    stamped = raw[:12] + b"\x88\xb5" + Stamp(Stage.NONE, batch=9, current_layer=4).pack() + raw[14:]
    verdict, once, _ = host.programs.tc_ingress.run(stamped, bytes(CONTEXT_BYTES))
    assert verdict == REDIRECT
    assert host.table.current_layer(9) == 4
    assert host.programs.tc_ingress.run(once, bytes(CONTEXT_BYTES))[:2] == (NEXT_FILTER, raw)
    assert host.programs.tc_ingress.run(raw, bytes(CONTEXT_BYTES))[:2] == (NEXT_FILTER, raw)
    other = raw[:12] + b"\x88\xb5" + b"\x23" + stamped[15:]
    assert host.programs.tc_ingress.run(other, bytes(CONTEXT_BYTES))[:2] == (NEXT_FILTER, other)
    assert (host.table.counters().removed, host.table.counters().malformed) == (1, 1)


@pytest.mark.parametrize("family", [4, 6])
def test_the_filter_of_stamps_removes_them_in_one_pass(host: Host, family: int) -> None:
    inner = IP(src="10.0.0.2", dst="10.0.0.1") if family == 4 else IPv6(src="fd00::2", dst="fd00::1")
    raw = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / inner / UDP(sport=8, dport=7) / (b"x" * 90))
    told = Stamp(Stage.P2D, next_type=0x0800 if family == 4 else 0x86DD, batch=9, current_layer=4).pack()
    stamped = raw[:12] + b"\x88\xb5" + told + raw[14:]
    assert host.programs.tc_strip.run(stamped, bytes(CONTEXT_BYTES))[:2] == (NEXT_FILTER, raw)
    assert host.table.current_layer(9) == 4
    for other in (b"\x23" + told[1:], told[:2] + b"\x12\x34" + told[4:]):
        frame = raw[:12] + b"\x88\xb5" + other + raw[14:]
        assert host.programs.tc_strip.run(frame, bytes(CONTEXT_BYTES))[:2] == (NEXT_FILTER, frame)
    assert (host.table.counters().removed, host.table.counters().malformed) == (1, 1)


def test_a_received_registration_tells_of_progress_and_goes_no_further(host: Host) -> None:
    pair, macs = QueuePair("10.0.0.2", "10.0.0.1", 5), (bytes(6), bytes(6))
    for layer, run, drop in ((3, host.programs.xdp_ingress, 1), (4, host.programs.tc_ingress, 2)):
        told = registration(pair, Stamp(Stage.KV_REUSE, batch=9, current_layer=layer), *macs)
        verdict, left, _ = run.run(told, b"" if drop == 1 else bytes(CONTEXT_BYTES))
        assert (verdict, left) == (drop, told)
        assert host.table.current_layer(9) == layer
    # Its sender is sent no answers.
    raw = bytes(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=4791, dport=0xC000) / b"data")
    assert host.programs.egress.run(raw, bytes(CONTEXT_BYTES))[1] == raw


def test_answers_to_stamped_packets_are_stamped_with_their_batch(host: Host) -> None:
    raw = bytes(Ether() / IP(src="10.0.0.2", dst="10.0.0.1") / UDP(sport=8, dport=7) / b"data")
    told = Stamp(Stage.P2D, batch=77, flow=4, current_layer=5).pack()
    host.programs.xdp_ingress.run(raw[:12] + b"\x88\xb5" + told + raw[14:], b"")
    stamp, level = host.send(frame())
    assert (stamp.stage, stamp.batch, stamp.flow, stamp.current_layer, level) == (Stage.NONE, 77, 4, 5, TOP_LEVEL)


def test_unmatched_malformed_and_too_long_packets_are_not_changed(host: Host) -> None:
    raw = bytes(frame())
    assert host.programs.egress.run(raw, bytes(CONTEXT_BYTES))[1] == raw
    flow = host.open()
    long = bytes(frame(1472))
    assert host.programs.egress.run(long, bytes(CONTEXT_BYTES))[1] == long
    host.table.close(flow)
    assert host.programs.egress.run(raw, bytes(CONTEXT_BYTES))[1] == raw
    other = raw[:12] + b"\x88\xb5" + b"\x23" + Stamp(batch=9, current_layer=3).pack()[1:] + raw[14:]
    assert host.programs.xdp_ingress.run(other, b"")[:2] == (2, other)
    assert (host.table.counters().too_long, host.table.counters().malformed) == (1, 1)
    assert host.table.current_layer(9) == 0


def test_invalid_requests_are_refused(host: Host) -> None:
    with pytest.raises(RequestError, match="exactly one"):
        Match(cookie=1, cgroup=2)
    with pytest.raises(RequestError, match="total_bytes"):
        host.open(total_bytes=0)
    with pytest.raises(RequestError, match="no flow"):
        host.table.close(3)
    with pytest.raises(RequestError, match="layer"):
        host.table.advance(9, 256)
    with pytest.raises(RequestError, match="sctp"):
        host.open(FiveTuple("sctp", "10.0.0.1", 7, "10.0.0.2", 8))
