"""Hosts, their addresses, the ports of the switch they hang on, and links between switches. Pure data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from host_agent.protocol.stamp import STAMP_BYTES

SWITCH_MAC = bytes((0x02, 0, 0, 0, 0, 0xFE))
SECOND_SWITCH_MAC = bytes((0x02, 0, 0, 0, 0, 0xFD))
MOST_SPINES = 8
PAYLOAD_MTU = 1500
"""Longest IP packet of a host, bytes."""
LINK_MTU = PAYLOAD_MTU + STAMP_BYTES
"""MTU of links of real interfaces: there is room for the stamp."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Of one network interface: MAC address, 6 bytes, and IP addresses."""

    mac: bytes
    ipv4: IPv4Address
    ipv6: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """One network interface of one server, and the switch port it is connected to.

    ``addresses`` are its own where they are not those of the address plan, which the properties describe.
    """

    id: int
    server: int
    nic: int
    port: int
    addresses: Addresses | None = None

    @property
    def name(self) -> str:
        """For people: server and interface, both from 1."""
        return f"s{self.server + 1}n{self.nic + 1}"

    @property
    def mac(self) -> bytes:
        """Its MAC address, 6 bytes; by the plan a locally administered one."""
        return self.addresses.mac if self.addresses else bytes((0x02, 0, 0, 0, self.server + 1, self.nic + 1))

    @property
    def ipv4(self) -> IPv4Address:
        """Its address; by the plan 10.0.SERVER.NIC, both from 1."""
        return self.addresses.ipv4 if self.addresses else IPv4Address(f"10.0.{self.server + 1}.{self.nic + 1}")

    @property
    def ipv6(self) -> IPv6Address | None:
        """Its address, if it has one; by the plan fd00::SERVER:NIC, both from 1."""
        return self.addresses.ipv6 if self.addresses else IPv6Address(f"fd00::{self.server + 1:x}:{self.nic + 1:x}")


@dataclass(frozen=True, slots=True)
class Uplink:
    """A port of a switch that leads to another switch, over which all hosts that are not its own are reached.

    ``rate_bps`` is in bits per second of wire bytes, ``peer_mac`` the other switch's MAC address, 6 bytes.
    """

    port: int
    rate_bps: int
    peer_mac: bytes


@dataclass(frozen=True, slots=True)
class Downlink:
    """A port of a spine switch that leads to a rack's ToR, over which ``hosts``, those of the rack, are reached.

    ``rate_bps`` is in bits per second of wire bytes, ``peer_mac`` the ToR's MAC address, 6 bytes.
    """

    port: int
    rate_bps: int
    peer_mac: bytes
    hosts: tuple[Host, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """One switch, as it sees the network: hosts on its ports, links to them all alike, uplinks and downlinks.

    ``rate_bps`` is in bits per second of wire bytes, ``propagation_ns`` one way. ``remote_hosts`` are those of other
    racks: packets for them are spread over all ``uplinks``. Ports of remote hosts are ports of their own switch. A ToR
    has no downlinks; a spine switch has nothing else.
    """

    hosts: tuple[Host, ...]
    rate_bps: int
    propagation_ns: int
    switch_mac: bytes = SWITCH_MAC
    uplinks: tuple[Uplink, ...] = ()
    remote_hosts: tuple[Host, ...] = ()
    downlinks: tuple[Downlink, ...] = ()

    @property
    def trunks(self) -> tuple[Uplink | Downlink, ...]:
        """The ports that lead to other switches."""
        return (*self.uplinks, *self.downlinks)

    @property
    def ports(self) -> tuple[int, ...]:
        """The switch ports in use, ascending."""
        return tuple(sorted([*(host.port for host in self.hosts), *(trunk.port for trunk in self.trunks)]))

    @property
    def rates(self) -> dict[int, int]:
        """The rate of each port in use, in bits per second of wire bytes."""
        rates = dict.fromkeys(self.ports, self.rate_bps)
        rates.update((trunk.port, trunk.rate_bps) for trunk in self.trunks)
        return rates


def tor(servers: int = 8, nics: int = 2, rate_bps: int = 100_000_000_000, propagation_ns: int = 1_000) -> Topology:
    """One ToR with ``servers`` servers of ``nics`` interfaces each; host ``server * nics + nic`` is on port id + 1.

    Raises:
        ValueError: fewer than one server or interface, or more than fit the address plan.
    """
    _check_size(servers, nics)
    return Topology(_rack(range(servers), nics), rate_bps, propagation_ns)


def two_tors(
    servers: int,
    nics: int,
    rate_bps: int,
    propagation_ns: int,
    *,
    second_rack_from: int,
    uplinks: int = 1,
    uplink_rate_bps: int | None = None,
) -> tuple[Topology, Topology]:
    """Two racks whose ToRs are joined by ``uplinks`` links; servers from ``second_rack_from`` on are in the second.

    Hosts are numbered as in :func:`tor`; ports are numbered from 1 on each switch, hosts first, then uplinks. The
    n-th uplink of one leads to the n-th of the other. Without ``uplink_rate_bps`` they are as fast as hosts' links.

    Raises:
        ValueError: a rack without servers, no uplink, or more servers or interfaces than fit the address plan.
    """
    _check_size(servers, nics)
    if not 0 < second_rack_from < servers:
        raise ValueError(f"each of two racks needs a server; of {servers} the second cannot have {second_rack_from} on")
    if uplinks < 1:
        raise ValueError(f"two racks are joined by at least one uplink, not {uplinks}")
    racks = _rack(range(second_rack_from), nics), _rack(range(second_rack_from, servers), nics)
    macs = SWITCH_MAC, SECOND_SWITCH_MAC
    first, second = (
        Topology(
            racks[own],
            rate_bps,
            propagation_ns,
            macs[own],
            tuple(
                Uplink(len(racks[own]) + number + 1, uplink_rate_bps or rate_bps, macs[1 - own])
                for number in range(uplinks)
            ),
            racks[1 - own],
        )
        for own in (0, 1)
    )
    return first, second


def leaf_spine(
    servers: int = 8,
    nics: int = 1,
    rate_bps: int = 100_000_000_000,
    propagation_ns: int = 1_000,
    *,
    spines: int = 2,
    uplink_rate_bps: int | None = None,
) -> tuple[Topology, ...]:
    """Two racks with half of ``servers`` each; every ToR has an uplink to each spine switch. ToRs first, then spines.

    Hosts are numbered as in :func:`tor`; ports are numbered from 1 on each switch, hosts first, then uplinks; on a
    spine, port 1 leads to the first ToR. Without ``uplink_rate_bps`` uplinks are as fast as hosts' links.

    Raises:
        ValueError: fewer than two servers, no spine or more than there are addresses for, or as for :func:`tor`.
    """
    if not 1 <= spines <= MOST_SPINES:
        raise ValueError(f"a leaf-spine network has 1 to {MOST_SPINES} spine switches, not {spines}")
    macs = [bytes((0x02, 0, 0, 0, 0, 0xFC - number)) for number in range(spines)]
    tors = two_tors(
        servers,
        nics,
        rate_bps,
        propagation_ns,
        second_rack_from=(servers + 1) // 2,
        uplinks=spines,
        uplink_rate_bps=uplink_rate_bps,
    )
    leaves = tuple(
        replace(
            rack,
            uplinks=tuple(replace(uplink, peer_mac=mac) for uplink, mac in zip(rack.uplinks, macs, strict=True)),
        )
        for rack in tors
    )
    downlinks = tuple(
        Downlink(port, uplink_rate_bps or rate_bps, rack.switch_mac, rack.hosts) for port, rack in enumerate(leaves, 1)
    )
    return (*leaves, *(Topology((), rate_bps, propagation_ns, mac, downlinks=downlinks) for mac in macs))


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What ``host`` needs to know to reach one address of another server: the switch answers no ARP.

    ``own`` is the address that it sends from, ``mac`` the MAC address of its switch, 6 bytes.
    """

    host: Host
    own: IPv4Address | IPv6Address
    address: IPv4Address | IPv6Address
    mac: bytes


def neighbours(topologies: Sequence[Topology]) -> tuple[Neighbour, ...]:
    """The neighbours of all hosts; the n-th interface of a server reaches the n-th of the others."""
    everyone = [(host, topology.switch_mac) for topology in topologies for host in topology.hosts]
    return tuple(
        Neighbour(host, own, address, mac)
        for host, mac in everyone
        for other, _ in everyone
        if other.server != host.server and other.nic == host.nic
        for own, address in ((host.ipv4, other.ipv4), (host.ipv6, other.ipv6))
        if own is not None and address is not None
    )


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link between switches: the number of the switch among the topologies, and its port."""

    switch: int
    port: int


def cables(topologies: Sequence[Topology]) -> tuple[tuple[End, End], ...]:
    """The links between switches. Several between the same two join in the order of their ports.

    Raises:
        ValueError: a port leads to a switch that is not there, or does not lead back.
    """
    number_of = {topology.switch_mac: number for number, topology in enumerate(topologies)}
    ends: dict[tuple[int, int], list[End]] = defaultdict(list)
    for number, topology in enumerate(topologies):
        for trunk in sorted(topology.trunks, key=lambda trunk: trunk.port):
            if (peer := number_of.get(trunk.peer_mac)) is None:
                raise ValueError(f"port {trunk.port} of switch {number + 1} leads to a switch that is not there")
            ends[number, peer].append(End(number, trunk.port))
    return tuple(
        pair
        for (near, far), own in ends.items()
        if near < far or (far, near) not in ends
        for pair in zip(own, ends.get((far, near), ()), strict=True)
    )


def _rack(servers: range, nics: int) -> tuple[Host, ...]:
    pairs = [(server, nic) for server in servers for nic in range(nics)]
    return tuple(Host(server * nics + nic, server, nic, port) for port, (server, nic) in enumerate(pairs, 1))


def _check_size(servers: int, nics: int) -> None:
    if not (1 <= servers <= 200 and 1 <= nics <= 8):
        raise ValueError(f"a ToR has 1 to 200 servers of 1 to 8 interfaces, not {servers} of {nics}")
