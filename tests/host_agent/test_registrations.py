"""Which registration a host sends when, and the frames' bytes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.roce import BTH
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from host_agent.daemon.registrations import RENEW_S, Registrations
from host_agent.protocol.errors import RequestError
from host_agent.protocol.flow_request import FlowRequest, FlowUpdate, Match
from host_agent.protocol.registration import LIFETIME_US, QueuePair, registration
from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import Flags, Stage, Stamp

PAIR = QueuePair("10.0.1.1", "10.0.2.1", 0x1A2B)
READ = QueuePair("10.0.2.1", "10.0.1.1", 0x77)
MACS = bytes.fromhex("020000000001"), bytes.fromhex("0200000000fe")
MS = 1_000_000
FLOW = FlowRequest(Match(rdma=PAIR), batch=7, stage=Stage.P2D, deadline_ns=100 * MS, total_bytes=1 << 20, number=5)


class Host:
    """A host with one address whose registrations are kept."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.layers: dict[int, int] = {}
        self.frames: list[tuple[QueuePair, Stamp, bool]] = []
        self.flows = Registrations(
            lambda: ("10.0.1.1", "fd00::1"),
            lambda batch: self.layers.get(batch, 0),
            lambda *frame: self.frames.append(frame),
            lambda: self.now_ns,
        )

    def last(self) -> Stamp:
        return self.frames[-1][1]


def test_a_flow_is_registered_when_it_opens_and_ended_when_it_closes() -> None:
    host = Host()
    host.layers[7] = 3
    flow = host.flows.open(replace(FLOW, target_layer=9))
    [(pair, stamp, reverse)] = host.frames
    assert (pair, reverse) == (PAIR, False)
    assert stamp == Stamp(Stage.P2D, Flags.FIRST, 0x0800, 7, 5, 9, 3, 100_000, 4096)
    host.flows.close(flow)
    assert host.last().flags == Flags.LAST
    assert host.flows.handles() == []


def test_a_reader_registers_what_is_sent_to_it() -> None:
    host = Host()
    host.flows.open(replace(FLOW, match=Match(rdma=READ)))
    assert host.frames[0][0::2] == (READ, True)


def test_a_flow_between_other_hosts_is_refused() -> None:
    other = QueuePair("10.0.3.1", "10.0.2.1", 1)
    with pytest.raises(RequestError, match=r"neither address is of this interface, which has 10\.0\.1\.1, fd00::1"):
        Host().flows.open(replace(FLOW, match=Match(rdma=other)))


def test_an_address_may_be_written_in_any_way() -> None:
    host = Host()
    host.flows.open(replace(FLOW, match=Match(rdma=QueuePair("fd00:0::0:1", "fd00::2", 1))))
    assert host.frames[0][2] is False


def test_registrations_are_repeated_with_the_slack_that_is_left() -> None:
    host = Host()
    host.flows.open(FLOW)
    host.now_ns = 30 * MS
    host.flows.renew()
    assert (host.last().slack_us, host.last().flags) == (70_000, Flags.NONE)
    assert 2 * RENEW_S * 1e6 < LIFETIME_US  # one may be lost


def test_progress_goes_once_over_each_way_of_the_batch() -> None:
    host = Host()
    for number in range(5):
        host.flows.open(replace(FLOW, match=Match(rdma=replace(PAIR, queue_pair=number)), number=number))
    host.flows.open(replace(FLOW, match=Match(rdma=READ)))
    host.flows.open(replace(FLOW, match=Match(rdma=replace(PAIR, destination="10.0.3.1"))))
    host.flows.open(replace(FLOW, match=Match(rdma=replace(PAIR, queue_pair=99)), batch=8))
    host.frames.clear()
    host.layers[7] = 4
    host.flows.advanced(7)
    ways = sorted((pair.destination, reverse) for pair, _, reverse in host.frames)
    assert ways == [("10.0.1.1", True), ("10.0.2.1", False), ("10.0.3.1", False)]
    assert {stamp.current_layer for _, stamp, _ in host.frames} == {4}


def test_a_queue_pair_of_several_flows_has_the_deadline_of_the_most_urgent_one() -> None:
    host = Host()
    first = host.flows.open(FLOW)
    urgent = host.flows.open(replace(FLOW, deadline_ns=20 * MS, number=6))
    # Packets of the other may be on their way.
    assert (host.last().flow, host.last().slack_us, host.last().flags) == (6, 20_000, Flags.BOUNDARY)
    assert host.last().remaining == 2 * 4096
    host.flows.open(replace(FLOW, deadline_ns=200 * MS, number=7))
    assert (host.last().flow, host.last().remaining, host.last().flags) == (6, 3 * 4096, Flags.BOUNDARY)
    host.flows.close(urgent)
    assert (host.last().flow, host.last().flags) == (5, Flags.BOUNDARY)
    host.flows.update(first, FlowUpdate(pruned=True))
    assert host.last().flow == 7  # pruned flows come last
    host.flows.renew()
    assert host.last().flags == Flags.NONE


def test_a_queue_pair_whose_messages_are_all_complete_has_drained() -> None:
    host = Host()
    flow = host.flows.open(FLOW)
    host.flows.submitted(flow, 1 << 19)
    host.flows.completed(flow, 1 << 19)
    assert (host.last().remaining, host.last().flags) == (2048, Flags.NONE)
    host.flows.open(replace(FLOW, deadline_ns=MS, number=6))
    assert host.last().flags == Flags.FIRST
    host.flows.submitted(flow, 1)
    host.flows.open(replace(FLOW, deadline_ns=1, number=7))
    assert host.last().flags == Flags.BOUNDARY


def test_updates_are_told_at_once() -> None:
    host = Host()
    flow = host.flows.open(FLOW)
    host.flows.update(flow, FlowUpdate(deadline_ns=5 * MS))
    assert (host.last().slack_us, host.last().flags) == (5_000, Flags.NONE)
    host.flows.update(flow, FlowUpdate(beyond_bytes=1 << 20))
    assert (host.last().remaining, host.last().flags) == (8192, Flags.BOUNDARY)
    host.flows.update(flow, FlowUpdate(pruned=True))
    assert host.last().slack_us == 0
    with pytest.raises(RequestError, match="no flow 3 is open"):
        host.flows.update(3, FlowUpdate())


def test_one_queue_pair_is_not_registered_in_two_ways() -> None:
    host = Host()
    host.flows.open(FLOW)
    with pytest.raises(RequestError, match="is open with other options"):
        host.flows.open(replace(FLOW, match=Match(rdma=replace(PAIR, out_of_order=True))))


def test_a_resumed_flow_continues() -> None:
    host = Host()
    flow = host.flows.open(FLOW)
    assert host.flows.open(replace(FLOW, deadline_ns=MS), resume=True) == flow
    assert host.last().slack_us == 1_000
    assert host.flows.open(replace(FLOW, number=6), resume=True) != flow


pairs = st.builds(
    QueuePair,
    source=st.ip_addresses(v=4).map(str),
    destination=st.ip_addresses(v=4).map(str),
    queue_pair=st.integers(0, 0xFFFFFF),
    out_of_order=st.booleans(),
    source_port=st.integers(0, 0xFFFF),
) | st.builds(
    QueuePair,
    source=st.ip_addresses(v=6).map(str),
    destination=st.ip_addresses(v=6).map(str),
    queue_pair=st.integers(0, 0xFFFFFF),
)


@given(pairs, st.booleans(), st.sampled_from((Flags.NONE, Flags.FIRST, Flags.LAST)))
def test_a_frame_takes_the_path_of_its_flow(pair: QueuePair, reverse: bool, flags: Flags) -> None:
    """Read by Scapy, which knows nothing of the encoder."""
    stamp = Stamp(Stage.P2D, flags, batch=3, flow=4, target_layer=5, current_layer=6, slack_us=-7, remaining=8)
    frame = registration(pair, stamp, *MACS, reverse=reverse)
    packet = Ether(frame)
    network = packet[IP] if IP in packet else packet[IPv6]
    ends = (pair.destination, pair.source) if reverse else (pair.source, pair.destination)
    assert [ip_address(end) for end in (network.src, network.dst)] == [ip_address(end) for end in ends]
    assert (packet[UDP].sport, packet[UDP].dport, packet[UDP].len) == (pair.source_port, 4791, 24)
    assert packet[BTH].dqpn == packet[MFS].reserved == pair.queue_pair
    shim = Stamp.unpack(frame[14:])
    assert replace(shim, flags=Flags.NONE, next_type=0, reserved=0) == replace(stamp, flags=Flags.NONE, next_type=0)
    assert (Flags.REVERSE in shim.flags, Flags.OUT_OF_ORDER in shim.flags) == (reverse, pair.out_of_order)
    assert shim.flags & ~(Flags.REVERSE | Flags.OUT_OF_ORDER) == flags | Flags.REGISTER
    if IP in packet:
        written, network.chksum = network.chksum, None
        assert IP(bytes(network)).chksum == written
        assert network.len == len(frame) - 14 - 24
    else:
        assert network.plen == len(frame) - 14 - 24 - 40


@given(pairs)
def test_a_queue_pair_survives_json(pair: QueuePair) -> None:
    assert Match.from_json(Match(rdma=pair).to_json()) == Match(rdma=pair)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "10.0.0"}, "source '10.0.0' is not an IPv4 or IPv6 address"),
        ({"source": "fd00::1"}, "one address is IPv4, the other IPv6"),
        ({"queue_pair": 1 << 24}, "queue_pair 16777216 is not an integer in 0..16777215"),
        ({"queue_pair": True}, "queue_pair True is not an integer"),
        ({"source_port": -1}, "source_port -1 is not an integer in 0..65535"),
        ({"out_of_order": 1}, "out_of_order is true or false, not 1"),
        ({"extra": 1}, "rdma takes source, destination, queue_pair, and may have out_of_order, source_port"),
    ],
)
def test_an_impossible_queue_pair_is_refused(fields: dict[str, Any], message: str) -> None:
    valid = {"source": "10.0.1.1", "destination": "10.0.2.1", "queue_pair": 1}
    with pytest.raises(RequestError) as error:
        Match.from_json({"rdma": {**valid, **fields}})
    assert message in str(error.value)
    with pytest.raises(RequestError, match="rdma takes"):
        Match.from_json({"rdma": {"source": "10.0.1.1"}})
