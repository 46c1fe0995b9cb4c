"""Servers, NICs and GPUs, and their roles.

A host of the network is one NIC, numbered ``server * nics_per_server + nic``. NICs with the same index in different
servers form a rail.
"""

from __future__ import annotations

from dataclasses import dataclass

from mfs_eval.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster of identical servers.

    Attributes:
        servers: number of servers.
        nics_per_server: NICs per server.
        gpus_per_server: GPUs per server.
        units: the servers of each prefill unit.
        decode_servers: servers that receive the KV cache of new prompts; they may also belong to prefill units.
        nic_bits_per_second: rate of a NIC.

    Raises:
        ClusterError: a server does not exist or belongs to two units, or a unit or decode server is missing.
    """

    servers: int
    nics_per_server: int
    gpus_per_server: int
    units: tuple[tuple[int, ...], ...]
    decode_servers: tuple[int, ...]
    nic_bits_per_second: int = 100_000_000_000

    def __post_init__(self) -> None:
        if min(self.servers, self.nics_per_server, self.gpus_per_server, self.nic_bits_per_second) < 1:
            raise ClusterError("a cluster needs at least one server, NIC and GPU, and a NIC rate above 0")
        if not self.units or not all(self.units):
            raise ClusterError("a cluster needs at least one prefill unit, and each unit at least one server")
        if not self.decode_servers:
            raise ClusterError("a cluster needs at least one decode server")
        in_units = [server for unit in self.units for server in unit]
        for server in (*in_units, *self.decode_servers):
            if not 0 <= server < self.servers:
                raise ClusterError(f"server {server} does not exist; servers are 0 to {self.servers - 1}")
        for server in in_units:
            if in_units.count(server) > 1:
                raise ClusterError(f"server {server} belongs to more than one prefill unit")

    @property
    def hosts(self) -> int:
        """Number of hosts, which are NICs."""
        return self.servers * self.nics_per_server

    def host(self, server: int, nic: int) -> int:
        """Return the host number of NIC ``nic`` of ``server``."""
        return server * self.nics_per_server + nic

    def unit_hosts(self, unit: int) -> tuple[int, ...]:
        """Return the hosts of a prefill unit, server by server."""
        return tuple(self.host(server, nic) for server in self.units[unit] for nic in range(self.nics_per_server))

    def unit_gpus(self, unit: int) -> int:
        """Return the number of GPUs of a prefill unit."""
        return len(self.units[unit]) * self.gpus_per_server

    def decode_server(self, request: int, unit: int) -> int:
        """Return the server that decodes the request with index ``request``, if possible outside ``unit``.

        Servers take turns by index, not by load, because the choice must not depend on the network's policy.
        """
        apart = [server for server in self.decode_servers if server not in self.units[unit]] or self.decode_servers
        return apart[request % len(apart)]


def testbed() -> Cluster:
    """Return eight servers with 2 x 100 Gb/s and 4 GPUs each: two prefill units of two servers, four decode servers."""
    return Cluster(8, 2, 4, units=((0, 1), (2, 3)), decode_servers=(4, 5, 6, 7))


def incast() -> Cluster:
    """Return three prefill units of two servers, and one decode server that receives the KV cache of all requests.

    With the two units of :func:`testbed` its ports would be busy half of the time; with three they are the bottleneck.
    """
    return Cluster(8, 2, 4, units=((0, 1), (2, 3), (4, 5)), decode_servers=(6,))


def colocated() -> Cluster:
    """Return four prefill units of two servers that also decode what other units have computed, over the same NICs."""
    return Cluster(8, 2, 4, units=((0, 1), (2, 3), (4, 5), (6, 7)), decode_servers=tuple(range(8)))


def four_units() -> Cluster:
    """Return four prefill units of two servers and four decode servers; with one server a unit has no collectives."""
    return Cluster(12, 2, 4, units=((0, 1), (2, 3), (4, 5), (6, 7)), decode_servers=(8, 9, 10, 11))
