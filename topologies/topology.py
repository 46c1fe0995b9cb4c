"""Hosts, their addresses, the ports of the switch they hang on, and links between switches. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

SWITCH_MAC = bytes((0x02, 0, 0, 0, 0, 0xFE))
SECOND_SWITCH_MAC = bytes((0x02, 0, 0, 0, 0, 0xFD))


@dataclass(frozen=True, slots=True)
class Host:
    """One network interface of one server, and the switch port it is connected to."""

    id: int
    server: int
    nic: int
    port: int

    @property
    def name(self) -> str:
        """For people: server and interface, both from 1."""
        return f"s{self.server + 1}n{self.nic + 1}"

    @property
    def mac(self) -> bytes:
        """A locally administered MAC address, 6 bytes."""
        return bytes((0x02, 0, 0, 0, self.server + 1, self.nic + 1))

    @property
    def ipv4(self) -> IPv4Address:
        """10.0.SERVER.NIC, both from 1."""
        return IPv4Address(f"10.0.{self.server + 1}.{self.nic + 1}")

    @property
    def ipv6(self) -> IPv6Address:
        """fd00::SERVER:NIC, both from 1."""
        return IPv6Address(f"fd00::{self.server + 1:x}:{self.nic + 1:x}")


@dataclass(frozen=True, slots=True)
class Uplink:
    """A port of a switch that leads to another switch, over which all hosts that are not its own are reached.

    ``rate_bps`` is in bits per second of wire bytes, ``peer_mac`` the other switch's MAC address, 6 bytes.
    """

    port: int
    rate_bps: int
    peer_mac: bytes


@dataclass(frozen=True, slots=True)
class Topology:
    """One top-of-rack switch, as it sees the network: hosts on its ports, links to them all alike, and uplinks.

    ``rate_bps`` is in bits per second of wire bytes, ``propagation_ns`` one way. ``remote_hosts`` are those of other
    racks: packets for them are spread over all ``uplinks``. Ports of remote hosts are ports of their own switch.
    """

    hosts: tuple[Host, ...]
    rate_bps: int
    propagation_ns: int
    switch_mac: bytes = SWITCH_MAC
    uplinks: tuple[Uplink, ...] = ()
    remote_hosts: tuple[Host, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """The switch ports in use, ascending."""
        return tuple(sorted([*(host.port for host in self.hosts), *(uplink.port for uplink in self.uplinks)]))

    @property
    def rates(self) -> dict[int, int]:
        """The rate of each port in use, in bits per second of wire bytes."""
        rates = dict.fromkeys(self.ports, self.rate_bps)
        rates.update((uplink.port, uplink.rate_bps) for uplink in self.uplinks)
        return rates


def tor(
    servers: int = 8,
    nics: int = 2,
    rate_bps: int = 100_000_000_000,
    propagation_ns: int = 1_000,
    ports: Sequence[int] = (),
) -> Topology:
    """One ToR with ``servers`` servers of ``nics`` interfaces each; host ``server * nics + nic`` is on port id + 1.

    ``ports`` gives the port of each host instead, for switches that number theirs otherwise.

    Raises:
        ValueError: fewer than one server or interface, or more than fit the address plan, or a port for each but some.
    """
    _check_size(servers, nics)
    hosts = _rack(range(servers), nics)
    if ports:
        if len(set(ports)) != len(hosts) or len(ports) != len(hosts):
            raise ValueError(f"{len(hosts)} interfaces need as many different ports, not {list(ports)}")
        hosts = tuple(replace(host, port=port) for host, port in zip(hosts, ports, strict=True))
    return Topology(hosts, rate_bps, propagation_ns)


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


def _rack(servers: range, nics: int) -> tuple[Host, ...]:
    pairs = [(server, nic) for server in servers for nic in range(nics)]
    return tuple(Host(server * nics + nic, server, nic, port) for port, (server, nic) in enumerate(pairs, 1))


def _check_size(servers: int, nics: int) -> None:
    if not (1 <= servers <= 200 and 1 <= nics <= 8):
        raise ValueError(f"a ToR has 1 to 200 servers of 1 to 8 interfaces, not {servers} of {nics}")
