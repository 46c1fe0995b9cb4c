"""Named topologies, for the command line and Mininet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from topologies.errors import TopologyError
from topologies.topology import Topology, leaf_spine, tor

DEFAULT_RATE_BPS = 20_000_000
"""Default rate of links in real time: the embedded switch sustains it on eight ports with margin."""
_LINK_NS = 1_000


@dataclass(frozen=True, slots=True)
class TopologyKind:
    """A kind of topology.

    Attributes:
        prefix: default prefix of its namespaces and interfaces.
        description: one line for users.
        build: function of the number of servers, the interfaces per server and the rate of each link in bits per
            second; returns each switch by name.
    """

    prefix: str
    description: str
    build: Callable[[int, int, int], Mapping[str, Topology]]


def _tor(servers: int, nics: int, rate_bps: int) -> dict[str, Topology]:
    return {"tor": tor(servers, nics, rate_bps, _LINK_NS)}


def _leaf_spine(servers: int, nics: int, rate_bps: int) -> dict[str, Topology]:
    # The two uplinks of a rack have half the rate of its hosts in total; without oversubscription nothing queues there.
    topologies = leaf_spine(servers, nics, rate_bps, _LINK_NS, uplink_rate_bps=max(1, servers * nics * rate_bps // 8))
    return dict(zip(("leaf1", "leaf2", "spine1", "spine2"), topologies, strict=True))


CATALOGUE: Mapping[str, TopologyKind] = {
    "tor": TopologyKind("mfstor", "one top-of-rack switch with all servers", _tor),
    "leaf-spine": TopologyKind(
        "mfsleaf",
        "two racks with half the servers each, joined by two spine switches, uplinks oversubscribed 2:1",
        _leaf_spine,
    ),
}


def switches(name: str, servers: int = 8, nics: int = 1, rate_bps: int = DEFAULT_RATE_BPS) -> Mapping[str, Topology]:
    """Return the switches of the topology ``name``, by their names.

    Args:
        name: a key of :data:`CATALOGUE`.
        servers: number of servers.
        nics: interfaces per server.
        rate_bps: rate of each host's link in bits per second.

    Raises:
        TopologyError: there is no such topology, or it does not come in that size.
    """
    if name not in CATALOGUE:
        raise TopologyError(f"there is no topology {name!r}; choose from {', '.join(CATALOGUE)}")
    try:
        return CATALOGUE[name].build(servers, nics, rate_bps)
    except ValueError as error:
        raise TopologyError(str(error)) from None


def chosen(name: str, node: str | None, servers: int, nics: int, rate_bps: int) -> Mapping[str, Topology]:
    """Return the switch ``node`` of a topology, by its name, or all of them for None; one that is alone has no name.

    Raises:
        TopologyError: there is no such topology or switch.
    """
    found = switches(name, servers, nics, rate_bps)
    if node is not None and node not in found:
        raise TopologyError(f"topology {name} has the switches {', '.join(found)}; choose one with --node")
    if node is None and len(found) > 1:
        return found
    return {"": found[node or next(iter(found))]}
