"""Stamps in a TCP option on the egress hook, packet by packet (BPF_PROG_TEST_RUN). Needs root and eBPF."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from host_agent.ebpf.bpf import Programs
from host_agent.ebpf.flows import FlowTable, monotonic_after
from host_agent.ebpf.layout import CLASS_MAJOR, Config
from host_agent.ebpf.object import load
from host_agent.protocol.flow_request import FiveTuple, FlowRequest, Match
from host_agent.protocol.level import bias_code
from host_agent.protocol.scapy_layer import MFS, mfs_option, option_stamp
from host_agent.protocol.stamp import (
    STAMP_BYTES,
    TCP_OPTION_BYTES,
    TCP_OPTION_HEAD,
    Flags,
    Stage,
    StampError,
    from_tcp_option,
)
from mfs_ctrl import policies
from tests.support.ebpf import loaded
from tests.support.segments import LEADS, PAYLOAD, SACK_BLOCK, TIME_STAMP, option_of, segment, sum_is_right, tcp_options
from topologies.topology import tor

TOPOLOGY = tor(2, 1)
ROOM = b"\x01" * TCP_OPTION_BYTES
"""What TCP puts where a socket made room for the option."""
BLANK = TCP_OPTION_HEAD + bytes(STAMP_BYTES)
CONTEXT_BYTES, PRIORITY_OFFSET = 192, 32
FAMILIES = (4, 6)


class Sender:
    """The programs of a host whose stamps travel in the option."""

    def __init__(self) -> None:
        self.programs = Programs.load(load())
        self.table = FlowTable(self.programs.maps, Config(0, 1514, CLASS_MAJOR, share=True, option=True))
        self.table.set_policy(policies.mfs().rules, bias_code(100e9))

    def open(self, family: int = 4, protocol: str = "tcp") -> int:
        host = TOPOLOGY.hosts[1]
        ends = ("10.9.9.9", str(host.ipv4)) if family == 4 else ("fd00::9", str(host.ipv6))
        match = Match(addresses=FiveTuple(protocol, ends[0], 1000, ends[1], 2000))
        return self.table.open(FlowRequest(match, 9, Stage.P2D, monotonic_after(1_000_000), 100_000, 4, number=3))

    def send(self, frame: bytes) -> tuple[bytes, int]:
        """What leaves, and its class."""
        _, out, context = self.programs.egress.run(frame, bytes(CONTEXT_BYTES))
        return out, struct.unpack_from("<I", context, PRIORITY_OFFSET)[0]


@pytest.fixture
def sender() -> Iterator[Sender]:
    with loaded(Sender) as sender:
        yield sender


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", LEADS)
@pytest.mark.parametrize("room", [ROOM, BLANK])
def test_the_stamp_is_written_into_the_room_and_the_checksum_is_mended(
    sender: Sender, family: int, place: str, room: bytes
) -> None:
    sender.open(family)
    packet = segment(TOPOLOGY, 1, None, family, LEADS[place] + room)
    out, priority = sender.send(bytes(packet))
    left = type(packet)(out)
    stamp = option_of(left)
    assert (stamp.stage, stamp.batch, stamp.flow, stamp.target_layer, stamp.next_type) == (Stage.P2D, 9, 3, 4, 0)
    assert stamp.flags == Flags.FIRST | Flags.BOUNDARY
    assert stamp.remaining == -(-100_000 // 256)
    assert sum_is_right(left)
    assert tcp_options(left)[: len(LEADS[place])] == LEADS[place]
    assert bytes(left.payload.payload)[-len(PAYLOAD) :] == PAYLOAD
    assert len(out) == len(packet)
    assert priority >> 16 == CLASS_MAJOR
    assert sender.table.counters().stamped == 1


@pytest.mark.parametrize(
    ("options", "counter"),
    [
        (b"", "unready"),
        (TIME_STAMP, "unready"),
        (ROOM[1:] + b"\x00", "no_room"),
        (TIME_STAMP + BLANK[:-1] + b"\x01", "no_room"),
        (TIME_STAMP + BLANK[:4] + b"\x13" + BLANK[5:], "no_room"),
        (TIME_STAMP + SACK_BLOCK, "no_room"),
        (TIME_STAMP + b"\xfe" + ROOM[1:], "no_room"),
        (TIME_STAMP + ROOM[1:] + b"\xfe", "no_room"),
    ],
)
def test_without_room_the_packet_is_ordered_but_not_changed(sender: Sender, options: bytes, counter: str) -> None:
    flow = sender.open()
    frame = bytes(segment(TOPOLOGY, 1, None, 4, options))
    out, priority = sender.send(frame)
    assert out == frame
    assert priority >> 16 == CLASS_MAJOR
    found = sender.table.counters()
    assert (found.stamped, getattr(found, counter)) == (0, 1)
    [report] = sender.table.report()
    assert (report.flow, report.state.unstamped, report.state.sent_bytes) == (flow, 1, len(PAYLOAD))


def test_the_room_of_others_is_left_alone(sender: Sender) -> None:
    frame = bytes(segment(TOPOLOGY, 1, None, 4, TIME_STAMP + ROOM))
    assert sender.send(frame)[0] == frame
    flow = sender.open()
    sender.table.close(flow)
    assert sender.send(frame)[0] == frame
    assert sender.table.counters().stamped == 0


def test_the_scapy_layer_the_program_and_the_codec_agree(sender: Sender) -> None:
    sender.open()
    out, _ = sender.send(bytes(segment(TOPOLOGY, 1, None, 4, TIME_STAMP + ROOM)))
    left = type(segment(TOPOLOGY, 1, None))(out)
    read = option_stamp(left)
    assert read is not None
    stamp = option_of(left)
    assert (read.stage, read.batch, read.flow, read.slack) == (stamp.stage, stamp.batch, stamp.flow, stamp.slack_us)
    made = mfs_option(MFS(bytes(replace(stamp, next_type=5).pack())))
    assert bytes([made[0], 2 + len(made[1])]) + made[1] == tcp_options(left)[len(TIME_STAMP) :]
    assert option_stamp(segment(TOPOLOGY, 1, None, 4, TIME_STAMP)) is None


def test_the_layout_has_one_home() -> None:
    root = Path(__file__).parents[2]
    constants = (root / "p4src" / "shared" / "constants.p4").read_text("utf-8")
    assert f"TCP_OPTION_MFS = 0x{TCP_OPTION_HEAD.hex().upper()};" in constants
    dissector = (root / "host_agent" / "wireshark" / "mfs.lua").read_text("utf-8")
    assert f"TCP_OPTION_KIND, TCP_OPTION_EXPERIMENT = {TCP_OPTION_HEAD[0]}, 0x{TCP_OPTION_HEAD[2:].hex()}" in dissector


@pytest.mark.parametrize("data", [b"", ROOM, b"\xfe" + BLANK[1:], BLANK, BLANK[:4] + b"\x19" + BLANK[5:], BLANK[:27]])
def test_an_option_that_carries_no_stamp_is_refused(data: bytes) -> None:
    with pytest.raises(StampError):
        from_tcp_option(data)
