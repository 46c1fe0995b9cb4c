"""The compiled MFS program with a rack's entries, for tests that send it packets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from host_agent.protocol.level import CODE_MAX, LevelRule
from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import LEVELS
from p4src import artifact
from soft_switch.backend import Backend, backend_of_environment
from soft_switch.pipeline import Pipeline
from soft_switch.tables.matches import ActionCall, Exact, Lpm, Member, Range
from topologies.topology import Topology, tor

UNTAGGED_LEVEL = 2
UNTRUSTED_LEVEL = 1
NO_POLICING = LEVELS


@dataclass(frozen=True)
class Out:
    """A packet that left the switch."""

    port: int
    level: int
    packet: Packet

    @property
    def stamp(self) -> MFS:
        return self.packet[MFS]


def ether(**fields: int) -> Ether:
    """An Ethernet header with both addresses: without, Scapy would ask the network for them."""
    return Ether(src="02:00:00:00:09:09", dst="02:00:00:00:00:fe", **fields)


class Program:
    """Hosts of a ToR behind ports 1, 2, ...; all but the last port are trusted."""

    def __init__(self, topology: Topology | None = None, backend: Backend | None = None) -> None:
        self.topology = topology or tor(servers=2, nics=2)
        self.pipeline = Pipeline.load(artifact.load().config, backend or backend_of_environment())
        self.untrusted = self.topology.ports[-1]
        tables = self.pipeline.tables
        for host in self.topology.hosts:
            group = host.port
            self.pipeline.action_profiles["next_hop_selector"].add_member(group, self._forward(host.port, host.mac))
            tables["next_hop"].insert((Exact(group),), 0, Member(group))
            for table, address, bits in (("ipv4_route", host.ipv4, 32), ("ipv6_route", host.ipv6, 128)):
                tables[table].insert((Lpm(int(address), bits),), 0, ActionCall("set_next_hop_group", (group,)))
            self.trust(host.port) if host.port != self.untrusted else None
        tables["edge"].set_default(ActionCall("distrust", (UNTRUSTED_LEVEL,)))

    def _forward(self, port: int, mac: bytes) -> ActionCall:
        arguments = (port, int.from_bytes(self.topology.switch_mac), int.from_bytes(mac))
        return ActionCall("forward", arguments)

    def trust(self, port: int, police_floor: int = NO_POLICING, police_level: int = 0) -> None:
        edge = self.pipeline.tables["edge"]
        call = ActionCall("trust", (UNTAGGED_LEVEL, police_floor, police_level))
        if edge.get((Exact(port),), 0) is None:
            edge.insert((Exact(port),), 0, call)
        else:
            edge.modify((Exact(port),), 0, call)

    def own(self, port: int, address: IPv4Address | IPv6Address) -> None:
        """Make ``address`` one of those behind ``port``."""
        table, bits = ("ipv4_source", 32) if address.version == 4 else ("ipv6_source", 128)
        row = (Exact(port), Lpm(int(address), bits))
        self.pipeline.tables[table].insert(row, 0, ActionCall("accept_source", ()))

    def set_rules(self, rules: Sequence[LevelRule], epoch: int = 0, idle_gap_us: int = 0xFFFFFFFF) -> None:
        """Write ``rules`` for ``epoch`` and put that epoch in force."""
        for index, rule in enumerate(rules):
            ranges = (rule.late, rule.rli, rule.urgency, rule.slack_code, rule.remaining_code)
            match = (Exact(epoch), Exact(int(rule.stage)), *(Range(low, high) for low, high in ranges))
            self.pipeline.tables["rmlq"].insert(match, len(rules) - index, ActionCall("set_level", (rule.level,)))
        self.pipeline.tables["epoch"].set_default(ActionCall("activate", (epoch, idle_gap_us)))

    def set_bias(self, bias: int) -> None:
        for port in self.topology.ports:
            self.pipeline.tables["port_bias"].insert((Exact(port),), 0, ActionCall("set_bias", (bias,)))

    def send(self, packet: Packet | bytes, port: int = 1, now_us: int = 0, queued_us: int = 0) -> Out | None:
        """Send a packet into ``port``, which queues for ``queued_us``; None if it was dropped."""
        left = self.send_bytes(bytes(packet), port, now_us, queued_us)
        return None if left is None else Out(*left[:2], Ether(left[2]))

    def send_bytes(self, data: bytes, port: int, now_us: int, queued_us: int = 0) -> tuple[int, int, bytes] | None:
        """The same, with port, level and bytes of what left."""
        now_ns = now_us * 1000
        ingressed = self.pipeline.ingress(port, data, now_ns)
        if ingressed is None:
            return None
        out_port, level = ingressed.egress_port, ingressed.priority
        left = self.pipeline.egress(ingressed, now_ns, now_ns + queued_us * 1000, 0, 0)
        return None if left is None else (out_port, level, left)

    def counter(self, name: str, index: int) -> int:
        return self.pipeline.counters[name].packets[index]


def ipv4_to(topology: Topology, host: int, stamp: MFS | None = None, **fields: int) -> Packet:
    """A UDP packet over IPv4 to ``host``, stamped if ``stamp`` is given."""
    inner = IP(src="10.9.9.9", dst=str(topology.hosts[host].ipv4), **fields) / UDP(sport=1000, dport=2000) / (b"x" * 40)
    return ether() / stamp / inner if stamp is not None else ether() / inner


def ipv6_to(topology: Topology, host: int, stamp: MFS | None = None, **fields: int) -> Packet:
    """The same over IPv6."""
    inner = IPv6(src="fd00::9", dst=str(topology.hosts[host].ipv6), **fields) / UDP(sport=1, dport=2) / (b"x" * 40)
    return ether() / stamp / inner if stamp is not None else ether() / inner


def anything(stage: int, level: int, **ranges: tuple[int, int]) -> LevelRule:
    """A rule in which every range is open except those given."""
    return LevelRule(stage=stage, level=level, **ranges)  # type: ignore[arg-type]


EVERY_CODE = (0, CODE_MAX)
