"""Links and the paths over them: racks as the packet-level engine has them, and fat-trees with ECMP.

A host is one NIC of a server (:mod:`evaluation.cluster`). What stays within a server goes over NVLink and is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from evaluation.coordination import ports
from evaluation.errors import ClusterError
from evaluation.scenario import Scenario


class Fabric(Protocol):
    """Links, and the paths that flows take."""

    @property
    def rates_bps(self) -> tuple[int, ...]:
        """Of each link (one direction), in bits per second of wire bytes."""
        ...

    @property
    def propagation_ns(self) -> int:
        """Of each link, one way."""
        ...

    def path(self, source: int, destination: int, draw: int) -> tuple[int, ...]:
        """The links from one host to another, the sender's NIC first. ``draw``, not negative, chooses among equals."""
        ...


@dataclass(frozen=True, slots=True)
class Racks:
    """One ToR, or two that are joined by uplinks.

    Attributes:
        hosts: number of hosts.
        rate_bps: of every link.
        propagation_ns: of every link.
        second_rack_from: the first host of the second rack; None: there is one.
        uplinks: links between the racks, in each direction.
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

    def path(self, source: int, destination: int, draw: int) -> tuple[int, ...]:
        """See :class:`Fabric`."""
        up, down = ports(source, destination)
        border = self.second_rack_from
        if border is None or (source < border) == (destination < border):
            return up, down
        first = 2 * self.hosts + (self.uplinks if source >= border else 0)
        return up, first + draw % self.uplinks, down


def racks_of(scenario: Scenario) -> Racks:
    """The racks of ``scenario``, at its scaled rates."""
    first, *others = scenario.tors
    hosts = len(first.hosts) + len(first.remote_hosts)
    border = min(host.id for host in others[0].hosts) if others else None
    return Racks(hosts, first.rate_bps, first.propagation_ns, border, len(first.uplinks))


@dataclass(frozen=True, slots=True)
class FatTree:
    """A three-tier fat-tree (Al-Fares, Loukissas and Vahdat, SIGCOMM 2008), oversubscribed at its edge or not.

    An edge switch has ``servers_per_edge`` servers and so many uplinks that its hosts' rate is ``oversubscription``
    times theirs, each to another aggregation switch of its pod. An aggregation switch has as many uplinks as links to
    edge switches; its n-th leads to a core switch that has a link to the same aggregation switch of each pod. All
    links have one rate. A flow takes one of the shortest paths by its hash, as ECMP does.

    Attributes:
        servers: number of servers.
        nics_per_server: hosts of each.
        rate_bps: of every link.
        oversubscription: of edge switches, 1 or more; it must divide their hosts.
        servers_per_edge: servers of an edge switch.
        edges_per_pod: edge switches of a pod.
        propagation_ns: of every link.

    Raises:
        ClusterError: the numbers do not fit together.
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
            raise ClusterError("a fat-tree has at least one of each part, and is oversubscribed 1:1 or more")
        if self.servers_per_edge * self.nics_per_server % self.oversubscription:
            raise ClusterError(
                f"an edge switch with {self.servers_per_edge * self.nics_per_server} hosts cannot be oversubscribed "
                f"{self.oversubscription}:1; choose a divisor of its hosts"
            )

    @property
    def uplinks(self) -> int:
        """Of an edge switch; also the number of aggregation switches in a pod."""
        return self.servers_per_edge * self.nics_per_server // self.oversubscription

    @property
    def edges(self) -> int:
        """Edge switches in all."""
        return -(-self.servers // self.servers_per_edge)

    @property
    def pods(self) -> int:
        """Pods in all."""
        return -(-self.edges // self.edges_per_pod)

    @property
    def rates_bps(self) -> tuple[int, ...]:
        """See :class:`Fabric`. Links of hosts, of edge switches, of aggregation switches; each up and down."""
        hosts = self.servers * self.nics_per_server
        tier = self.edges * self.uplinks, self.pods * self.edges_per_pod * self.uplinks
        return (self.rate_bps,) * (2 * (hosts + sum(tier)))

    def path(self, source: int, destination: int, draw: int) -> tuple[int, ...]:
        """See :class:`Fabric`."""
        up, down = ports(source, destination)
        hosts_per_edge = self.servers_per_edge * self.nics_per_server
        here, there = source // hosts_per_edge, destination // hosts_per_edge
        if here == there:
            return up, down
        draw, aggregation = divmod(draw, self.uplinks)
        edge_links = 2 * self.servers * self.nics_per_server
        edge_up = edge_links + 2 * (here * self.uplinks + aggregation)
        edge_down = edge_links + 2 * (there * self.uplinks + aggregation) + 1
        pod, other_pod = here // self.edges_per_pod, there // self.edges_per_pod
        if pod == other_pod:
            return up, edge_up, edge_down, down
        core = draw % self.edges_per_pod
        core_links = edge_links + 2 * self.edges * self.uplinks
        core_up = core_links + 2 * ((pod * self.uplinks + aggregation) * self.edges_per_pod + core)
        core_down = core_links + 2 * ((other_pod * self.uplinks + aggregation) * self.edges_per_pod + core) + 1
        return up, edge_up, core_up, core_down, edge_down, down
