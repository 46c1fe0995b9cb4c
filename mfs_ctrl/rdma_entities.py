"""Entities for RoCEv2: whose registrations count, where they go on, and the stages of DSCPs."""

from __future__ import annotations

from collections.abc import Sequence

from host_agent.protocol.level import CODE_MAX, UNTAGGED_LEVEL, LevelKey, LevelRule, decide
from host_agent.protocol.stamp import TOP_LEVEL, Stage
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.p4rt.entries import ActionCall, Entity, Exact, FieldMatch, Lpm, MeterConfig, TableEntry
from topologies.topology import Host, Topology

REGISTRATION_TABLE = "registration_egress"
"""A program that has this table has those of :func:`rdma_entities`."""
_SOURCE_TABLES = ("ipv4_source", "ipv6_source")
_ACCEPT = ActionCall("accept_source")
_PASS = ActionCall("pass_registration", (TOP_LEVEL,))


def rdma_entities(topology: Topology, parameters: SwitchParameters, rules: Sequence[LevelRule]) -> tuple[Entity, ...]:
    """Return the entities for RoCEv2.

    A host registers flows with its own addresses. Other switches have looked themselves, so their ports take any source
    and are not metered, and registrations go on to them.
    """
    entities: list[Entity] = []
    for host in topology.hosts:
        if host.port not in parameters.untrusted_ports:
            entities += _sources(host)
            entities.append(_meter(host.port, parameters))
        if host.port in parameters.registration_ports:
            entities.append(_keyed(REGISTRATION_TABLE, host.port, _PASS))
    for port in (*(uplink.port for uplink in topology.uplinks), *(downlink.port for downlink in topology.downlinks)):
        entities += [_keyed(table, port, _ACCEPT, "ingress_port") for table in _SOURCE_TABLES]
        entities.append(_keyed(REGISTRATION_TABLE, port, _PASS))
    for stage, dscp in sorted(parameters.stage_dscp.items()):
        call = ActionCall("set_stage", (int(stage), first_level(rules, stage)))
        entities.append(TableEntry("stage_of_dscp", (("dscp", Exact(dscp)),), call))
    return tuple(entities)


def first_level(rules: Sequence[LevelRule], stage: Stage) -> int:
    """Return the level with which the policy has a flow of ``stage`` begin: in time, far off, with nothing urgent.

    Without slack and progress nothing is known that could promote it, so this level stays.
    """
    relaxed = LevelKey(stage, late=0, rli=CODE_MAX, urgency=0, slack_code=CODE_MAX, remaining_code=0)
    return decide(rules, relaxed, UNTAGGED_LEVEL)


def _sources(host: Host) -> list[TableEntry]:
    port: FieldMatch = ("ingress_port", Exact(host.port))
    rows = [TableEntry("ipv4_source", (port, ("src_addr", Lpm(int(host.ipv4), 32))), _ACCEPT)]
    if host.ipv6 is not None:
        rows.append(TableEntry("ipv6_source", (port, ("src_addr", Lpm(int(host.ipv6), 128))), _ACCEPT))
    return rows


def _meter(port: int, parameters: SwitchParameters) -> MeterConfig:
    rate, burst = parameters.registration_rate, parameters.registration_burst
    return MeterConfig("police_registration", port, rate, burst, rate, burst)


def _keyed(table: str, port: int, call: ActionCall, field: str = "egress_port") -> TableEntry:
    return TableEntry(table, ((field, Exact(port)),), call)
