"""The MFS program: packets through the compiled artifact."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from host_agent.protocol.level import LevelRule, bias_code, decide, level_key, log2_code
from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import ETHERTYPE_MFS, SCAVENGER, SLACK_MAX_US, SLACK_MIN_US, STAMP_BYTES, Flags, Stage
from mfs_ctrl import Policy, policies
from soft_switch.model.externs import MeterConfig
from soft_switch.tables.matches import ActionCall, Exact, Group
from tests.support.mfs_levels import LAST_TIGHT, REUSE_LATER, REUSE_SOON
from tests.support.program import UNTAGGED_LEVEL, UNTRUSTED_LEVEL, Program, anything, ether, ipv4_to, ipv6_to

pytestmark = pytest.mark.usefixtures("run_as")

NO_ROUTE, MALFORMED, TTL = 0, 1, 2
BIAS = bias_code(100e9)


@pytest.fixture
def program() -> Program:
    program = Program()
    program.set_bias(BIAS)
    return program


def level_of(program: Program, now_us: int = 0, port: int = 1, **stamp: int) -> int:
    out = program.send(ipv4_to(program.topology, 1, MFS(**stamp)), port=port, now_us=now_us)
    assert out is not None
    return out.level


# Forwarding and the edge.


@pytest.mark.parametrize("make", [ipv4_to, ipv6_to])
def test_untagged_traffic_is_forwarded_at_the_configured_level(program: Program, make) -> None:  # type: ignore[no-untyped-def]
    out = program.send(make(program.topology, 2))
    assert out is not None
    assert (out.port, out.level) == (program.topology.hosts[2].port, UNTAGGED_LEVEL)
    assert bytes.fromhex(out.packet.dst.replace(":", "")) == program.topology.hosts[2].mac


def test_forwarding_decrements_the_ttl_and_updates_the_checksum(program: Program) -> None:
    out = program.send(ipv4_to(program.topology, 2, ttl=9))
    assert out is not None
    header = out.packet[IP]
    assert header.ttl == 8
    written, header.chksum = header.chksum, None
    assert IP(bytes(header)).chksum == written
    six = program.send(ipv6_to(program.topology, 2, hlim=9))
    assert six is not None
    assert six.packet[IPv6].hlim == 8


def test_a_packet_without_a_route_is_discarded_and_counted(program: Program) -> None:
    assert program.send(ether() / IP(src="10.9.9.9", dst="192.0.2.1") / UDP()) is None
    assert program.send(ether(type=0x0806) / (b"x" * 46)) is None
    assert program.counter("discarded", NO_ROUTE) == 2
    assert program.send(ipv4_to(program.topology, 1, ttl=1)) is None
    assert program.counter("discarded", TTL) == 1


@pytest.mark.parametrize("make", [ipv4_to, ipv6_to])
def test_ecmp_spreads_flows_over_a_group_and_keeps_each_on_one_path(program: Program, make) -> None:  # type: ignore[no-untyped-def]
    profile = program.pipeline.action_profiles["next_hop_selector"]
    profile.add_group(1, {host.port: 1 for host in program.topology.hosts[:3]}, 8)
    program.pipeline.tables["next_hop"].modify((Exact(2),), 0, Group(1))
    ports: dict[int, list[int]] = {}
    for source_port in range(100):
        packet = make(program.topology, 1)
        packet[UDP].sport = source_port
        for _ in range(2):
            out = program.send(packet)
            assert out is not None
            ports.setdefault(source_port, []).append(out.port)
    assert all(first == second for first, second in ports.values())
    used = [chosen[0] for chosen in ports.values()]
    assert {used.count(port) > 10 for port in (1, 2, 3)} == {True}


def test_a_packet_from_an_untrusted_port_loses_its_stamp_and_is_best_effort(program: Program) -> None:
    program.set_rules([anything(Stage.COLLECTIVE, 7)])
    packet = ipv4_to(program.topology, 0, MFS(stage=2, batch=5, current_layer=30))
    out = program.send(packet, port=program.untrusted)
    assert out is not None
    assert out.level == UNTRUSTED_LEVEL
    assert MFS not in out.packet
    assert IP in out.packet
    # Its progress is ignored as well.
    trusted = program.send(ipv4_to(program.topology, 0, MFS(stage=2, batch=5, current_layer=1)))
    assert trusted is not None
    assert trusted.stamp.current_layer == 1


def test_the_last_hop_removes_the_shim_if_its_port_is_configured_so(program: Program) -> None:
    program.pipeline.tables["last_hop"].insert((Exact(2),), 0, ActionCall("remove_stamp", ()))
    stamped = MFS(stage=3, batch=1, slack=10)
    bare, kept = (program.send(ipv4_to(program.topology, host, stamped)) for host in (1, 2))
    assert bare is not None
    assert kept is not None
    assert MFS not in bare.packet
    assert len(bytes(kept.packet)) - len(bytes(bare.packet)) == STAMP_BYTES
    assert kept.stamp.batch == 1


@pytest.mark.parametrize(("make", "layer", "field"), [(ipv4_to, IP, "tos"), (ipv6_to, IPv6, "tc")])
def test_the_level_goes_into_the_dscp_and_nothing_else_changes(  # type: ignore[no-untyped-def]
    program: Program, make, layer, field: str
) -> None:
    packet = make(program.topology, 1, **{field: 0b000011_01})
    kept = program.send(packet)
    row = (Exact(program.topology.hosts[1].port), Exact(UNTAGGED_LEVEL))
    program.pipeline.tables["dscp"].insert(row, 0, ActionCall("write_dscp", (0b101010,)))
    written = program.send(packet)
    assert kept is not None
    assert written is not None
    before, after = kept.packet[layer], written.packet[layer]
    assert (getattr(before, field), getattr(after, field)) == (0b000011_01, 0b101010_01)
    setattr(after, field, getattr(before, field))
    for one in (before, after):
        if layer is IP:
            one.chksum = None
    assert bytes(before) == bytes(after)


# Malformed packets and invalid stamps.


def test_a_packet_truncated_in_its_headers_is_discarded_and_counted(program: Program) -> None:
    whole = bytes(ipv4_to(program.topology, 1, MFS(stage=1)))
    headers = 14 + STAMP_BYTES + 20
    for cut in range(headers):
        assert program.send(whole[:cut]) is None
        assert program.counter("discarded", MALFORMED) == cut + 1


@pytest.mark.parametrize("stamp", [{"version": 0}, {"version": 2}, {"stage": 4}, {"stage": 15}])
def test_an_invalid_stamp_is_discarded_and_counted(program: Program, stamp: dict[str, int]) -> None:
    assert program.send(ipv4_to(program.topology, 1, MFS(**stamp))) is None
    assert program.counter("discarded", MALFORMED) == 1


def test_an_invalid_stamp_from_an_untrusted_port_is_only_stripped(program: Program) -> None:
    out = program.send(ipv4_to(program.topology, 0, MFS(version=7, stage=15)), port=program.untrusted)
    assert out is not None
    assert MFS not in out.packet
    assert out.level == UNTRUSTED_LEVEL


@pytest.mark.parametrize("make", [ipv4_to, ipv6_to])
def test_an_ethertype_that_contradicts_the_ip_version_is_discarded(program: Program, make) -> None:  # type: ignore[no-untyped-def]
    assert program.send(make(program.topology, 1, version=5)) is None
    assert program.counter("discarded", MALFORMED) == 1


def test_a_shim_inside_a_shim_is_discarded(program: Program) -> None:
    inner = bytes(ipv4_to(program.topology, 1, MFS(stage=1)))[14:]
    assert program.send(ether(type=ETHERTYPE_MFS) / MFS(next_type=ETHERTYPE_MFS) / inner) is None


def test_a_wrong_ipv4_checksum_is_discarded(program: Program) -> None:
    data = bytearray(bytes(ipv4_to(program.topology, 1)))
    data[14 + 10] ^= 0xFF
    assert program.send(bytes(data)) is None
    assert program.counter("discarded", MALFORMED) == 1


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=120), stamped=st.booleans())
def test_arbitrary_bytes_do_not_break_the_program(data: bytes, stamped: bool) -> None:
    program = _shared_program()
    program.send(bytes(12) + (b"\x88\xb5" if stamped else b"\x08\x00") + data)


_SHARED: list[Program] = []


def _shared_program() -> Program:
    if not _SHARED:
        program = Program()
        program.set_bias(BIAS)
        program.set_rules(policies.mfs().rules)
        _SHARED.append(program)
    return _SHARED[0]


# Levels.

POLICIES = [
    policies.mfs(),
    policies.static(),
    policies.fifo(),
    policies.sjf([40, 80, 120]),
    policies.edf([60, 90, 140]),
]


@settings(max_examples=400, deadline=None)
@given(
    chosen=st.sampled_from(POLICIES),
    stage=st.sampled_from(Stage),
    target=st.integers(0, 255),
    current=st.integers(0, 255),
    slack=st.one_of(st.integers(SLACK_MIN_US, SLACK_MAX_US), st.integers(-2000, 100_000)),
    remaining=st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 1 << 22)),
    bias=st.integers(0, 511),
)
def test_the_level_function_of_hosts_agrees_with_the_compiled_program(
    chosen: Policy, stage: Stage, target: int, current: int, slack: int, remaining: int, bias: int
) -> None:
    program = _policy_program(chosen, bias)
    stamp = MFS(
        stage=stage.value,
        flags=Flags.FIRST.value,
        target_layer=target,
        current_layer=current,
        slack=slack,
        remaining=remaining,
    )
    out = program.send(ipv4_to(program.topology, 1, stamp))
    assert out is not None
    key = level_key(stage, max(target - current, 0), slack, remaining, bias)
    assert out.level == decide(chosen.rules, key, default=UNTAGGED_LEVEL)


_BY_POLICY: dict[str, Program] = {}


def _policy_program(chosen: Policy, bias: int) -> Program:
    if chosen.name not in _BY_POLICY:
        program = _BY_POLICY[chosen.name] = Program()
        program.set_bias(0)
        program.set_rules(chosen.rules)
    program = _BY_POLICY[chosen.name]
    for port in program.topology.ports:
        program.pipeline.tables["port_bias"].modify((Exact(port),), 0, ActionCall("set_bias", (bias,)))
    return program


@pytest.mark.parametrize(
    "value", [0, 1, *(1 << bit for bit in range(1, 32)), *(7 << bit for bit in range(29)), 2**32 - 1]
)
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_every_octave_has_the_code_that_hosts_compute(program: Program, value: int, offset: int) -> None:
    remaining = min(max(value + offset, 0), 2**32 - 1)
    code = log2_code(remaining)
    rules = [LevelRule(Stage.P2D, 6, remaining_code=(code, code)), LevelRule(Stage.P2D, 3)]
    program.set_rules(rules)
    assert level_of(program, stage=3, flags=Flags.FIRST.value, remaining=remaining, slack=1) == 6


def test_every_region_of_the_mfs_policy_has_its_level(program: Program) -> None:
    last_slacks = log2_code(5000), log2_code(15_000)
    chosen = policies.mfs(
        mlu=126,
        near_rli=2,
        tight_slack=log2_code(50_000),
        last_tight_slack=last_slacks[0],
        last_soon_slack=last_slacks[1],
    )
    program.set_rules(chosen.rules)
    # At 100 Gb/s, 1 MiB takes 84 us.
    mebibyte = 4096
    cases = {
        (3, 0, 50): SCAVENGER,  # would be late even with the port to itself
        (3, 0, 90): 7,  # cannot wait any longer
        (3, 0, 200): 3,
        (3, 0, 4000): 3,  # little slack, though MLU is low
        (3, 0, 10_000): 2,
        (3, 0, 20_000): 1,
        (3, 4, 90): 3,  # not above the collectives that its computation waits for
        (3, 4, 20_000): 1,
        (3, 0, 0): SCAVENGER,
        (3, 4, -7): SCAVENGER,
        (2, 0, 40_000): 5,
        (2, 0, 90_000): 4,
        (2, 0, -1): 4,
        (1, 0, 40_000): 6,
        (1, 0, 90_000): 5,
        (1, 1, 40_000): 5,
        (1, 2, 40_000): 5,
        (1, 3, 40_000): 4,
        (1, 200, -5): 4,
        (0, 0, 0): 7,
    }
    for (stage, rli, slack), level in cases.items():
        found = level_of(
            program, stage=stage, flags=0x80, target_layer=20 + rli, current_layer=20, slack=slack, remaining=mebibyte
        )
        assert found == level, (stage, rli, slack)


def test_the_bias_shifts_the_urgency_by_the_load_of_the_port(program: Program) -> None:
    program.set_rules(policies.mfs().rules)
    stamp = {"stage": 3, "flags": 0x80, "remaining": 4096, "slack": 160}
    assert level_of(program, **stamp) == LAST_TIGHT
    # Traffic of higher levels takes half of the port.
    program.pipeline.tables["port_bias"].modify((Exact(2),), 0, ActionCall("set_bias", (bias_code(50e9),)))
    assert level_of(program, **stamp) == 7


def test_an_epoch_switch_changes_every_level_at_once(program: Program) -> None:
    program.set_rules([anything(Stage.P2D, 3)], epoch=0)
    program.set_rules([anything(Stage.P2D, 5)], epoch=1)
    assert level_of(program, stage=3, flags=0x80) == 5
    program.pipeline.tables["epoch"].set_default(ActionCall("activate", (0, 0)))
    assert level_of(program, stage=3, flags=0x80) == 3


# Progress.


def test_another_flows_progress_promotes_a_reuse_flow_whose_stamp_does_not_change(program: Program) -> None:
    program.set_rules(policies.mfs().rules)
    reuse = {"stage": 1, "batch": 77, "flow": 1, "target_layer": 12, "current_layer": 2, "slack": 2**30}
    assert level_of(program, flags=Flags.FIRST.value, **reuse) == REUSE_LATER
    # A collective of the requester passes the switch and carries layer 12.
    level_of(program, port=2, stage=2, batch=77, flow=9, target_layer=12, current_layer=12, slack=2**30)
    out = program.send(ipv4_to(program.topology, 1, MFS(flags=Flags.BOUNDARY.value, **reuse)))
    assert out is not None
    assert out.level == REUSE_SOON
    assert out.stamp.current_layer == 12  # and the receiver learns it


def test_acknowledgements_carry_progress_back_to_the_sender(program: Program) -> None:
    level_of(program, stage=2, batch=78, flow=1, target_layer=9, current_layer=9)
    out = program.send(ipv4_to(program.topology, 1, MFS(stage=0, batch=78, current_layer=3)))
    assert out is not None
    assert out.stamp.current_layer == 9


def test_two_batches_in_one_register_cell_do_not_see_each_others_layer(program: Program) -> None:
    batch, other = _batches_in_one_cell(program)
    shown = []
    for sent, layer in [(batch, 20), (other, 3), (other, 1), (batch, 5), (batch, 4)]:
        out = program.send(ipv4_to(program.topology, 1, MFS(stage=2, batch=sent, current_layer=layer)))
        assert out is not None
        shown.append(out.stamp.current_layer)
    assert shown == [20, 3, 3, 5, 5]


def _batches_in_one_cell(program: Program) -> tuple[int, int]:
    """Two batches with one register cell: a packet of one overwrites the tag of the other."""
    register = program.pipeline.registers["progress_batch"]
    cells: dict[int, int] = {}
    for batch in range(7919, 7919 * 2000, 7919):
        program.send(ipv4_to(program.topology, 1, MFS(stage=2, batch=batch)))
        cell = register.values.index(batch)
        if cell in cells:
            return cells[cell], batch
        cells[cell] = batch
    raise AssertionError("no two batches share a cell")


# Ratchet.


def test_a_promotion_takes_effect_only_at_a_boundary(program: Program) -> None:
    program.set_rules(policies.mfs().rules)
    flow = {"stage": 1, "batch": 5, "flow": 1, "target_layer": 10, "slack": 2**30}
    assert level_of(program, flags=0x80, current_layer=0, **flow) == REUSE_LATER
    assert level_of(program, flags=0, current_layer=10, **flow) == REUSE_LATER
    assert level_of(program, flags=0x40, current_layer=10, **flow) == REUSE_SOON


def test_a_flow_never_falls_except_to_the_scavenger(program: Program) -> None:
    program.set_rules(policies.mfs().rules)
    flow = {"stage": 3, "batch": 5, "flow": 2, "remaining": 4096}
    assert level_of(program, flags=0x80, slack=90, **flow) == 7
    assert level_of(program, flags=0x40, slack=50_000, **flow) == 7
    assert level_of(program, flags=0x00, slack=-1, **flow) == SCAVENGER


def test_a_new_flow_in_the_cell_of_an_old_one_starts_without_a_level(program: Program) -> None:
    program.set_rules(policies.mfs().rules)
    flow = {"stage": 3, "batch": 5, "flow": 2, "remaining": 4096}
    assert level_of(program, flags=0x80, slack=90, **flow) == 7
    assert level_of(program, flags=0x80, slack=50_000, **flow) == LAST_TIGHT


def test_flows_of_two_hosts_with_the_same_number_do_not_share_a_level(program: Program) -> None:
    program.set_rules(policies.mfs().rules)
    urgent = ipv4_to(program.topology, 1, MFS(stage=3, batch=5, flow=0, flags=0x80, slack=90, remaining=4096))
    relaxed = ipv4_to(program.topology, 1, MFS(stage=3, batch=5, flow=0, flags=0x40, slack=50_000, remaining=4096))
    relaxed[IP].src = "10.9.9.10"
    levels = [out.level for out in (program.send(urgent), program.send(relaxed)) if out is not None]
    assert levels == [7, LAST_TIGHT]


def test_an_idle_gap_lets_a_flow_rise_within_a_message(program: Program) -> None:
    program.set_rules(policies.mfs().rules, idle_gap_us=500)
    flow = {"stage": 3, "batch": 5, "flow": 3, "remaining": 4096}
    assert level_of(program, now_us=0, flags=0x80, slack=50_000, **flow) == LAST_TIGHT
    assert level_of(program, now_us=400, flags=0, slack=90, **flow) == LAST_TIGHT
    assert level_of(program, now_us=1000, flags=0, slack=90, **flow) == 7


# Policing.


def test_excess_top_level_traffic_is_demoted_and_not_dropped(program: Program) -> None:
    program.set_rules([anything(Stage.P2D, 7), anything(Stage.COLLECTIVE, 5)])
    program.trust(1, police_floor=7, police_level=1)
    size = len(ipv4_to(program.topology, 1, MFS()))
    program.pipeline.meters["police"].configs[1] = MeterConfig(cir=1000, cburst=3 * size, pir=1000, pburst=3 * size)
    levels = [level_of(program, stage=3, flags=0x80) for _ in range(10)]
    assert levels == [7] * 3 + [1] * 7
    # Levels below the floor are not metered, and other ports have their own meters.
    assert level_of(program, stage=2, flags=0x80) == 5
    assert level_of(program, port=2, stage=3, flags=0x80) == 7


def test_untagged_traffic_is_policed_like_any_other(program: Program) -> None:
    program.trust(1, police_floor=UNTAGGED_LEVEL, police_level=0)
    size = len(ipv4_to(program.topology, 1))
    program.pipeline.meters["police"].configs[1] = MeterConfig(cir=1000, cburst=2 * size, pir=1000, pburst=2 * size)
    outs = [program.send(ipv4_to(program.topology, 1)) for _ in range(4)]
    assert [out.level for out in outs if out is not None] == [UNTAGGED_LEVEL, UNTAGGED_LEVEL, 0, 0]


# Egress.


@pytest.mark.parametrize(
    ("slack", "queued", "left"), [(1000, 250, 750), (100, 250, -150), (SLACK_MIN_US, 9, SLACK_MIN_US)]
)
def test_the_queueing_time_is_subtracted_from_the_slack(program: Program, slack: int, queued: int, left: int) -> None:
    out = program.send(ipv4_to(program.topology, 1, MFS(stage=3, slack=slack)), queued_us=queued)
    assert out is not None
    assert out.stamp.slack == left


def test_completions_are_counted_by_stage_level_lateness_and_octave(program: Program) -> None:
    program.set_rules(policies.mfs().rules)
    last = Flags.FIRST.value | Flags.LAST.value
    program.send(ipv4_to(program.topology, 1, MFS(stage=3, flags=last, slack=300, remaining=1)), queued_us=44)
    program.send(ipv4_to(program.topology, 1, MFS(stage=3, flags=last, slack=300, remaining=1)), queued_us=340)
    program.send(ipv4_to(program.topology, 1, MFS(stage=3, flags=0x80, slack=300, remaining=1)))
    counted = {index: n for index, n in enumerate(program.pipeline.counters["completion"].packets) if n}
    level, on_time, late = LAST_TIGHT, 0, 1
    assert counted == {3 << 9 | level << 6 | on_time << 5 | 8: 1, 3 << 9 | level << 6 | late << 5 | 5: 1}


def test_laxity_and_port_counters_see_every_stamped_packet(program: Program) -> None:
    program.set_rules(policies.mfs().rules)
    program.send(ipv4_to(program.topology, 1, MFS(stage=3, flags=0x80, slack=90, remaining=4096)))
    program.send(ipv4_to(program.topology, 1))
    laxity = {index: n for index, n in enumerate(program.pipeline.counters["laxity"].packets) if n}
    urgency = level_key(Stage.P2D, 0, 90, 4096, BIAS).urgency
    assert laxity == {3 << 7 | 7 << 4 | urgency >> 4: 1}
    assert program.counter("port_level", 2 << 3 | 7) == 1
    assert program.counter("port_level", 2 << 3 | UNTAGGED_LEVEL) == 1


@pytest.mark.parametrize(("ecn", "queued", "marked"), [(1, 500, 3), (1, 50, 1), (0, 500, 0), (2, 101, 3), (2, 100, 2)])
@pytest.mark.parametrize("version", [4, 6])
def test_a_long_queue_marks_ecn_capable_packets(
    program: Program, version: int, ecn: int, queued: int, marked: int
) -> None:
    program.set_rules([anything(Stage.P2D, 3)])
    program.pipeline.tables["ecn"].insert((Exact(3),), 0, ActionCall("mark_above", (100,)))
    stamp = MFS(stage=3, flags=0x80, next_type=0x0800 if version == 4 else 0x86DD)
    packet = (
        ipv4_to(program.topology, 1, stamp, tos=ecn) if version == 4 else ipv6_to(program.topology, 1, stamp, tc=ecn)
    )
    out = program.send(packet, queued_us=queued)
    assert out is not None
    assert (out.packet[IP].tos if version == 4 else out.packet[IPv6].tc) == marked
