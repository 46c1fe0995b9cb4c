"""RoCEv2: registrations and data packets through the compiled program. All packets are made here, by no RDMA device."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from scapy.contrib.roce import BTH
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from host_agent.protocol.level import bias_code
from host_agent.protocol.registration import LIFETIME_US, QueuePair
from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import SCAVENGER, STAMP_BYTES, Flags, Stage
from mfs_ctrl import policies
from p4src.artifact import ROOT
from soft_switch.model.externs import MeterConfig
from soft_switch.tables.matches import ActionCall, Exact, Lpm
from tests.support.mfs_levels import LAST_TIGHT, REUSE_LATER, REUSE_SOON
from tests.support.program import UNTAGGED_LEVEL, Out, Program, anything, ipv4_to
from tests.support.rocev2 import (
    ACKNOWLEDGE,
    CNP,
    READ_FIRST,
    READ_MIDDLE,
    READ_REQUEST,
    SEND_ONLY,
    WRITE_FIRST,
    WRITE_LAST,
    WRITE_MIDDLE,
    WRITE_ONLY,
    flow_between,
    rack,
    registers,
    rocev2,
)

pytestmark = pytest.mark.usefixtures("run_as")

STORED, ENDED, UNKNOWN, UNTRUSTED, FOREIGN, EXCESS, COLLISION, INVALID = range(8)
UNREGISTERED, REGISTERED, BY_DSCP, STAGE_NONE = range(4)
MALFORMED = 1
_ANY = Lpm(0, 0)
BIAS = bias_code(100e9)
IDLE_GAP_US = 500
SENDER, RECEIVER, OTHER = 0, 1, 2
"""Hosts behind ports 1, 2 and 3."""


@pytest.fixture
def program() -> Program:
    return rack()


@pytest.fixture
def flow(program: Program) -> QueuePair:
    return between(program, SENDER, RECEIVER)


def between(program: Program, source: int, destination: int, queue_pair: int = 0x1234, **options: bool) -> QueuePair:
    hosts = program.topology.hosts
    return flow_between(hosts[source].ipv4, hosts[destination].ipv4, queue_pair, **options)


def port_of(program: Program, host: int) -> int:
    return program.topology.hosts[host].port


def register(program: Program, pair: QueuePair, /, now_us: int = 0, port: int = 1, **stamp: object) -> Out | None:
    return program.send(registers(pair, **stamp), port=port, now_us=now_us)  # type: ignore[arg-type]


def level_of(program: Program, flow: QueuePair, opcode: int, now_us: int = 0, port: int = 1, **fields: int) -> int:
    out = program.send(rocev2(flow, opcode, **fields), port=port, now_us=now_us)
    assert out is not None
    return out.level


def mebibytes(count: int) -> int:
    return count * 4096


# A registration, and the packets that it stands for.


@pytest.mark.parametrize("opcode", [WRITE_FIRST, WRITE_ONLY, SEND_ONLY])
def test_data_that_is_registered_is_treated_as_if_stamped(program: Program, flow: QueuePair, opcode: int) -> None:
    program.set_rules(policies.mfs().rules)
    assert level_of(program, flow, opcode) == UNTAGGED_LEVEL
    assert register(program, flow, slack_us=200, remaining=mebibytes(1)) is None  # no host wants it
    assert program.counter("registration", STORED) == 1
    assert level_of(program, flow, opcode) == LAST_TIGHT
    assert register(program, flow, slack_us=90, remaining=mebibytes(1)) is None
    assert level_of(program, flow, opcode) == 7
    assert program.counter("rdma", UNREGISTERED << 2) == 1
    assert program.counter("rdma", REGISTERED << 2 | Stage.P2D) == 2


def test_the_same_over_ipv6(program: Program) -> None:
    program.set_rules([anything(Stage.P2D, 6)])
    hosts = program.topology.hosts
    flow = flow_between(hosts[SENDER].ipv6, hosts[RECEIVER].ipv6)
    other = flow_between(hosts[SENDER].ipv6, hosts[OTHER].ipv6)
    register(program, flow, slack_us=200)
    assert level_of(program, flow, WRITE_FIRST) == 6
    assert level_of(program, other, WRITE_FIRST) == UNTAGGED_LEVEL


@pytest.mark.parametrize("version", [4, 6])
def test_nothing_that_the_receiving_nic_checks_is_changed(program: Program, version: int) -> None:
    """ICRC leaves out what a router may change: DSCP and ECN, TTL, checksums (IBTA specification, annex A17.3.3)."""
    program.set_rules([anything(Stage.P2D, 6)])
    hosts = program.topology.hosts
    ends = (hosts[SENDER].ipv4, hosts[RECEIVER].ipv4) if version == 4 else (hosts[SENDER].ipv6, hosts[RECEIVER].ipv6)
    flow = flow_between(*ends)
    program.pipeline.tables["dscp"].insert(
        (Exact(port_of(program, RECEIVER)), Exact(6)), 0, ActionCall("write_dscp", (48,))
    )
    register(program, flow, slack_us=200)
    packet = rocev2(flow, WRITE_FIRST, message=1 << 20, tos=0b000001_01)
    sent = bytes(packet)
    out = program.send(sent)
    assert out is not None
    assert (out.level, MFS in out.packet) == (6, False)
    left = bytes(out.packet)
    start = 14 + (20 if version == 4 else 40)
    assert left[start:] == sent[start:]
    layer = out.packet[IP] if version == 4 else out.packet[IPv6]
    assert (layer.tos if version == 4 else layer.tc) == 48 << 2 | 1
    assert out.packet[BTH].compute_icrc(b"") == left[-4:]


def test_the_time_to_the_deadline_runs_on_the_switchs_clock(program: Program, flow: QueuePair) -> None:
    program.set_rules(policies.mfs().rules, idle_gap_us=IDLE_GAP_US)
    started = 0xFFFFFF00  # the clock wraps meanwhile
    register(program, flow, now_us=started, slack_us=100_000, remaining=mebibytes(1))
    levels = [
        level_of(program, flow, WRITE_FIRST, now_us=started + later, size=0)
        for later in (0, 50_000, 99_900, 100_000, 100_001)
    ]
    assert levels[0] < levels[2] == 7
    assert levels[3:] == [SCAVENGER, SCAVENGER]
    assert levels == sorted(levels[:3]) + levels[3:]


def test_what_remains_is_counted_down_by_payload(program: Program, flow: QueuePair) -> None:
    register(program, flow, remaining=10, slack_us=1000)
    cell = program.pipeline.registers["registration_remaining"]
    seen = []
    for opcode, size in [(WRITE_FIRST, 1024), (WRITE_MIDDLE, 1024), (WRITE_LAST, 300), (WRITE_ONLY, 4096)]:
        level_of(program, flow, opcode, size=size)
        seen.append(max(cell.values))
    assert seen == [6, 2, 1, 0]


def test_the_length_of_a_message_counts_where_less_was_registered(program: Program, flow: QueuePair) -> None:
    register(program, flow, remaining=0, slack_us=1000)
    level_of(program, flow, WRITE_FIRST, size=1024, message=8192)
    assert max(program.pipeline.registers["registration_remaining"].values) == 8192 // 256
    level_of(program, flow, WRITE_MIDDLE, size=1024)
    assert max(program.pipeline.registers["registration_remaining"].values) == 8192 // 256 - 4


def test_the_end_of_a_flow_is_counted_as_a_completion(program: Program, flow: QueuePair) -> None:
    program.set_rules([anything(Stage.P2D, 6)])
    register(program, flow, remaining=8, slack_us=1 << 20)
    for opcode in (WRITE_FIRST, WRITE_LAST):
        level_of(program, flow, opcode, size=1024)
    assert sum(program.pipeline.counters["completion"].packets) == 1
    assert sum(program.pipeline.counters["laxity"].packets) == 2  # the registration is none


def test_progress_of_the_batch_promotes_a_registered_flow(program: Program, flow: QueuePair) -> None:
    program.set_rules(policies.mfs().rules, idle_gap_us=IDLE_GAP_US)
    reuse = {"stage": Stage.KV_REUSE, "batch": 77, "flow": 1, "target_layer": 12, "slack_us": 2**30}
    register(program, flow, current_layer=2, **reuse)
    assert level_of(program, flow, WRITE_FIRST) == REUSE_LATER
    # A stamped packet of the requester tells of layer 12.
    program.send(ipv4_to(program.topology, 0, MFS(stage=2, batch=77, current_layer=12)), port=2)
    assert level_of(program, flow, WRITE_FIRST, now_us=1000) == REUSE_SOON


def test_a_registration_tells_of_progress_itself(program: Program, flow: QueuePair) -> None:
    register(program, flow, stage=Stage.KV_REUSE, batch=5, target_layer=9, current_layer=7)
    out = program.send(ipv4_to(program.topology, 1, MFS(stage=2, batch=5, current_layer=1)))
    assert out is not None
    assert out.stamp.current_layer == 7


def test_the_reader_registers_what_is_sent_to_it(program: Program) -> None:
    """READ responses leave a NIC whose host knows nothing of them; the frame travels the other way."""
    program.set_rules([anything(Stage.KV_REUSE, 6)])
    responses = between(program, SENDER, RECEIVER)
    same_number = between(program, RECEIVER, SENDER)
    frame = registers(responses, reverse=True, stage=Stage.KV_REUSE, slack_us=1000)
    assert program.send(frame, port=port_of(program, RECEIVER)) is None
    assert program.counter("registration", STORED) == 1
    assert level_of(program, responses, READ_FIRST) == 6
    assert level_of(program, responses, READ_MIDDLE) == 6
    assert level_of(program, same_number, READ_FIRST, port=port_of(program, RECEIVER)) == UNTAGGED_LEVEL


@pytest.mark.parametrize("opcode", [ACKNOWLEDGE, CNP, READ_REQUEST])
def test_acknowledgements_notifications_and_requests_have_the_level_of_stage_0(program: Program, opcode: int) -> None:
    program.set_rules([anything(Stage.NONE, 7), anything(Stage.P2D, 3)])
    flow = between(program, RECEIVER, SENDER)
    assert level_of(program, flow, opcode, port=port_of(program, RECEIVER), size=16) == 7
    assert program.counter("rdma", STAGE_NONE << 2) == 1


# Levels change only where nothing is overtaken.


def test_a_queue_pair_rises_at_a_message_once_its_queue_has_drained(program: Program, flow: QueuePair) -> None:
    program.set_rules(policies.mfs().rules, idle_gap_us=IDLE_GAP_US)
    register(program, flow, slack_us=50_000, remaining=mebibytes(1))
    assert level_of(program, flow, WRITE_FIRST) == LAST_TIGHT
    urgent = {"flags": Flags.NONE, "slack_us": 90, "remaining": mebibytes(1)}
    register(program, flow, now_us=100, **urgent)
    assert level_of(program, flow, WRITE_FIRST, now_us=101) == LAST_TIGHT  # its queue may hold the one before
    register(program, flow, now_us=1200, **urgent)
    assert level_of(program, flow, WRITE_MIDDLE, now_us=1201) == LAST_TIGHT  # drained, but within a message
    register(program, flow, now_us=2400, **urgent)
    assert level_of(program, flow, WRITE_FIRST, now_us=2401) == 7


def test_a_queue_pair_whose_nic_places_data_out_of_order_rises_at_any_message(program: Program) -> None:
    program.set_rules(policies.mfs().rules, idle_gap_us=IDLE_GAP_US)
    flow = between(program, SENDER, RECEIVER, out_of_order=True)
    register(program, flow, slack_us=50_000, remaining=mebibytes(1))
    assert level_of(program, flow, WRITE_FIRST) == LAST_TIGHT
    register(program, flow, flags=Flags.NONE, slack_us=90, remaining=mebibytes(1))
    assert level_of(program, flow, WRITE_MIDDLE) == LAST_TIGHT
    assert level_of(program, flow, WRITE_FIRST) == 7


def test_a_queue_pair_that_is_registered_late_changes_its_level_only_when_it_has_drained(
    program: Program, flow: QueuePair
) -> None:
    """FIRST says that nothing is on its way; without it, packets at the level of untagged traffic may be."""
    program.set_rules([anything(Stage.P2D, 6)], idle_gap_us=IDLE_GAP_US)
    register(program, flow, flags=Flags.NONE, slack_us=10_000)
    assert level_of(program, flow, WRITE_FIRST, now_us=10) == UNTAGGED_LEVEL
    assert level_of(program, flow, WRITE_FIRST, now_us=20) == UNTAGGED_LEVEL
    assert level_of(program, flow, WRITE_FIRST, now_us=20 + 2 * IDLE_GAP_US) == 6
    early = between(program, SENDER, OTHER)
    register(program, early, slack_us=10_000)
    assert level_of(program, early, WRITE_MIDDLE) == UNTAGGED_LEVEL
    assert level_of(program, early, WRITE_FIRST) == 6


def test_the_next_flow_of_a_queue_pair_starts_without_its_predecessors_level(program: Program, flow: QueuePair) -> None:
    program.set_rules(policies.mfs().rules, idle_gap_us=IDLE_GAP_US)
    register(program, flow, slack_us=90, remaining=mebibytes(1))
    assert level_of(program, flow, WRITE_FIRST) == 7
    relaxed = {"slack_us": 50_000, "remaining": mebibytes(1)}
    register(program, flow, flags=Flags.NONE, **relaxed)
    assert level_of(program, flow, WRITE_FIRST, now_us=1000) == 7  # the same flow never falls
    register(program, flow, now_us=1001, flags=Flags.BOUNDARY, **relaxed)
    assert level_of(program, flow, WRITE_FIRST, now_us=1002) == 7  # not drained
    assert level_of(program, flow, WRITE_FIRST, now_us=2000) == LAST_TIGHT
    register(program, flow, now_us=2001, slack_us=90, remaining=mebibytes(1))
    assert level_of(program, flow, WRITE_FIRST, now_us=2002) == 7  # nothing was on its way: FIRST


def test_a_flow_that_is_late_falls_to_the_scavenger_at_once(program: Program, flow: QueuePair) -> None:
    program.set_rules(policies.mfs().rules, idle_gap_us=IDLE_GAP_US)
    register(program, flow, slack_us=90, remaining=mebibytes(1))
    assert level_of(program, flow, WRITE_FIRST) == 7
    assert level_of(program, flow, WRITE_MIDDLE, now_us=91) == SCAVENGER


def test_no_packet_of_a_message_overtakes_another(program: Program, flow: QueuePair) -> None:
    """Whatever is registered when: within a message a level falls to the scavenger, and else does not change."""
    program.set_rules(policies.mfs().rules, idle_gap_us=IDLE_GAP_US)
    draw, now_us = random.Random(3), 0
    for _ in range(200):
        length = draw.randrange(1, 6)
        opcodes = [WRITE_ONLY] if length == 1 else [WRITE_FIRST, *[WRITE_MIDDLE] * (length - 2), WRITE_LAST]
        levels = []
        for opcode in opcodes:
            now_us += draw.choice((1, 10, 2 * IDLE_GAP_US))
            if draw.random() < 0.5:
                flags = draw.choice((Flags.NONE, Flags.BOUNDARY, Flags.FIRST))
                register(program, flow, now_us=now_us, flags=flags, slack_us=draw.choice((-5, 90, 200, 50_000)))
            levels.append(level_of(program, flow, opcode, now_us=now_us))
        assert all(after in (before, SCAVENGER) for before, after in pairwise(levels)), levels


# Who may register, and for how long.


def test_a_registration_whose_source_is_not_of_its_port_is_refused_and_counted(
    program: Program, flow: QueuePair
) -> None:
    program.set_rules([anything(Stage.P2D, 6)])
    assert register(program, flow, port=port_of(program, OTHER)) is None
    assert program.counter("registration", FOREIGN) == 1
    assert level_of(program, flow, WRITE_FIRST) == UNTAGGED_LEVEL
    # Nor do data packets with another's address count.
    register(program, flow)
    assert level_of(program, flow, WRITE_FIRST, port=port_of(program, OTHER)) == UNTAGGED_LEVEL
    assert level_of(program, flow, WRITE_FIRST) == 6


def test_a_port_without_an_address_takes_any_source(program: Program, flow: QueuePair) -> None:
    """As a port to another switch, which has looked itself."""
    program.set_rules([anything(Stage.P2D, 6)])
    port = port_of(program, OTHER)
    program.pipeline.tables["ipv4_source"].insert((Exact(port), _ANY), 0, ActionCall("accept_source", ()))
    register(program, flow, port=port)
    assert level_of(program, flow, WRITE_FIRST, port=port) == 6


def test_a_registration_from_an_untrusted_port_goes_nowhere(program: Program) -> None:
    host = len(program.topology.hosts) - 1
    flow = between(program, host, RECEIVER)
    assert register(program, flow, port=program.untrusted) is None
    assert program.counter("registration", UNTRUSTED) == 1
    program.pipeline.tables["registration_egress"].insert(
        (Exact(port_of(program, RECEIVER)),), 0, ActionCall("pass_registration", (7,))
    )
    assert register(program, flow, port=program.untrusted) is None


def test_registrations_go_on_where_the_port_wants_them_with_the_slack_that_is_left(
    program: Program, flow: QueuePair
) -> None:
    row = (Exact(port_of(program, RECEIVER)),)
    program.pipeline.tables["registration_egress"].insert(row, 0, ActionCall("pass_registration", (7,)))
    out = program.send(registers(flow, slack_us=1000, current_layer=3, batch=4), queued_us=40)
    assert out is not None
    assert (out.port, out.level) == (port_of(program, RECEIVER), 7)
    assert (out.stamp.slack, out.stamp.reserved, out.stamp.flags) == (960, flow.queue_pair, "FIRST+REGISTER")
    assert (out.packet[UDP].dport, out.packet[BTH].dqpn) == (4791, flow.queue_pair)
    # What is refused here goes no further.
    assert register(program, flow, port=port_of(program, OTHER)) is None


def test_a_registration_ends_by_time_unless_it_is_repeated(program: Program, flow: QueuePair) -> None:
    program.set_rules([anything(Stage.P2D, 6)])
    register(program, flow, slack_us=1 << 30)
    assert level_of(program, flow, WRITE_FIRST, now_us=LIFETIME_US - 1) == 6
    register(program, flow, now_us=LIFETIME_US - 1, flags=Flags.NONE, slack_us=1 << 30)
    assert level_of(program, flow, WRITE_FIRST, now_us=2 * LIFETIME_US - 2) == 6
    assert level_of(program, flow, WRITE_FIRST, now_us=2 * LIFETIME_US - 1) == UNTAGGED_LEVEL


def test_a_flow_that_ended_is_forgotten(program: Program, flow: QueuePair) -> None:
    program.set_rules([anything(Stage.P2D, 6)])
    register(program, flow)
    register(program, flow, flags=Flags.LAST)
    assert program.counter("registration", ENDED) == 1
    assert level_of(program, flow, WRITE_FIRST) == UNTAGGED_LEVEL
    register(program, flow, flags=Flags.LAST)
    assert program.counter("registration", UNKNOWN) == 1


def test_the_lifetime_is_that_of_the_program() -> None:
    source = (ROOT / "v1model" / "registration.p4").read_text()
    found = re.search(r"REGISTRATION_LIFETIME_US = (\w+);", source)
    assert found is not None
    assert int(found[1], 0) == LIFETIME_US


def test_a_queue_pair_number_that_another_host_uses_too_is_another_flow(program: Program, flow: QueuePair) -> None:
    program.set_rules(policies.mfs().rules)
    other = between(program, OTHER, RECEIVER, flow.queue_pair)
    register(program, flow, slack_us=90, remaining=mebibytes(1))
    register(program, other, port=port_of(program, OTHER), slack_us=50_000, remaining=mebibytes(1))
    assert level_of(program, flow, WRITE_FIRST) == 7
    assert level_of(program, other, WRITE_FIRST, port=port_of(program, OTHER)) == LAST_TIGHT
    register(program, other, port=port_of(program, OTHER), flags=Flags.LAST)
    assert level_of(program, flow, WRITE_FIRST) == 7


def test_of_two_flows_with_one_cell_the_first_keeps_it_and_the_second_is_told_apart(program: Program) -> None:
    program.set_rules([anything(Stage.P2D, 6)])
    one, two = _flows_in_one_cell(rack())
    register(program, one)
    register(program, two)
    assert program.counter("registration", COLLISION) == 1
    assert level_of(program, one, WRITE_FIRST) == 6
    assert level_of(program, two, WRITE_FIRST) == UNTAGGED_LEVEL
    register(program, two, flags=Flags.LAST)  # ends nothing of the other
    assert level_of(program, one, WRITE_MIDDLE) == 6
    register(program, one, flags=Flags.LAST)
    register(program, two)
    assert (level_of(program, one, WRITE_FIRST), level_of(program, two, WRITE_FIRST)) == (UNTAGGED_LEVEL, 6)


def _flows_in_one_cell(program: Program) -> tuple[QueuePair, QueuePair]:
    """Two flows of different identity for which the program has one cell."""
    tags = program.pipeline.registers["registration_flow"]
    cells: dict[int, QueuePair] = {}
    for number in range(1, 2000):
        flow = between(program, SENDER, RECEIVER, number * 7919)
        before = list(tags.values)
        register(program, flow, now_us=number * LIFETIME_US)
        [cell] = [index for index, (old, new) in enumerate(zip(before, tags.values, strict=True)) if old != new]
        register(program, flow, now_us=number * LIFETIME_US, flags=Flags.LAST)
        if cell in cells:
            return cells[cell], flow
        cells[cell] = flow
    raise AssertionError("no two flows share a cell")


def test_a_flood_of_registrations_is_policed_by_port(program: Program, flow: QueuePair) -> None:
    program.set_rules([anything(Stage.P2D, 6)])
    register(program, flow, slack_us=1 << 20)
    program.pipeline.meters["police_registration"].configs[1] = MeterConfig(cir=10, cburst=20, pir=10, pburst=20)
    for number in range(1000):
        register(program, between(program, SENDER, RECEIVER, 0x100 + number), now_us=number)
    assert program.counter("registration", EXCESS) == 980
    assert level_of(program, flow, WRITE_FIRST) == 6
    other = between(program, OTHER, RECEIVER)
    register(program, other, port=port_of(program, OTHER))
    assert level_of(program, other, WRITE_FIRST, port=port_of(program, OTHER)) == 6


def test_a_replayed_registration_concerns_only_its_own_flow_and_ends_by_time(program: Program, flow: QueuePair) -> None:
    program.set_rules([anything(Stage.P2D, 6)])
    frame = registers(flow)
    program.send(frame)
    register(program, flow, flags=Flags.LAST)
    assert program.send(frame, port=port_of(program, OTHER)) is None  # by another host: refused
    assert program.counter("registration", FOREIGN) == 1
    assert level_of(program, flow, WRITE_FIRST) == UNTAGGED_LEVEL
    program.send(frame)  # by the host itself
    assert level_of(program, flow, WRITE_FIRST) == 6
    assert level_of(program, flow, WRITE_FIRST, now_us=LIFETIME_US) == UNTAGGED_LEVEL


def test_a_registration_without_a_stage_is_refused(program: Program, flow: QueuePair) -> None:
    """Stage 0 is the highest level of most policies, for acknowledgements; no flow may take it."""
    program.set_rules([anything(Stage.NONE, 7)])
    register(program, flow, stage=Stage.NONE)
    assert program.counter("registration", INVALID) == 1
    assert level_of(program, flow, WRITE_FIRST) == UNTAGGED_LEVEL


# Without an agent.


@pytest.mark.parametrize("version", [4, 6])
def test_without_an_agent_the_dscp_may_say_the_stage(program: Program, version: int) -> None:
    hosts = program.topology.hosts
    ends = (hosts[SENDER].ipv4, hosts[RECEIVER].ipv4) if version == 4 else (hosts[SENDER].ipv6, hosts[RECEIVER].ipv6)
    flow = flow_between(*ends)
    table = program.pipeline.tables["stage_of_dscp"]
    table.insert((Exact(26),), 0, ActionCall("set_stage", (Stage.KV_REUSE, 6)))
    assert level_of(program, flow, WRITE_MIDDLE, tos=26 << 2) == 6
    assert level_of(program, flow, WRITE_MIDDLE, tos=27 << 2) == UNTAGGED_LEVEL
    assert program.counter("rdma", BY_DSCP << 2 | Stage.KV_REUSE) == 1
    program.set_rules([anything(Stage.P2D, 3)])
    register(program, flow)
    assert level_of(program, flow, WRITE_FIRST, tos=26 << 2) == 3  # what is registered counts more


def test_on_an_untrusted_port_rdma_is_best_effort(program: Program) -> None:
    host = len(program.topology.hosts) - 1
    flow = between(program, host, RECEIVER)
    program.set_rules([anything(Stage.NONE, 7)])
    program.pipeline.tables["stage_of_dscp"].insert((Exact(26),), 0, ActionCall("set_stage", (Stage.P2D, 6)))
    for opcode in (WRITE_FIRST, ACKNOWLEDGE):
        assert level_of(program, flow, opcode, port=program.untrusted, tos=26 << 2, size=16) == 1
    assert sum(program.pipeline.counters["rdma"].packets) == 0


# Bad input.


def test_a_frame_cut_within_its_transport_header_is_discarded_and_counted(program: Program, flow: QueuePair) -> None:
    register(program, flow)
    whole = bytes(rocev2(flow, WRITE_FIRST))
    headers = 14 + 20 + 8 + 12 + 16
    for cut in range(14 + 20, headers):
        assert program.send(whole[:cut]) is None
    assert program.counter("discarded", MALFORMED) == headers - 34
    assert program.send(whole[:headers]) is not None


def test_a_datagram_to_the_port_that_is_too_short_for_rdma_is_ordinary_traffic(program: Program) -> None:
    for payload in range(16):
        packet = ipv4_to(program.topology, 1)
        packet[UDP].dport = 4791
        packet[UDP].remove_payload()
        out = program.send(packet / (b"x" * payload))
        assert out is not None
        assert out.level == UNTAGGED_LEVEL
    assert sum(program.pipeline.counters["rdma"].packets) == 0


def test_unknown_opcodes_have_the_level_of_untagged_traffic(program: Program, flow: QueuePair) -> None:
    program.set_rules([anything(Stage.NONE, 7), anything(Stage.P2D, 6)])
    register(program, flow, slack_us=1000)
    known = {*range(0x00, 0x15), 0x16, 0x17}
    for opcode in range(256):
        out = program.send(rocev2(flow, opcode, size=64))
        assert out is not None
        expected = {6, 7} if opcode == CNP or (opcode < 0x80 and opcode & 0x1F in known) else {UNTAGGED_LEVEL}
        assert out.level in expected, hex(opcode)


def test_a_stamped_packet_of_rdma_is_a_stamped_packet(program: Program, flow: QueuePair) -> None:
    program.set_rules([anything(Stage.P2D, 6), anything(Stage.COLLECTIVE, 5)])
    register(program, flow)
    packet = rocev2(flow, WRITE_FIRST)
    stamped = packet.copy()
    inner = stamped.payload
    stamped.remove_payload()
    out = program.send(stamped / MFS(stage=2, flags=0x80) / inner)
    assert out is not None
    assert out.level == 5
    assert len(bytes(out.packet)) == len(bytes(packet)) + STAMP_BYTES
