"""mfs_ctrl/rdma_entities.py: whose registrations count, where they go on, and the stages of DSCPs."""

from __future__ import annotations

import pytest

from host_agent.protocol.stamp import TOP_LEVEL, Stage
from mfs_ctrl import policies
from mfs_ctrl.config import parse
from mfs_ctrl.counters import DISCARDED, REGISTRATION, REGISTRATION_REFUSALS, Count, observe
from mfs_ctrl.desired import SwitchParameters, base_entities, initial_biases
from mfs_ctrl.errors import ConfigError, DesiredStateError
from mfs_ctrl.p4rt.convert import decode, encode
from mfs_ctrl.p4rt.entries import ActionCall, Entity, Exact, Lpm, MeterConfig, TableEntry
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.rdma_entities import first_level, rdma_entities
from mfs_ctrl.writer import by_key
from p4src.artifact import ROOT, load
from topologies.topology import tor, two_tors

TOPOLOGY = tor(servers=3, nics=2)
RULES = policies.load("static-reuse").rules


def rows(entities: tuple[Entity, ...], table: str) -> list[TableEntry]:
    return [entity for entity in entities if isinstance(entity, TableEntry) and entity.table == table]


def test_a_host_may_register_flows_of_its_own_addresses_and_no_others() -> None:
    untrusted = TOPOLOGY.hosts[-1]
    parameters = SwitchParameters(untrusted_ports=frozenset({untrusted.port}))
    entities = rdma_entities(TOPOLOGY, parameters, RULES)
    found = {row.match: row.target for row in rows(entities, "ipv4_source")}
    assert found == {
        (("ingress_port", Exact(host.port)), ("src_addr", Lpm(int(host.ipv4), 32))): ActionCall("accept_source")
        for host in TOPOLOGY.hosts[:-1]
    }
    assert len(rows(entities, "ipv6_source")) == len(TOPOLOGY.hosts) - 1
    meters = [entity for entity in entities if isinstance(entity, MeterConfig)]
    assert {meter.index for meter in meters} == {host.port for host in TOPOLOGY.hosts[:-1]}
    assert {(meter.cir, meter.pburst) for meter in meters} == {(20_000, 4_000)}


def test_registrations_go_on_to_other_switches_and_to_hosts_that_want_them() -> None:
    topology = two_tors(2, 1, 100_000_000_000, 1000, second_rack_from=1)[0]
    wanting = topology.hosts[0].port
    parameters = SwitchParameters(registration_ports=frozenset({wanting}))
    entities = rdma_entities(topology, parameters, RULES)
    uplinks = {uplink.port for uplink in topology.uplinks}
    found = {row.match[0][1]: row.target for row in rows(entities, "registration_egress")}
    assert found == {Exact(port): ActionCall("pass_registration", (TOP_LEVEL,)) for port in {wanting, *uplinks}}
    open_rows = [row.match for row in rows(entities, "ipv4_source") if len(row.match) == 1]
    assert set(open_rows) == {(("ingress_port", Exact(port)),) for port in uplinks}


@pytest.mark.parametrize("name", ["static-reuse", "mfs"])
def test_a_dscp_has_the_level_with_which_the_policy_begins(name: str) -> None:
    rules = policies.load(name).rules
    parameters = SwitchParameters(stage_dscp={Stage.KV_REUSE: 26, Stage.P2D: 10})
    entities = rdma_entities(TOPOLOGY, parameters, rules)
    levels = {"static-reuse": (6, 2), "mfs": (4, 1)}[name]
    assert (first_level(rules, Stage.KV_REUSE), first_level(rules, Stage.P2D)) == levels
    assert [(row.match, row.target) for row in rows(entities, "stage_of_dscp")] == [
        ((("dscp", Exact(26)),), ActionCall("set_stage", (1, levels[0]))),
        ((("dscp", Exact(10)),), ActionCall("set_stage", (3, levels[1]))),
    ]


def test_every_entity_has_a_key_and_survives_the_wire() -> None:
    index = P4InfoIndex.from_text(load().p4info)
    topology = two_tors(2, 1, 100_000_000_000, 1000, second_rack_from=1)[0]
    parameters = SwitchParameters(stage_dscp={Stage.P2D: 0}, registration_ports=frozenset({topology.hosts[0].port}))
    entities = rdma_entities(topology, parameters, RULES)
    assert len(by_key((*base_entities(topology, parameters, initial_biases(topology)), *entities))) > len(entities)
    assert [decode(encode(entity, index), index) for entity in entities] == list(entities)


@pytest.mark.parametrize(
    "chosen",
    [
        {"stage_dscp": {Stage.NONE: 5}},
        {"stage_dscp": {Stage.P2D: 64}},
        {"stage_dscp": {Stage.P2D: 5, Stage.KV_REUSE: 5}},
        {"registration_rate": 0},
    ],
)
def test_impossible_parameters_are_refused(chosen: dict[str, object]) -> None:
    with pytest.raises(DesiredStateError):
        SwitchParameters(**chosen)  # type: ignore[arg-type]


FILE = """
[switch]
rate = "100G"
[[host]]
port = 1
mac = "94:6d:ae:00:00:01"
ipv4 = "10.1.0.1"
[parameters]
registration_ports = [1]
registration_rate = 5
stage_dscp = { KV_REUSE = 26, P2D = 10 }
"""


def test_a_file_sets_them() -> None:
    parameters = parse(FILE).parameters
    assert parameters.stage_dscp == {Stage.KV_REUSE: 26, Stage.P2D: 10}
    assert (parameters.registration_ports, parameters.registration_rate) == ({1}, 5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("KV_REUSE = 26", "REUSE = 26", "must be one of KV_REUSE, COLLECTIVE, P2D"),
        ("26", "64", "stage_dscp"),
        ("26", "10", "stage_dscp gives each stage but NONE a DSCP of its own"),
        ("[1]", "[4]", "registration_ports"),
    ],
)
def test_mistakes_in_a_file_are_named(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(FILE.replace(old, new))


def test_refused_registrations_are_reported_with_the_discarded_packets() -> None:
    after = {DISCARDED: {1: Count(2, 0)}, REGISTRATION: {4: Count(3, 0), 5: Count(0, 0)}}
    seen = observe({}, after).discarded
    assert seen == {"malformed": 2, "registration whose source address is not of its port": 3}


def test_the_reasons_are_those_of_the_program() -> None:
    source = (ROOT / "shared" / "constants.p4").read_text()
    for index, name in enumerate(("UNTRUSTED", "FOREIGN", "EXCESS", "COLLISION", "INVALID"), start=3):
        assert f"REGISTRATION_{name} = {index};" in source
        assert index in REGISTRATION_REFUSALS
