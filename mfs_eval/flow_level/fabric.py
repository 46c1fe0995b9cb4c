"""Links and the paths over them: the racks of the packet-level engine, and fat-trees with equal-cost multipath (ECMP).

A host is one NIC of a server (:mod:`mfs_eval.serving.cluster`). Traffic within a server goes over NVLink and is not
modelled here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mfs_eval.errors import ClusterError
from mfs_eval.flow_level.shares import MAX_HOPS, NONE, Ints
from mfs_eval.serving.coordination import ports
from mfs_eval.setup.scenario import Scenario


class Fabric(Protocol):
    """Links and the paths of flows. The NIC of host h sends over link 2 h and receives over link 2 h + 1."""

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        ...

    @property
    def rates_bps(self) -> tuple[int, ...]:
        """Rate of each unidirectional link, in bits per second of wire bytes."""
        ...

    @property
    def propagation_ns(self) -> int:
        """One-way delay of each link."""
        ...

    def paths(self, sources: Ints, destinations: Ints, draws: Ints) -> Ints:
        """Return the links from hosts to other hosts, one row per pair: first the sender's NIC, :data:`NONE` last.

        ``draws``, which are not negative, choose among paths of equal cost.
        """
        ...


@dataclass(frozen=True, slots=True)
class Racks:
    """One top-of-rack switch, or two that are joined by uplinks.

    Attributes:
        hosts: number of hosts.
        rate_bps: rate of every link.
        propagation_ns: one-way delay of every link.
        second_rack_from: the first host of the second rack; None if there is one rack.
        uplinks: links between the racks in each direction.
    """

    hosts: int
    rate_bps: int
    propagation_ns: int = 1_000
    second_rack_from: int | None = None
    uplinks: int = 0

    @property
    def rates_bps(self) -> tuple[int, ...]:
        """See :class:`Fabric`."""
        return (self.rate_bps,) * (2 * self.hosts + 2 * self.uplinks)

    def paths(self, sources: Ints, destinations: Ints, draws: Ints) -> Ints:
        """See :class:`Fabric`."""
        up, down = ports(sources, destinations)
        rows = _rows(up, down)
        if self.second_rack_from is not None:
            here, there = (hosts >= self.second_rack_from for hosts in (sources, destinations))
            uplink = 2 * self.hosts + self.uplinks * here + draws % self.uplinks
            rows[:, 1] = np.where(here == there, down, uplink)
            rows[:, 2] = np.where(here == there, NONE, down)
        return rows


def racks_of(scenario: Scenario) -> Racks:
    """Return the racks of ``scenario`` at its scaled rates."""
    first, *others = scenario.tors
    hosts = len(first.hosts) + len(first.remote_hosts)
    border = min(host.id for host in others[0].hosts) if others else None
    return Racks(hosts, first.rate_bps, first.propagation_ns, border, len(first.uplinks))


@dataclass(frozen=True, slots=True)
class FatTree:
    """A three-tier fat-tree (Al-Fares, Loukissas and Vahdat, SIGCOMM 2008), optionally oversubscribed at the edge.

    An edge switch has ``servers_per_edge`` servers and one uplink to each aggregation switch of its pod. The rate of
    its hosts is ``oversubscription`` times that of its uplinks. An aggregation switch has as many uplinks as downlinks;
    its n-th uplink leads to a core switch that has a link to the same aggregation switch of each pod. All links have
    the same rate. A flow takes one of the shortest paths by its hash, as with ECMP.

    Attributes:
        servers: number of servers.
        nics_per_server: hosts per server.
        rate_bps: rate of every link.
        oversubscription: ratio at edge switches, 1 or more; it must divide the number of their hosts.
        servers_per_edge: servers per edge switch.
        edges_per_pod: edge switches per pod.
        propagation_ns: one-way delay of every link.

    Raises:
        ClusterError: the values do not fit together.
    """

    servers: int
    nics_per_server: int
    rate_bps: int = 200_000_000_000
    oversubscription: int = 1
    servers_per_edge: int = 4
    edges_per_pod: int = 8
    propagation_ns: int = 1_000

    def __post_init__(self) -> None:
        sizes = (self.servers, self.nics_per_server, self.servers_per_edge, self.edges_per_pod, self.oversubscription)
        if min(sizes) < 1:
            raise ClusterError("a fat-tree needs at least one of each part and an oversubscription of at least 1")
        if self.servers_per_edge * self.nics_per_server % self.oversubscription:
            raise ClusterError(
                f"an edge switch with {self.servers_per_edge * self.nics_per_server} hosts cannot be oversubscribed "
                f"{self.oversubscription}:1; choose a divisor of its hosts"
            )

    @property
    def hosts(self) -> int:
        """See :class:`Fabric`."""
        return self.servers * self.nics_per_server

    @property
    def uplinks(self) -> int:
        """Uplinks of an edge switch, which is also the number of aggregation switches per pod."""
        return self.servers_per_edge * self.nics_per_server // self.oversubscription

    @property
    def edges(self) -> int:
        """Number of edge switches."""
        return -(-self.servers // self.servers_per_edge)

    @property
    def pods(self) -> int:
        """Number of pods."""
        return -(-self.edges // self.edges_per_pod)

    @property
    def rates_bps(self) -> tuple[int, ...]:
        """See :class:`Fabric`. Links of hosts, then of edge switches, then of aggregation switches, up and down."""
        tier = self.edges * self.uplinks, self.pods * self.edges_per_pod * self.uplinks
        return (self.rate_bps,) * (2 * (self.hosts + sum(tier)))

    def paths(self, sources: Ints, destinations: Ints, draws: Ints) -> Ints:
        """See :class:`Fabric`."""
        up, down = ports(sources, destinations)
        rows = _rows(up, down)
        hosts_per_edge = self.servers_per_edge * self.nics_per_server
        here, there = sources // hosts_per_edge, destinations // hosts_per_edge
        draws, aggregation = np.divmod(draws, self.uplinks)
        core = draws % self.edges_per_pod
        edge_links = 2 * self.hosts
        core_links = edge_links + 2 * self.edges * self.uplinks
        edge_up = edge_links + 2 * (here * self.uplinks + aggregation)
        edge_down = edge_links + 2 * (there * self.uplinks + aggregation) + 1
        pod, other_pod = here // self.edges_per_pod, there // self.edges_per_pod
        core_up = core_links + 2 * ((pod * self.uplinks + aggregation) * self.edges_per_pod + core)
        core_down = core_links + 2 * ((other_pod * self.uplinks + aggregation) * self.edges_per_pod + core) + 1
        over_edge = here != there
        within_pod = over_edge & (pod == other_pod)
        over_core = pod != other_pod
        for where, links in (
            (within_pod, (edge_up, edge_down, down)),
            (over_core, (edge_up, core_up, core_down, edge_down, down)),
        ):
            for position, link in enumerate(links, 1):
                rows[where, position] = link[where]
        return rows


def _rows(up: Ints, down: Ints) -> Ints:
    """Return the paths across one switch."""
    rows = np.full((len(up), MAX_HOPS), NONE)
    rows[:, 0] = up
    rows[:, 1] = down
    return rows
