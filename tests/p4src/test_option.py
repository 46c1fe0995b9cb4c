"""Stamps in a TCP option: packets through the compiled artifact."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from host_agent.protocol.level import bias_code
from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import TCP_OPTION_BYTES, TCP_OPTION_HEAD, Flags, Stage, Stamp, tcp_option
from mfs_ctrl import policies
from soft_switch.tables.matches import ActionCall, Exact
from tests.support.program import UNTAGGED_LEVEL, UNTRUSTED_LEVEL, Out, Program, anything, ether
from tests.support.segments import LEADS, PAYLOAD, TIME_STAMP, option_of, segment, sum_is_right, tcp_options

pytestmark = pytest.mark.usefixtures("run_as")

NO_ROUTE, MALFORMED = 0, 1
STAMP = Stamp(
    Stage.P2D, Flags.FIRST, 0, batch=77, flow=5, target_layer=9, current_layer=2, slack_us=50_000, remaining=4096
)
FAMILIES = (4, 6)
PLACES = tuple(LEADS)


@pytest.fixture
def program() -> Program:
    program = Program()
    program.set_bias(bias_code(100e9))
    program.set_rules([anything(Stage.P2D, 6), anything(Stage.KV_REUSE, 4), anything(Stage.NONE, 7)])
    return program


def sent(program: Program, packet: Packet, queued_us: int = 0, port: int = 1) -> Out:
    """What leaves; its TCP checksum is right if that of the packet was."""
    out = program.send(packet, port=port, queued_us=queued_us)
    assert out is not None
    assert sum_is_right(out.packet)
    assert bytes(out.packet[TCP].payload) == PAYLOAD
    return out


def last_hop(program: Program, action: str, host: int = 1) -> None:
    row = (Exact(program.topology.hosts[host].port),)
    program.pipeline.tables["last_hop"].insert(row, 0, ActionCall(action, ()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_a_stamp_in_the_option_decides_the_level(program: Program, family: int, place: str) -> None:
    out = sent(program, segment(program.topology, 1, STAMP, family, LEADS[place]))
    assert (out.port, out.level) == (program.topology.hosts[1].port, 6)
    assert option_of(out.packet) == STAMP


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("slack_us", [50_000, 3, 0, -7, -(1 << 31)])
@pytest.mark.parametrize("queued_us", [0, 1, 12_345, 70_000])
def test_slack_and_layer_are_written_back_and_the_checksum_is_mended(
    program: Program, family: int, place: str, slack_us: int, queued_us: int
) -> None:
    ahead = Stamp(Stage.NONE, batch=77, current_layer=8)
    sent(program, segment(program.topology, 1, ahead, family, LEADS[place]))
    told = replace(STAMP, slack_us=slack_us)
    out = sent(program, segment(program.topology, 1, told, family, LEADS[place]), queued_us)
    assert option_of(out.packet) == replace(told, current_layer=8, slack_us=max(slack_us - queued_us, -(1 << 31)))


@settings(max_examples=200)
@given(
    stamp=st.builds(
        Stamp,
        stage=st.sampled_from(Stage),
        flags=st.integers(0, 7).map(lambda bits: Flags(bits << 5)),
        next_type=st.just(0),
        batch=st.integers(0, 2**32 - 1),
        flow=st.integers(0, 2**16 - 1),
        target_layer=st.integers(0, 255),
        current_layer=st.integers(0, 255),
        slack_us=st.integers(-(1 << 31), (1 << 31) - 1),
        remaining=st.integers(0, 2**32 - 1),
    ),
    family=st.sampled_from(FAMILIES),
    place=st.sampled_from(PLACES),
    queued_us=st.integers(0, 1 << 20),
    action=st.sampled_from(("keep_stamp", "blank_stamp", "remove_stamp")),
    port=st.sampled_from((1, 4)),
    payload=st.binary(max_size=9),
)
def test_the_checksum_stays_right_whatever_is_written(
    stamp: Stamp, family: int, place: str, queued_us: int, action: str, port: int, payload: bytes
) -> None:
    program = Program()
    last_hop(program, action)
    packet = segment(program.topology, 1, stamp, family, LEADS[place], payload)
    out = program.send(packet, port=port, queued_us=queued_us)
    assert out is not None
    assert sum_is_right(out.packet)
    assert bytes(out.packet[TCP].payload) == payload
    assert len(out.packet) == len(packet)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_damaged_segment_stays_damaged(program: Program, family: int) -> None:
    data = bytearray(bytes(segment(program.topology, 1, STAMP, family, TIME_STAMP)))
    data[-1] ^= 0x10
    out = program.send(bytes(data), queued_us=100)
    assert out is not None
    assert not sum_is_right(out.packet)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_what_differs_between_packets_of_a_flow_is_blanked_at_ports_marked_so(
    program: Program, family: int, place: str
) -> None:
    last_hop(program, "blank_stamp")
    outs = []
    for at, queued_us in enumerate((0, 700, 41)):
        flags = Flags.FIRST if not at else Flags.LAST
        told = replace(STAMP, flags=flags, slack_us=STAMP.slack_us - at, remaining=STAMP.remaining - at)
        outs.append(sent(program, segment(program.topology, 1, told, family, LEADS[place]), queued_us))
    assert {out.level for out in outs} == {6}
    blank = replace(STAMP, flags=Flags.NONE, slack_us=0, remaining=0)
    assert [option_of(out.packet) for out in outs] == [blank] * 3
    assert len({bytes(out.packet) for out in outs}) == 1, "receive offload compares all of the header"
    # What the host reads is there, also where the switch knows better than the sender.
    sent(program, segment(program.topology, 2, Stamp(Stage.NONE, batch=77, current_layer=8), family, LEADS[place]))
    told_layer = option_of(sent(program, segment(program.topology, 1, STAMP, family, LEADS[place])).packet)
    assert told_layer == replace(blank, current_layer=8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_an_option_from_an_untrusted_port_is_erased_and_does_not_count(
    program: Program, family: int, place: str
) -> None:
    out = sent(program, segment(program.topology, 0, STAMP, family, LEADS[place]), port=program.untrusted)
    assert out.level == UNTRUSTED_LEVEL
    options = tcp_options(out.packet)
    assert options == LEADS[place] + b"\x01" * TCP_OPTION_BYTES
    trusted = sent(program, segment(program.topology, 0, Stamp(batch=77), family, LEADS[place]))
    assert option_of(trusted.packet).current_layer == 0, "its progress is ignored as well"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_the_last_hop_erases_the_option_if_its_port_is_configured_so(program: Program, family: int, place: str) -> None:
    last_hop(program, "remove_stamp")
    out = sent(program, segment(program.topology, 1, STAMP, family, LEADS[place]), queued_us=55)
    assert out.level == 6
    assert tcp_options(out.packet) == LEADS[place] + b"\x01" * TCP_OPTION_BYTES


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_a_packet_with_both_carriers_is_refused_and_counted(program: Program, family: int, place: str) -> None:
    inner = segment(program.topology, 1, STAMP, family, LEADS[place])
    packet = ether() / MFS(stage=3, batch=77, next_type=inner.type) / inner.payload
    assert program.send(packet) is None
    assert program.counter("discarded", MALFORMED) == 1
    # From an untrusted port neither counts, and both are removed.
    out = sent(program, packet, port=program.untrusted)
    assert MFS not in out.packet
    assert tcp_options(out.packet) == LEADS[place] + b"\x01" * TCP_OPTION_BYTES
    # An option that is no stamp is no second stamp.
    other = segment(program.topology, 1, STAMP, family, LEADS[place], version=0)
    out = sent(program, ether() / MFS(stage=1, batch=77, next_type=inner.type) / other.payload)
    assert (out.level, out.stamp.batch) == (4, 77)


OPTION = tcp_option(STAMP)
UNTAGGED = {
    "no option": b"",
    "time stamp alone": TIME_STAMP,
    "another kind": b"\xfe" + OPTION[1:],
    "another length": OPTION[:1] + b"\x1b" + OPTION[2:-1] + b"\x01",
    "another experiment": OPTION[:2] + b"\x4d\x47" + OPTION[4:],
    "no room for it": OPTION[:2] + b"\x00\x00" + b"\x01" * 20,
    "another version": OPTION[:4] + b"\x23" + OPTION[5:],
    "another stage": OPTION[:4] + b"\x14" + OPTION[5:],
    "nothing written": OPTION[:4] + bytes(24),
    "behind one NOP": b"\x01\x01\x01\x01" + OPTION,
    "behind NOPs": b"\x01" * 12 + OPTION,
    "before the time stamp": OPTION + TIME_STAMP,
    "the time stamp not aligned": b"\x08\x0a" + TIME_STAMP[4:] + b"\x01\x01" + OPTION,
    "behind two blocks": b"\x01\x01\x05\x12" + bytes(16),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", UNTAGGED)
def test_anything_else_is_untagged_traffic(program: Program, family: int, name: str) -> None:
    packet = segment(program.topology, 1, None, family, UNTAGGED[name])
    out = sent(program, packet, queued_us=99)
    assert out.level == UNTAGGED_LEVEL
    assert tcp_options(out.packet) == UNTAGGED[name]
    assert program.counter("discarded", MALFORMED) == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_a_frame_that_ends_within_the_tcp_header_is_discarded_and_counted(
    program: Program, family: int, place: str
) -> None:
    packet = bytes(segment(program.topology, 1, STAMP, family, LEADS[place], b""))
    network = 14 + (20 if family == 4 else 40)
    for cut in range(network, len(packet)):
        assert program.send(packet[:cut]) is None, cut
    assert program.counter("discarded", MALFORMED) == len(packet) - network


def test_fragments_have_no_option(program: Program) -> None:
    packet = segment(program.topology, 1, STAMP, 4, TIME_STAMP)
    packet[IP].flags = "MF"
    packet[IP].chksum = None
    out = program.send(packet)
    assert out is not None
    assert out.level == UNTAGGED_LEVEL


def test_the_ratchet_and_the_policy_treat_both_carriers_alike() -> None:
    option_program, shim_program = Program(), Program()
    for one in (option_program, shim_program):
        one.set_bias(bias_code(100e9))
        one.set_rules(policies.mfs().rules)
    told = replace(STAMP, remaining=4096)
    for flags, slack_us, layer in ((0x80, 50_000, 0), (0, 90, 9), (0x40, 90, 9), (0x40, 50_000, 9), (0, -1, 9)):
        stamp = replace(told, flags=Flags(flags), slack_us=slack_us, current_layer=layer)
        packet = segment(option_program.topology, 1, stamp, 4, TIME_STAMP)
        shim = (
            ether()
            / MFS(replace(stamp, next_type=0x0800).pack())
            / segment(shim_program.topology, 1, None, 4, TIME_STAMP).payload
        )
        by_option, by_shim = sent(option_program, packet, 500), sent(shim_program, shim, 500)
        assert by_option.level == by_shim.level
        read = Stamp.unpack(bytes(by_shim.stamp))
        assert option_of(by_option.packet) == replace(read, next_type=0)
    for name in ("laxity", "completion", "port_level"):
        assert option_program.pipeline.counters[name].packets == shim_program.pipeline.counters[name].packets


_SHARED: list[Program] = []


@settings(max_examples=400)
@given(
    head=st.sampled_from((TCP_OPTION_HEAD, b"\x01\x01\x08\x0a", b"\x01\x01\x05\x0a", b"\xfd\x1c", b"")),
    words=st.sampled_from((5, 8, 12, 13, 15, 0)),
    data=st.binary(max_size=90),
    shim=st.booleans(),
    six=st.booleans(),
)
def test_arbitrary_options_do_not_break_the_program(
    head: bytes, words: int, data: bytes, shim: bool, six: bool
) -> None:
    if not _SHARED:
        _SHARED.append(Program())
    program = _SHARED[0]
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, words << 4, 16, 5, 6, 7) + head + data
    ends = program.topology.hosts[1]
    network = IPv6(src="fd00::9", dst=str(ends.ipv6), nh=6) if six else IP(src="10.9.9.9", dst=str(ends.ipv4), proto=6)
    stamp = MFS(stage=1, next_type=0x86DD if six else 0x0800)
    packet = bytes(ether(type=0x86DD if six else 0x0800) / network / tcp)
    if shim:
        packet = packet[:12] + b"\x88\xb5" + bytes(stamp) + packet[14:]
    out = program.send(packet)
    if out is not None:
        assert len(out.packet) == len(packet)
