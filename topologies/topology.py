"""Hosts, their addresses, the switch ports they are connected to, and links between switches. Pure data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from host_agent.protocol.stamp import STAMP_BYTES
from host_agent.protocol.units import ETHERNET_HEADER_BYTES

SWITCH_MAC = bytes((0x02, 0, 0, 0, 0, 0xFE))
SECOND_SWITCH_MAC = bytes((0x02, 0, 0, 0, 0, 0xFD))
MOST_SPINES = 8
PAYLOAD_MTU = 1500
"""Longest IP packet of a host, bytes."""
LINK_MTU = PAYLOAD_MTU + STAMP_BYTES
"""MTU of links on real interfaces: room for the stamp and a packet of :data:`PAYLOAD_MTU`."""
FULL_FRAME_BYTES = ETHERNET_HEADER_BYTES + LINK_MTU
"""Length of a frame with a stamp and a packet of :data:`PAYLOAD_MTU`, without FCS."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of a network interface: MAC address (6 bytes) and IP addresses."""

    mac: bytes
    ipv4: IPv4Address
    ipv6: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """A network interface of a server, and the switch port that it is connected to.

    Attributes:
        id: number of the interface among all servers.
        server: number of the server, from 0.
        nic: number of the interface within its server, from 0.
        port: switch port.
        addresses: addresses that differ from the address plan; the properties describe the plan.
    """

    id: int
    server: int
    nic: int
    port: int
    addresses: Addresses | None = None

    @property
    def name(self) -> str:
        """Name for users, such as ``s2n1``: server and interface, both from 1."""
        return f"s{self.server + 1}n{self.nic + 1}"

    @property
    def mac(self) -> bytes:
        """MAC address, 6 bytes; locally administered in the address plan."""
        return self.addresses.mac if self.addresses else bytes((0x02, 0, 0, 0, self.server + 1, self.nic + 1))

    @property
    def ipv4(self) -> IPv4Address:
        """IPv4 address; 10.0.SERVER.NIC in the address plan, both from 1."""
        return self.addresses.ipv4 if self.addresses else IPv4Address(f"10.0.{self.server + 1}.{self.nic + 1}")

    @property
    def ipv6(self) -> IPv6Address | None:
        """IPv6 address, if there is one; fd00::SERVER:NIC in the address plan, both from 1."""
        return self.addresses.ipv6 if self.addresses else IPv6Address(f"fd00::{self.server + 1:x}:{self.nic + 1:x}")


@dataclass(frozen=True, slots=True)
class Uplink:
    """A port of a ToR that leads to another switch, and through it to all hosts of other racks.

    Attributes:
        port: port of this switch.
        rate_bps: rate in bits per second of wire bytes.
        peer_mac: MAC address of the other switch, 6 bytes.
    """

    port: int
    rate_bps: int
    peer_mac: bytes


@dataclass(frozen=True, slots=True)
class Downlink:
    """A port of a spine switch that leads to the ToR of a rack.

    Attributes:
        port: port of the spine switch.
        rate_bps: rate in bits per second of wire bytes.
        peer_mac: MAC address of the ToR, 6 bytes.
        hosts: hosts of the rack.
    """

    port: int
    rate_bps: int
    peer_mac: bytes
    hosts: tuple[Host, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """The network as one switch sees it. A ToR has no downlinks; a spine switch has nothing else.

    Attributes:
        hosts: hosts on the ports of this switch.
        rate_bps: rate of the hosts' links in bits per second of wire bytes.
        propagation_ns: one-way propagation delay of a link in nanoseconds.
        switch_mac: MAC address of the switch, 6 bytes.
        uplinks: ports to other switches; packets for ``remote_hosts`` are spread over all of them.
        remote_hosts: hosts of other racks; their ports are ports of their own switch.
        downlinks: ports of a spine switch.
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
        """The switch ports in use, in ascending order."""
        return tuple(sorted([*(host.port for host in self.hosts), *(trunk.port for trunk in self.trunks)]))

    @property
    def rates(self) -> dict[int, int]:
        """The rate of each port in use, in bits per second of wire bytes."""
        rates = dict.fromkeys(self.ports, self.rate_bps)
        rates.update((trunk.port, trunk.rate_bps) for trunk in self.trunks)
        return rates


def tor(servers: int = 8, nics: int = 2, rate_bps: int = 100_000_000_000, propagation_ns: int = 1_000) -> Topology:
    """Return one top-of-rack switch (ToR). Host ``id`` is ``server * nics + nic`` and is connected to port ``id + 1``.

    Args:
        servers: number of servers.
        nics: interfaces per server.
        rate_bps: rate of each link in bits per second of wire bytes.
        propagation_ns: one-way propagation delay of a link in nanoseconds.

    Raises:
        ValueError: fewer than one server or interface, or more than the address plan has room for.
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
    """Return two racks whose ToRs are connected directly.

    Hosts are numbered as in :func:`tor`. Ports are numbered from 1 on each switch, hosts first, then uplinks; the n-th
    uplink of one switch leads to the n-th of the other.

    Args:
        servers: number of servers in both racks.
        nics: interfaces per server.
        rate_bps: rate of each host's link in bits per second of wire bytes.
        propagation_ns: one-way propagation delay of a link in nanoseconds.
        second_rack_from: first server of the second rack.
        uplinks: number of links between the ToRs.
        uplink_rate_bps: rate of an uplink; by default the rate of the hosts' links.

    Raises:
        ValueError: a rack without servers, no uplink, or more servers or interfaces than the address plan has room for.
    """
    _check_size(servers, nics)
    if not 0 < second_rack_from < servers:
        raise ValueError(
            f"each of two racks needs a server; the second cannot start at server {second_rack_from} of {servers}"
        )
    if uplinks < 1:
        raise ValueError(f"two racks need at least one uplink, not {uplinks}")
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
    """Return two racks with half of the servers each; every ToR has an uplink to each spine switch.

    Hosts are numbered as in :func:`tor`. Ports are numbered from 1 on each switch, hosts first, then uplinks; port 1 of
    a spine switch leads to the first ToR.

    Args:
        servers: number of servers in both racks.
        nics: interfaces per server.
        rate_bps: rate of each host's link in bits per second of wire bytes.
        propagation_ns: one-way propagation delay of a link in nanoseconds.
        spines: number of spine switches.
        uplink_rate_bps: rate of an uplink; by default the rate of the hosts' links.

    Returns:
        The ToRs, then the spine switches.

    Raises:
        ValueError: fewer than two servers, no spine switch or too many, or as for :func:`tor`.
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
    """A static neighbour entry of a host: one address of another server. The switch does not answer ARP.

    Attributes:
        host: host that has the entry.
        own: address that the host sends from.
        address: address of the other server.
        mac: MAC address of the host's switch, 6 bytes.
    """

    host: Host
    own: IPv4Address | IPv6Address
    address: IPv4Address | IPv6Address
    mac: bytes


def neighbours(topologies: Sequence[Topology]) -> tuple[Neighbour, ...]:
    """Return the neighbours of all hosts; the n-th interface of a server reaches the n-th interfaces of the others."""
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
    """One end of a link between switches: index of the switch among the topologies, and port."""

    switch: int
    port: int


def cables(topologies: Sequence[Topology]) -> tuple[tuple[End, End], ...]:
    """Return the links between switches. Several links between two switches are paired in the order of their ports.

    Raises:
        ValueError: a port leads to a missing switch, or the other switch has no port that leads back.
    """
    number_of = {topology.switch_mac: number for number, topology in enumerate(topologies)}
    ends: dict[tuple[int, int], list[End]] = defaultdict(list)
    for number, topology in enumerate(topologies):
        for trunk in sorted(topology.trunks, key=lambda trunk: trunk.port):
            if (peer := number_of.get(trunk.peer_mac)) is None:
                raise ValueError(
                    f"port {trunk.port} of switch {number + 1} leads to a switch that is not among the topologies"
                )
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
        raise ValueError(f"a ToR has 1 to 200 servers with 1 to 8 interfaces each, not {servers} with {nics}")
