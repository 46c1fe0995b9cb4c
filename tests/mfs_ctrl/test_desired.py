"""mfs_ctrl/desired.py and p4rt: the desired state of the switch, and its form on the wire."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.level import CODE_STEPS, LevelRule, bias_code
from host_agent.protocol.stamp import LEVELS, Stage
from mfs_ctrl import policies
from mfs_ctrl.desired import PolicyRows, SwitchParameters, base_entities, initial_biases, policy_rows
from mfs_ctrl.errors import DesiredStateError, EntryError
from mfs_ctrl.p4rt.bytestrings import to_bytes, to_int
from mfs_ctrl.p4rt.convert import decode, encode, encode_reset
from mfs_ctrl.p4rt.entries import (
    ActionCall,
    DefaultAction,
    Entity,
    Exact,
    GroupRef,
    Lpm,
    MemberRef,
    MeterConfig,
    ProfileGroup,
    ProfileMember,
    Range,
    TableEntry,
)
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from p4src.artifact import load
from topologies.topology import Host, tor, two_tors

TOPOLOGY = tor(servers=3, nics=2)
ALL_POLICIES = [policies.load(name) for name in policies.builtin_names()]


@pytest.fixture(scope="module")
def index() -> P4InfoIndex:
    return P4InfoIndex.from_text(load().p4info)


def base(parameters: SwitchParameters | None = None) -> tuple[Entity, ...]:
    return base_entities(TOPOLOGY, parameters or SwitchParameters(), initial_biases(TOPOLOGY))


def rows(entities: tuple[Entity, ...], table: str) -> list[TableEntry]:
    return [entity for entity in entities if isinstance(entity, TableEntry) and entity.table == table]


class TestTwoRacks:
    TORS = two_tors(4, 2, 1_000_000_000, 500, second_rack_from=3, uplinks=2, uplink_rate_bps=4_000_000_000)

    @pytest.mark.parametrize(("own", "other"), [(0, 1), (1, 0)])
    def test_hosts_of_the_other_rack_are_reached_over_all_uplinks(self, own: int, other: int) -> None:
        topology, peer = self.TORS[own], self.TORS[other]
        entities = base_entities(topology, SwitchParameters(), initial_biases(topology))
        calls = {item.member_id: item.call for item in entities if isinstance(item, ProfileMember)}
        groups = {item.group_id: item.members for item in entities if isinstance(item, ProfileGroup)}
        group_of = {row.match[0][1]: row.target for row in rows(entities, "ipv4_route") + rows(entities, "ipv6_route")}
        assert len(group_of) == 2 * 8

        def hops(host: Host) -> set[tuple[int, int]]:
            (group,) = {group_of[Lpm(int(host.ipv4), 32)].args[0], group_of[Lpm(int(host.ipv6), 128)].args[0]}  # type: ignore[union-attr]
            return {(calls[member].args[0], calls[member].args[2]) for member, _ in groups[group]}

        for host in topology.hosts:
            assert hops(host) == {(host.port, int.from_bytes(host.mac, "big"))}
        ports = [uplink.port for uplink in topology.uplinks]
        assert len({*ports, *(host.port for host in topology.hosts)}) == len(topology.hosts) + 2
        for host in peer.hosts:
            assert hops(host) == {(port, int.from_bytes(peer.switch_mac, "big")) for port in ports}

    def test_a_port_has_the_bias_and_the_meter_of_its_own_rate(self) -> None:
        topology = self.TORS[0]
        biases = initial_biases(topology)
        entities = base_entities(topology, SwitchParameters(police_floor=6), biases)
        meters = {item.index: item.cir for item in entities if isinstance(item, MeterConfig)}
        uplink, host = topology.uplinks[1].port, topology.hosts[0].port
        # Four times the rate is two octaves less urgent.
        assert biases[host] - biases[uplink] == 2 * CODE_STEPS
        assert meters[uplink] == 4 * meters[host]

    def test_contradictory_racks_are_refused(self) -> None:
        topology = self.TORS[0]
        for bad, complaint in (
            (dataclasses.replace(topology, uplinks=()), "no uplink to them"),
            (dataclasses.replace(topology, uplinks=topology.uplinks[:1] * 2), "two links of the topology"),
        ):
            with pytest.raises(DesiredStateError, match=complaint):
                base_entities(bad, SwitchParameters(), initial_biases(topology))
        for servers, uplinks in ((0, 1), (4, 1), (2, 0)):
            with pytest.raises(ValueError, match="two racks"):
                two_tors(4, 2, 1_000, 0, second_rack_from=servers, uplinks=uplinks)


class TestBase:
    def test_every_host_is_reached_over_both_families(self) -> None:
        entities = base()
        members = {item.member_id: item.call for item in entities if isinstance(item, ProfileMember)}
        groups = {item.group_id: item.members for item in entities if isinstance(item, ProfileGroup)}
        to_group = {row.match[0][1]: row.target for row in rows(entities, "next_hop")}
        for host in TOPOLOGY.hosts:
            targets = {
                row.target
                for row in rows(entities, "ipv4_route") + rows(entities, "ipv6_route")
                if row.match[0][1] in (Lpm(int(host.ipv4), 32), Lpm(int(host.ipv6), 128))
            }
            assert len(targets) == 1
            (target,) = targets
            assert isinstance(target, ActionCall)
            reference = to_group[Exact(target.args[0])]
            assert isinstance(reference, GroupRef)
            ((member, weight),) = groups[reference.group_id]
            assert weight == 1
            switch_mac, host_mac = (int.from_bytes(mac, "big") for mac in (TOPOLOGY.switch_mac, host.mac))
            assert members[member] == ActionCall("forward", (host.port, switch_mac, host_mac))

    def test_the_bias_of_an_idle_port_is_the_code_of_its_rate(self) -> None:
        biases = {row.target for row in rows(base(), "port_bias")}
        assert biases == {ActionCall("set_bias", (bias_code(TOPOLOGY.rate_bps),))}
        assert len(rows(base(), "port_bias")) == len(TOPOLOGY.ports)

    def test_untrusted_ports_are_distrusted_and_not_metered(self) -> None:
        entities = base(SwitchParameters(untrusted_ports=frozenset({2}), untrusted_level=0, untagged_level=3))
        edge = {row.match[0][1]: row.target for row in rows(entities, "edge")}
        assert edge[Exact(2)] == ActionCall("distrust", (0,))
        assert edge[Exact(1)] == ActionCall("trust", (3, 7, 1))
        assert {item.index for item in entities if isinstance(item, MeterConfig)} == set(TOPOLOGY.ports) - {2}

    def test_a_meter_follows_rate_and_share(self) -> None:
        entities = base(SwitchParameters(police_share=0.25, police_burst_us=1000))
        meter = next(item for item in entities if isinstance(item, MeterConfig))
        assert meter.cir == meter.pir == TOPOLOGY.rate_bps // 8 // 4
        assert meter.cburst == meter.cir // 1000

    def test_a_port_may_have_its_own_share(self) -> None:
        entities = base(SwitchParameters(police_share=0.5, police_shares={3: 0.125}))
        rates = {item.index: item.cir for item in entities if isinstance(item, MeterConfig)}
        assert rates.pop(3) == TOPOLOGY.rate_bps // 8 // 8
        assert set(rates.values()) == {TOPOLOGY.rate_bps // 8 // 2}
        with pytest.raises(DesiredStateError, match=r"police_shares names ports \[99\]"):
            base(SwitchParameters(police_shares={99: 0.5}))
        with pytest.raises(DesiredStateError, match="police_share and police_shares must be above 0"):
            SwitchParameters(police_shares={3: 0.0})

    def test_without_a_floor_there_are_no_meters(self) -> None:
        assert not [item for item in base(SwitchParameters(police_floor=LEVELS)) if isinstance(item, MeterConfig)]

    def test_marking_thresholds_are_times_at_the_ports_rate(self) -> None:
        slow = dataclasses.replace(TOPOLOGY, rate_bps=1_000_000_000)
        parameters = SwitchParameters(ecn_frames=(10, *(None,) * (LEVELS - 1)))
        (row,) = rows(base_entities(slow, parameters, initial_biases(slow)), "ecn")
        assert row.match == (("level", Exact(0)),)
        # 15,620 bytes at 1 Gb/s.
        assert row.target == ActionCall("mark_above", (125,))

    def test_stamps_are_removed_kept_whole_or_blanked_at_the_ports_of_hosts(self) -> None:
        parameters = SwitchParameters(stamp_unaware_ports=frozenset({4}), whole_stamp_ports=frozenset({2}))
        found = {row.match: row.target for row in rows(base(parameters), "last_hop")}
        hosts = {host.port for host in TOPOLOGY.hosts}
        wanted = {port: ActionCall("remove_stamp" if port == 4 else "blank_stamp") for port in hosts - {2}}
        assert found == {(("egress_port", Exact(port)),): call for port, call in wanted.items()}

    def test_an_unknown_port_is_named(self) -> None:
        with pytest.raises(DesiredStateError, match=r"untrusted_ports names ports \[99\]"):
            base(SwitchParameters(untrusted_ports=frozenset({99})))

    def test_a_missing_bias_is_named(self) -> None:
        with pytest.raises(DesiredStateError, match=r"ports \[1, 2, 3, 4, 5, 6\] have no bias"):
            base_entities(TOPOLOGY, SwitchParameters(), {})

    @pytest.mark.parametrize(
        "wrong", [{"untagged_level": 8}, {"police_floor": 9}, {"ecn_frames": (1,)}, {"guaranteed_share": 1.5}]
    )
    def test_parameters_are_checked(self, wrong: dict[str, int]) -> None:
        with pytest.raises(DesiredStateError):
            SwitchParameters(**wrong)  # type: ignore[arg-type]


class TestPolicyRows:
    def test_the_first_rule_has_the_highest_priority(self) -> None:
        entries = policy_rows(policies.mfs().rules, TOPOLOGY, SwitchParameters()).entries(1)
        priorities = [entry.priority for entry in entries]
        assert priorities == list(range(len(entries), 0, -1))
        assert all(("epoch", Exact(1)) in entry.match for entry in entries)

    def test_whole_ranges_are_left_out(self) -> None:
        rule = LevelRule(Stage.P2D, 5, rli=(0, 255), late=(0, 1), urgency=(128, 255))
        (entry,) = PolicyRows((rule,), 10).entries(0)
        assert entry.match == (("epoch", Exact(0)), ("stage", Exact(3)), ("urgency", Range(128, 255)))

    def test_the_idle_gap_is_the_time_a_queue_needs_to_drain(self) -> None:
        slow = dataclasses.replace(TOPOLOGY, rate_bps=1_000_000_000)
        parameters = SwitchParameters(queue_bytes=125_000, guaranteed_share=0.1)
        assert policy_rows((), slow, parameters).idle_gap_us == 10_000


class TestConversion:
    @pytest.mark.parametrize("policy", ALL_POLICIES, ids=lambda policy: policy.name)
    def test_all_desired_entities_survive_the_wire(self, policy: policies.Policy, index: P4InfoIndex) -> None:
        parameters = SwitchParameters(ecn_frames=(64,) * LEVELS, stamp_unaware_ports=frozenset({1}))
        wanted = policy_rows(policy.rules, TOPOLOGY, parameters)
        for entity in (*base(parameters), *wanted.entries(1), wanted.activation(1)):
            assert decode(encode(entity, index), index) == entity

    @given(st.integers(0, 2**128 - 1))
    def test_byte_strings_are_as_short_as_possible(self, value: int) -> None:
        data = to_bytes(value, 128, "x")
        assert to_int(data) == value
        assert data == b"\0" if value == 0 else data[0] != 0

    def test_padded_byte_strings_are_read(self) -> None:
        assert to_int(b"\0\0\x07") == 7

    def test_a_reset_does_not_mention_a_value(self, index: P4InfoIndex) -> None:
        default = encode_reset(DefaultAction("edge", ActionCall("distrust", (3,))), index)
        assert default.table_entry.is_default_action
        assert not default.table_entry.HasField("action")
        meter = encode_reset(MeterConfig("police", 5, 1, 1, 1, 1), index)
        assert not meter.meter_entry.HasField("config")

    @pytest.mark.parametrize(
        ("entity", "message"),
        [
            (TableEntry("rmql", (), ActionCall("set_level", (1,)), 1), "no table 'rmql'; it has .*rmlq"),
            (
                TableEntry("edge", (("port", Exact(1)),), ActionCall("distrust", (1,))),
                "no field port; it has ingress_port",
            ),
            (
                TableEntry("edge", (("ingress_port", Exact(512)),), ActionCall("distrust", (1,))),
                "512 does not fit in 9 bits",
            ),
            (
                TableEntry("edge", (("ingress_port", Range(0, 1)),), ActionCall("distrust", (1,))),
                "match kind exact, not range",
            ),
            (
                TableEntry("edge", (("ingress_port", Exact(1)),), ActionCall("distrust")),
                "parameters are untagged_level",
            ),
            (TableEntry("edge", (("ingress_port", Exact(1)),), ActionCall("trusted")), "no action 'trusted'"),
            (TableEntry("edge", (), ActionCall("distrust", (1,)), 3), "allows no priority"),
            (TableEntry("rmlq", (("epoch", Exact(0)),), ActionCall("set_level", (1,))), "requires a priority"),
            (MeterConfig("polize", 1, 1, 1, 1, 1), "no meter 'polize'; it has police"),
        ],
    )
    def test_what_does_not_fit_is_named(self, entity: Entity, message: str, index: P4InfoIndex) -> None:
        with pytest.raises(EntryError, match=message):
            encode(entity, index)

    def test_a_reference_to_a_member_survives_the_wire(self, index: P4InfoIndex) -> None:
        entry = TableEntry("next_hop", (("group", Exact(1)),), MemberRef(4))
        assert decode(encode(entry, index), index) == entry

    def test_a_match_on_everything_is_read_as_none(self, index: P4InfoIndex) -> None:
        bare = TableEntry("rmlq", (("epoch", Exact(0)), ("stage", Exact(3))), ActionCall("set_level", (1,)), 1)
        padded = TableEntry("rmlq", (*bare.match, ("late", Range(0, 1)), ("rli", Range(0, 255))), bare.target, 1)
        assert decode(encode(padded, index), index) == bare

    def test_an_unreadable_p4info_is_refused(self) -> None:
        with pytest.raises(EntryError, match="cannot parse the P4Info"):
            P4InfoIndex.from_text("tables {")
