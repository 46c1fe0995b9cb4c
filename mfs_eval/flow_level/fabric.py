"""Links and the paths over them: racks as the packet-level engine has them, and fat-trees with ECMP.

A host is one NIC of a server (:mod:`mfs_eval.serving.cluster`). What stays within a server goes over NVLink and is not
here.
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
    """Links, and the paths that flows take. The NIC of host h sends over link 2 h and receives over link 2 h + 1."""

    @property
    def hosts(self) -> int:
        """How many there are."""
        ...

    @property
    def rates_bps(self) -> tuple[int, ...]:
        """Of each link (one direction), in bits per second of wire bytes."""
        ...

    @property
    def propagation_ns(self) -> int:
        """Of each link, one way."""
        ...

    def paths(self, sources: Ints, destinations: Ints, draws: Ints) -> Ints:
        """The links from hosts to other hosts, a row each: the sender's NIC first, and :data:`NONE` after the last.

        ``draws``, not negative, choose among equals.
        """
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
    def hosts(self) -> int:
        """See :class:`Fabric`."""
        return self.servers * self.nics_per_server

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
    """Paths by one switch."""
    rows = np.full((len(up), MAX_HOPS), NONE)
    rows[:, 0] = up
    rows[:, 1] = down
    return rows
