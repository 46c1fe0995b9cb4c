"""The desired state of the switch, computed from topology, policy and parameters only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from host_agent.protocol.level import ANY, GUARANTEED_SHARE, UNTAGGED_LEVEL, LevelRule, bias_code
from host_agent.protocol.stamp import LEVELS, TOP_LEVEL, Stage
from host_agent.protocol.units import WIRE_OVERHEAD_BYTES
from mfs_ctrl.errors import DesiredStateError
from mfs_ctrl.p4rt.entries import (
    ActionCall,
    DefaultAction,
    Entity,
    Exact,
    FieldMatch,
    GroupRef,
    Lpm,
    MeterConfig,
    ProfileGroup,
    ProfileMember,
    Range,
    TableEntry,
)
from topologies.topology import FULL_FRAME_BYTES, Host, Topology

NEXT_HOP_GROUP_SIZE = 64
"""Largest number of paths in a group; P4Runtime does not allow a change while the group exists."""
IDLE_GAP_NEVER_US = 0x1FFFFFFF
"""Same as in ``p4src/shared/constants.p4``."""
LATE_ANY = (0, 1)
PORT_PARAMETERS = (
    "untrusted_ports", "stamp_unaware_ports", "whole_stamp_ports", "dscp_ports", "police_shares", "registration_ports",
)  # fmt: skip
"""The parameters that name ports."""
_INTERVALS = {"late": LATE_ANY, "rli": ANY, "urgency": ANY, "slack_code": ANY, "remaining_code": ANY}
"""Fields of a rule that the table matches by range, and the ranges that match everything."""
FULL_FRAME_WIRE_BYTES = FULL_FRAME_BYTES + WIRE_OVERHEAD_BYTES
"""Bytes on the wire of a full frame: with FCS, preamble and gap."""


@dataclass(frozen=True, slots=True)
class SwitchParameters:
    """The operator's choices besides topology and policy. The defaults police nothing and mark nothing.

    Attributes:
        untrusted_ports: ports whose stamps are ignored.
        untagged_level: level of unstamped packets from trusted ports, and of stamps that no rule covers.
        untrusted_level: level of everything from untrusted ports.
        police_floor: this level and those above are metered per ingress port; 8 meters nothing.
        police_level: level of packets that exceed the meter.
        police_share: share of the port's rate that may arrive at metered levels before packets are lowered.
        police_shares: exceptions to ``police_share``, by port.
        police_burst_us: burst that the meter passes, as microseconds at the metered rate.
        ecn_frames: for each level, how long a packet may queue before it is marked, in full frames at the rate of the
            hosts' links; None never marks.
        stamp_unaware_ports: ports whose hosts do not know stamps; they are removed there. A host without an agent needs
            this for the shim alone: it ignores a TCP option.
        whole_stamp_ports: ports to hosts that want to see stamps in TCP options as they are. To other hosts, what
            differs between the packets of a flow is blanked, so that receive offload merges them.
        dscp_ports: ports to links that schedule by DSCP: packets leave with the class selector of their level.
        queue_bytes: byte limit of each level's queue.
        guaranteed_share: share of the port's rate that every level always gets. With ``queue_bytes`` it gives the idle
            gap after which a lower queue has drained, so that a flow may rise; with 0 there is no such gap.
        registration_ports: ports of hosts that want the registrations of RoCEv2 flows that are sent to them.
        registration_rate: registrations per second that each host's port may send.
        registration_burst: registrations that it may send at once.
        stage_dscp: the DSCP with which hosts without an agent send the RoCEv2 packets of each stage.
    """

    untrusted_ports: frozenset[int] = frozenset()
    untagged_level: int = UNTAGGED_LEVEL
    untrusted_level: int = 0
    police_floor: int = TOP_LEVEL
    police_level: int = 1
    police_share: float = 1.0
    police_shares: Mapping[int, float] = field(default_factory=dict)
    police_burst_us: int = 10_000
    ecn_frames: tuple[int | None, ...] = (None,) * LEVELS
    stamp_unaware_ports: frozenset[int] = frozenset()
    whole_stamp_ports: frozenset[int] = frozenset()
    dscp_ports: frozenset[int] = frozenset()
    queue_bytes: int = 256 * 1024
    guaranteed_share: float = float(GUARANTEED_SHARE)
    registration_ports: frozenset[int] = frozenset()
    registration_rate: int = 20_000
    registration_burst: int = 4_000
    stage_dscp: Mapping[Stage, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("untagged_level", "untrusted_level", "police_level"):
            if not 0 <= getattr(self, name) < LEVELS:
                raise DesiredStateError(f"{name} is a level of 0..{LEVELS - 1}, not {getattr(self, name)}")
        if not 0 <= self.police_floor <= LEVELS:
            raise DesiredStateError(f"police_floor is a level of 0..{LEVELS - 1} or {LEVELS}, not {self.police_floor}")
        if len(self.ecn_frames) != LEVELS:
            raise DesiredStateError(
                f"ecn_frames needs one number for each of {LEVELS} levels, not {len(self.ecn_frames)}"
            )
        if min((self.police_share, *self.police_shares.values())) <= 0 or not 0 <= self.guaranteed_share <= 1:
            raise DesiredStateError("police_share and police_shares must be above 0, and guaranteed_share in 0..1")
        if min(self.registration_rate, self.registration_burst) < 1:
            raise DesiredStateError("registration_rate and registration_burst must be 1 or more")
        dscps = self.stage_dscp.values()
        if Stage.NONE in self.stage_dscp or len(set(dscps)) < len(dscps) or not all(0 <= dscp < 64 for dscp in dscps):
            raise DesiredStateError("stage_dscp gives each stage but NONE a DSCP of its own, 0..63")


@dataclass(frozen=True, slots=True)
class PolicyRows:
    """Rows of ``rmlq`` for one policy and their idle gap, independent of the epoch."""

    rules: tuple[LevelRule, ...]
    idle_gap_us: int

    def entries(self, epoch: int) -> tuple[TableEntry, ...]:
        """Return the rows under epoch number ``epoch``; the first rule has the highest priority."""
        count = len(self.rules)
        return tuple(rmlq_row(rule, epoch, count - order) for order, rule in enumerate(self.rules))

    def activation(self, epoch: int) -> DefaultAction:
        """Return the default action that puts ``epoch`` into force."""
        return DefaultAction("epoch", ActionCall("activate", (epoch, self.idle_gap_us)))


def base_entities(topology: Topology, parameters: SwitchParameters, biases: Mapping[int, int]) -> tuple[Entity, ...]:
    """Return all entities except the policy: edge, routes, next hops, biases, marking, last hops and meters.

    ``biases`` has the bias code of each port of the topology.

    Raises:
        DesiredStateError: a parameter names a port that the topology does not have, or a bias is missing.
    """
    _check_ports(topology, parameters, biases)
    entities: list[Entity] = []
    for host in topology.hosts:
        entities += _path(host.port, (_forward(host.port, topology, host.mac),))
        entities += _routes(host, host.port)
    if topology.uplinks:
        # Identified by its first port, which belongs to no other path.
        group = topology.uplinks[0].port
        entities += _path(group, [_forward(uplink.port, topology, uplink.peer_mac) for uplink in topology.uplinks])
        for host in topology.remote_hosts:
            entities += _routes(host, group)
    for downlink in topology.downlinks:
        entities += _path(downlink.port, (_forward(downlink.port, topology, downlink.peer_mac),))
        for host in downlink.hosts:
            entities += _routes(host, downlink.port)
    rates = topology.rates
    host_ports = {host.port for host in topology.hosts}
    for port in topology.ports:
        entities.append(_edge_row(port, parameters))
        entities.append(_keyed("port_bias", "egress_port", port, ActionCall("set_bias", (biases[port],))))
        if port in parameters.stamp_unaware_ports:
            entities.append(_keyed("last_hop", "egress_port", port, ActionCall("remove_stamp")))
        elif port in host_ports - parameters.whole_stamp_ports:
            entities.append(_keyed("last_hop", "egress_port", port, ActionCall("blank_stamp")))
        if port in parameters.dscp_ports:
            entities += _dscp_rows(port)
        if port not in parameters.untrusted_ports and parameters.police_floor < LEVELS:
            entities.append(_police_meter(port, rates[port], parameters))
    for level, frames in enumerate(parameters.ecn_frames):
        if frames is not None:
            threshold_us = math.ceil(frames * FULL_FRAME_WIRE_BYTES * 8 * 1_000_000 / topology.rate_bps)
            entities.append(_keyed("ecn", "level", level, ActionCall("mark_above", (threshold_us,))))
    return tuple(entities)


def policy_rows(rules: Iterable[LevelRule], topology: Topology, parameters: SwitchParameters) -> PolicyRows:
    """Return the rows for ``rules``; the idle gap is the time after which the queue of any port has drained."""
    guaranteed_bps = parameters.guaranteed_share * min(topology.rates.values())
    drain_us = parameters.queue_bytes * 8 * 1_000_000 / guaranteed_bps if guaranteed_bps else math.inf
    return PolicyRows(tuple(rules), math.ceil(min(drain_us, IDLE_GAP_NEVER_US)))


def initial_biases(topology: Topology) -> dict[int, int]:
    """Return the bias code of each port without load."""
    return {port: bias_code(rate_bps) for port, rate_bps in topology.rates.items()}


def rmlq_row(rule: LevelRule, epoch: int, priority: int) -> TableEntry:
    """Return one rule as a row of ``rmlq``. Intervals that match everything are left out."""
    match: list[FieldMatch] = [("epoch", Exact(epoch)), ("stage", Exact(int(rule.stage)))]
    intervals = ((name, getattr(rule, name), whole) for name, whole in _INTERVALS.items())
    match += [(name, Range(*interval)) for name, interval, whole in intervals if interval != whole]
    return TableEntry("rmlq", tuple(match), ActionCall("set_level", (rule.level,)), priority)


def level_rule(row: TableEntry) -> LevelRule | None:
    """Return the rule that ``row`` of ``rmlq`` stands for, whatever its epoch; None if it is of another form."""
    fields = dict(row.match)
    stage = fields.get("stage")
    if not isinstance(stage, Exact) or stage.value not in set(Stage) or not isinstance(row.target, ActionCall):
        return None
    intervals: dict[str, tuple[int, int]] = {}
    for name, whole in _INTERVALS.items():
        match = fields.get(name, Range(*whole))
        if not isinstance(match, Range):
            return None
        intervals[name] = (match.low, match.high)
    return LevelRule(Stage(stage.value), row.target.args[0], **intervals)


def _path(group: int, hops: Iterable[ActionCall]) -> tuple[Entity, ...]:
    # A single path uses a group as well, so that a second path is just another member.
    members = tuple(ProfileMember("next_hop_selector", hop.args[0], hop) for hop in hops)
    weights = tuple((member.member_id, 1) for member in members)
    return (
        *members,
        ProfileGroup("next_hop_selector", group, weights, NEXT_HOP_GROUP_SIZE),
        TableEntry("next_hop", (("group", Exact(group)),), GroupRef(group)),
    )


def _forward(port: int, topology: Topology, neighbour_mac: bytes) -> ActionCall:
    """Return the hop through ``port``, which identifies the selector's member."""
    macs = int.from_bytes(topology.switch_mac, "big"), int.from_bytes(neighbour_mac, "big")
    return ActionCall("forward", (port, *macs))


def _routes(host: Host, group: int) -> tuple[Entity, ...]:
    to_group = ActionCall("set_next_hop_group", (group,))
    routes = [TableEntry("ipv4_route", (("dst_addr", Lpm(int(host.ipv4), 32)),), to_group)]
    if host.ipv6 is not None:
        routes.append(TableEntry("ipv6_route", (("dst_addr", Lpm(int(host.ipv6), 128)),), to_group))
    return tuple(routes)


def _edge_row(port: int, parameters: SwitchParameters) -> TableEntry:
    if port in parameters.untrusted_ports:
        return _keyed("edge", "ingress_port", port, ActionCall("distrust", (parameters.untrusted_level,)))
    args = (parameters.untagged_level, parameters.police_floor, parameters.police_level)
    return _keyed("edge", "ingress_port", port, ActionCall("trust", args))


def _dscp_rows(port: int) -> list[TableEntry]:
    """Return the rows for class selectors CS0 to CS7; higher is more urgent (RFC 2474, 4.2.2)."""
    return [
        TableEntry(
            "dscp", (("egress_port", Exact(port)), ("level", Exact(level))), ActionCall("write_dscp", (level << 3,))
        )
        for level in range(LEVELS)
    ]


def _police_meter(port: int, rate_bps: int, parameters: SwitchParameters) -> MeterConfig:
    share = parameters.police_shares.get(port, parameters.police_share)
    bytes_per_second = max(1, round(rate_bps * share / 8))
    burst = max(FULL_FRAME_WIRE_BYTES, bytes_per_second * parameters.police_burst_us // 1_000_000)
    return MeterConfig("police", port, bytes_per_second, burst, bytes_per_second, burst)


def _keyed(table: str, field: str, value: int, call: ActionCall) -> TableEntry:
    return TableEntry(table, ((field, Exact(value)),), call)


def _check_ports(topology: Topology, parameters: SwitchParameters, biases: Mapping[int, int]) -> None:
    ports = set(topology.ports)
    if len(ports) != len(topology.ports):
        raise DesiredStateError("two links of the topology share a switch port; give each its own")
    if topology.remote_hosts and not topology.uplinks:
        raise DesiredStateError("the topology has hosts in other racks, but no uplink to them; add one")
    for name in PORT_PARAMETERS:
        if stray := set(getattr(parameters, name)) - ports:
            raise DesiredStateError(f"{name} names ports {sorted(stray)}; the topology has {sorted(ports)}")
    if missing := ports - biases.keys():
        raise DesiredStateError(f"ports {sorted(missing)} have no bias")
