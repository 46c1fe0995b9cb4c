"""Hosts, their addresses, and the ports of the switch they hang on. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address


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
class Topology:
    """One top-of-rack switch and the hosts on its ports; all links alike.

    ``rate_bps`` is in bits per second of wire bytes, ``propagation_ns`` one way.
    """

    hosts: tuple[Host, ...]
    rate_bps: int
    propagation_ns: int
    switch_mac: bytes = bytes((0x02, 0, 0, 0, 0, 0xFE))

    @property
    def ports(self) -> tuple[int, ...]:
        """The switch ports in use, ascending."""
        return tuple(sorted(host.port for host in self.hosts))


def tor(servers: int = 8, nics: int = 2, rate_bps: int = 100_000_000_000, propagation_ns: int = 1_000) -> Topology:
    """One ToR with ``servers`` servers of ``nics`` interfaces each; host ``server * nics + nic`` is on port id + 1.

    Raises:
        ValueError: fewer than one server or interface, or more than fit the address plan.
    """
    if not (1 <= servers <= 200 and 1 <= nics <= 8):
        raise ValueError(f"a ToR has 1 to 200 servers of 1 to 8 interfaces, not {servers} of {nics}")
    hosts = tuple(
        Host(server * nics + nic, server, nic, server * nics + nic + 1)
        for server in range(servers)
        for nic in range(nics)
    )
    return Topology(hosts, rate_bps, propagation_ns)
