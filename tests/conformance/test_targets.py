"""The same packets through the embedded switch, bmv2 and the model of Tofino: what the program does with each.

Time differs between targets: what depends on it is tested against a bound, or not here.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from host_agent.protocol.level import decide, level_key, log2_code
from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import STAMP_BYTES, TCP_OPTION_BYTES, Flags, Stage, Stamp
from mfs_ctrl import policies
from mfs_ctrl.controller import Controller
from mfs_ctrl.desired import initial_biases
from tests.conformance import test_bmv2_differential as differential
from tests.support import targets
from tests.support.example import FLOWS, played
from tests.support.rack import (
    CHARGED_US_MAX,
    MALFORMED,
    NO_ROUTE,
    PARAMETERS,
    RATE_BPS,
    TOPOLOGY,
    TRUSTED,
    TTL,
    UNAWARE,
    UNTRUSTED,
    frame,
    fresh,
    level_of,
    sent,
    stamp,
    traffic_class,
)
from tests.support.segments import LEADS, TIME_STAMP, option_of, segment, sum_is_right, tcp_options
from tests.support.targets import SHORTEST_FRAME, Sent, _Started

FCS_BYTES = 4
PROTOCOL_TCP, PROTOCOL_UDP = 6, 17
ROCEV2_PORT, ROCEV2_BYTES = 4791, 36
"""Its headers from UDP to the one that says a WRITE's length."""
RANDOM_PACKETS = int(os.environ.get("MFS_RANDOM_PACKETS", "2000"))


@pytest.mark.parametrize("six", [False, True])
def test_a_packet_is_forwarded_with_one_hop_less(target: _Started, six: bool) -> None:
    out = sent(target, frame(1, six=six, hops=9))
    packet = Ether(out.frame)
    assert (out.port, packet.dst) == (TOPOLOGY.hosts[1].port, TOPOLOGY.hosts[1].mac.hex(":"))
    if six:
        assert packet[IPv6].hlim == 8
    else:
        written = packet[IP].chksum
        packet[IP].chksum = None
        assert (packet[IP].ttl, IP(bytes(packet[IP])).chksum) == (8, written)


def test_what_cannot_be_forwarded_is_discarded_and_counted(target: _Started) -> None:
    before = target.discarded()
    unknown = bytes(Ether(src="02:00:00:00:09:09", dst="02:00:00:00:00:fe") / IP(dst="192.0.2.1") / UDP() / (b"x" * 40))
    broken = bytearray(frame(1))
    broken[24] ^= 0xFF  # the checksum
    for data in (unknown, frame(1, hops=1), bytes(broken)):
        assert target.send(TRUSTED, data, leaves=False) is None
    after = target.discarded()
    assert {reason: after[reason] - before.get(reason, 0) for reason in (NO_ROUTE, MALFORMED, TTL)} == {
        NO_ROUTE: 1,
        MALFORMED: 1,
        TTL: 1,
    }


CHAINS = {
    "shim, IPv4, UDP": (frame(0, stamp()), 62),
    "shim, IPv6, UDP": (frame(0, stamp(), six=True), 82),
    "IPv4, TCP, option": (bytes(segment(TOPOLOGY, 0, Stamp(Stage.P2D, batch=5), 4, TIME_STAMP)), 94),
    "IPv6, TCP, option": (bytes(segment(TOPOLOGY, 0, Stamp(Stage.P2D, batch=5), 6)), 102),
}
"""Frames, and how long their headers are: more than the shortest frame of Ethernet."""


@pytest.mark.parametrize("chain", CHAINS)
def test_a_frame_that_ends_in_its_headers_does_not_leave(target: _Started, chain: str) -> None:
    data, headers = CHAINS[chain]
    sent(target, data[:headers])
    # On Tofino the check sequence is taken for the last bytes of a header.
    missing = range(1 + (FCS_BYTES if target.tofino else 0), 9)
    lengths = [headers - few for few in missing if headers - few >= SHORTEST_FRAME]
    assert [length for length in lengths if target.send(TRUSTED, data[:length], leaves=False) is not None] == []


def test_an_untrusted_port_loses_its_stamp_and_its_level(target: _Started) -> None:
    out = sent(target, frame(0, stamp(Stage.COLLECTIVE, slack=1)), UNTRUSTED)
    assert MFS not in Ether(out.frame)
    assert level_of(out.frame) == PARAMETERS.untrusted_level


def test_the_shim_is_removed_for_a_host_that_does_not_know_it(target: _Started) -> None:
    marked = frame(1, stamp())
    out = sent(target, marked)
    assert out.port == UNAWARE
    assert MFS not in Ether(out.frame)
    assert len(out.frame) == len(marked) - STAMP_BYTES
    kept = sent(target, frame(0, stamp(batch=77)))
    assert Ether(kept.frame)[MFS].batch == 77


@pytest.mark.parametrize("six", [False, True])
def test_the_level_is_written_and_congestion_bits_stay(target: _Started, six: bool) -> None:
    out = sent(target, frame(0, six=six, code=0b000011_01))
    assert traffic_class(out.frame) == PARAMETERS.untagged_level << 5 | 0b01


def _corners() -> list[tuple[Stage, int, int, int]]:
    """Stamps in and around the regions of a policy: stage, relative layer, slack and remaining bytes."""
    slacks = (-5, 0, 1, 300, 3_000, 30_000, 300_000, 3_000_000, 1 << 30)
    return [
        (stage, rli, slack, remaining)
        for stage in Stage
        for rli in (0, 1, 3)
        for slack in slacks
        for remaining in (1, 1_000, 1_000_000)
    ]


def test_levels_are_those_of_the_policy(target: _Started) -> None:
    policy = policies.mfs()
    bias = initial_biases(TOPOLOGY)[TRUSTED]
    wrong = []
    for stage, rli, slack, remaining in _corners():
        data = frame(0, stamp(stage, slack=slack, remaining=remaining, target_layer=rli, current_layer=0))
        key = level_key(stage, rli, slack, remaining, bias)
        wanted = decide(policy.rules, key, PARAMETERS.untagged_level)
        level = level_of(sent(target, data).frame)
        if level != wanted:
            wrong.append((stage, rli, slack, remaining, log2_code(max(slack, 1)), level, wanted))
    assert wrong == []


def test_the_example_of_the_paper_is_decided_in_the_only_order_that_is_in_time(target: _Started) -> None:
    batches = [fresh() for _ in FLOWS]
    levels, ends = played(RATE_BPS, batches[0], lambda asked: level_of(sent(target, frame(0, asked)).frame))
    assert ends == {"B": 4, "C": 7, "A": 9}
    shown = {name: [row[name] for row in levels if name in row] for name in FLOWS}
    assert shown == {"A": [5] * 5 + [6] * 4, "B": [6] * 4, "C": [1] * 4 + [7] * 3}


def test_progress_of_a_batch_is_carried_back(target: _Started) -> None:
    batch = fresh()
    sent(target, frame(0, stamp(batch=batch, current_layer=7, target_layer=9)))
    back = Ether(sent(target, frame(0, stamp(batch=batch, current_layer=2, target_layer=9))).frame)
    assert back[MFS].current_layer == 7
    other = Ether(sent(target, frame(0, stamp(batch=fresh(), current_layer=2, target_layer=9))).frame)
    assert other[MFS].current_layer == 2


def test_a_flow_rises_where_a_message_begins_and_does_not_fall(target: _Started) -> None:
    flow, batch = fresh(), fresh()

    def next_level(slack: int, flags: int = 0) -> int:
        marked = stamp(Stage.COLLECTIVE, batch=batch, flow=flow, slack=slack, remaining=1000, flags=flags)
        return level_of(sent(target, frame(0, marked)).frame)

    low = next_level(1 << 30, int(Flags.FIRST))
    assert next_level(1) == low
    high = next_level(1, int(Flags.BOUNDARY))
    assert high > low
    assert next_level(1 << 30, int(Flags.BOUNDARY)) == high


def test_flows_to_the_other_rack_are_spread_over_the_uplinks_and_each_keeps_its_path(target: _Started) -> None:
    uplinks = {uplink.port for uplink in TOPOLOGY.uplinks}
    taken: dict[int, list[int]] = {}
    for sport in range(1000, 1040):
        for _ in range(2):
            taken.setdefault(sport, []).append(sent(target, frame(-1, sport=sport)).port)
    assert all(first == second for first, second in taken.values())
    assert {ports[0] for ports in taken.values()} == uplinks


def test_the_time_in_the_switch_is_charged_to_the_slack(target: _Started) -> None:
    charged = [
        1_000_000 - int(Ether(sent(target, frame(0, stamp(slack=1_000_000))).frame)[MFS].slack) for _ in range(5)
    ]
    assert all(0 <= one <= CHARGED_US_MAX for one in charged), charged


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("place", LEADS)
def test_a_stamp_in_a_tcp_option_counts_like_one_in_the_shim(target: _Started, family: int, place: str) -> None:
    batch = fresh()
    sent(target, frame(0, stamp(batch=batch, current_layer=7, target_layer=9)))
    told = Stamp(
        Stage.COLLECTIVE, Flags.FIRST, 0, batch, flow=batch & 0xFFFF, target_layer=9, current_layer=2,
        slack_us=1_000_000, remaining=1,
    )  # fmt: skip
    out = sent(target, bytes(segment(TOPOLOGY, 0, told, family, LEADS[place])))
    packet = Ether(out.frame)
    assert sum_is_right(packet)
    bias = initial_biases(TOPOLOGY)[TRUSTED]
    key = level_key(told.stage, 2, told.slack_us, told.remaining, bias)
    assert level_of(out.frame) == decide(policies.mfs().rules, key, PARAMETERS.untagged_level)
    # Hosts get what is alike in all packets of a flow.
    assert option_of(packet) == replace(told, flags=Flags(0), current_layer=7, slack_us=0, remaining=0)


def test_an_option_from_an_untrusted_port_becomes_padding(target: _Started) -> None:
    out = sent(target, bytes(segment(TOPOLOGY, 0, Stamp(Stage.COLLECTIVE, batch=5, slack_us=1))), UNTRUSTED)
    packet = Ether(out.frame)
    assert tcp_options(packet) == bytes([1]) * TCP_OPTION_BYTES
    assert sum_is_right(packet)
    assert level_of(out.frame) == PARAMETERS.untrusted_level


def test_a_packet_with_both_carriers_is_discarded(target: _Started) -> None:
    one = bytes(segment(TOPOLOGY, 0, Stamp(Stage.P2D, batch=5)))
    shim = Stamp(Stage.P2D, next_type=0x0800, batch=5).pack()
    before = target.discarded().get(MALFORMED, 0)
    assert target.send(TRUSTED, one[:12] + b"\x88\xb5" + shim + one[14:], leaves=False) is None
    assert target.discarded()[MALFORMED] == before + 1


def test_after_a_restart_the_controller_writes_nothing(target: _Started) -> None:
    again: Controller = target.program(PARAMETERS)
    assert again.taken_over.updates == 0


def test_another_policy_takes_over_at_once(target: _Started) -> None:
    controller = target.program(PARAMETERS)
    data = frame(0, stamp(Stage.COLLECTIVE, slack=1, remaining=1000))
    before = level_of(sent(target, data).frame)
    controller.set_policy(policies.fifo())
    fifo = level_of(sent(target, frame(0, stamp(Stage.COLLECTIVE, slack=1, remaining=1000))).frame)
    controller.set_policy(policies.mfs())
    after = level_of(sent(target, frame(0, stamp(Stage.COLLECTIVE, slack=1, remaining=1000))).frame)
    assert before == after
    assert fifo != before


def test_random_packets_leave_as_they_leave_the_embedded_switch(target: _Started) -> None:
    """Left out are frames that are cut in their headers, and registrations (docs/reference/tofino.md)."""
    if target.name == targets.EMBEDDED:
        pytest.skip("it is the reference")
    arrivals = [
        (port, data)
        for port, data in differential.traffic(RANDOM_PACKETS, seed=7)
        if port in TOPOLOGY.ports and len(data) >= max(SHORTEST_FRAME, _headers(data)) and not _registers(data)
    ]
    with targets.running(targets.EMBEDDED, TOPOLOGY) as reference:
        reference.program(PARAMETERS).stop()
        target.program(PARAMETERS)
        differing = []
        for number, (port, data) in enumerate(arrivals):
            wanted = reference.send(port, data)
            found = target.send(port, data, leaves=wanted is not None)
            if _shown(wanted) != _shown(found):
                differing.append((number, port, data.hex(), _shown(wanted), _shown(found)))
    assert differing == []


def _headers(data: bytes) -> int:
    """Bytes of the headers that the program parses, as far as the frame tells."""
    stamped = data[12:14] == b"\x88\xb5"
    start = 14 + (STAMP_BYTES if stamped else 0)
    kind = data[16:18] if stamped else data[12:14]
    length, protocol = {b"\x08\x00": (20, 9), b"\x86\xdd": (40, 6)}.get(kind, (0, None))
    if protocol is None or len(data) <= start + length + 12:
        return start + length
    transport = data[start + length :]
    if data[start + protocol] == PROTOCOL_TCP:
        # Options are looked at in headers of these two lengths only.
        return start + length + 20 + {12: 28, 15: 40}.get(transport[12] >> 4, 0)
    if data[start + protocol] == PROTOCOL_UDP:
        return start + length + (ROCEV2_BYTES if transport[2:4] == ROCEV2_PORT.to_bytes(2, "big") else 4)
    return start + length


def _registers(data: bytes) -> bool:
    return data[12:14] == b"\x88\xb5" and bool(data[15] & Flags.REGISTER)


def _shown(out: Sent | None) -> tuple[int, bytes] | None:
    """The port and the frame without what time changes, and without padding; of uplinks any, as their hash differs."""
    if out is None:
        return None
    data = out.frame
    uplink = out.port in {uplink.port for uplink in TOPOLOGY.uplinks}
    if data[12:14] == b"\x88\xb5":
        data = data[: differential.SLACK.start] + bytes(4) + data[differential.SLACK.stop :]
    return (-1, data[12:].rstrip(b"\0")) if uplink else (out.port, data.rstrip(b"\0"))
