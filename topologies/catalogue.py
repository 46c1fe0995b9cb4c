"""The topologies that have a name, for the command line and Mininet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from topologies.errors import TopologyError
from topologies.topology import Topology, leaf_spine, tor

DEFAULT_RATE_BPS = 20_000_000
"""Of every link, in real time: what the embedded switch holds on eight ports with room to spare."""
_LINK_NS = 1_000


@dataclass(frozen=True, slots=True)
class Named:
    """A kind of topology.

    Attributes:
        prefix: of what it is made of in the kernel, unless another is asked for.
        about: one line for people.
        build: from servers, interfaces of each, and bits per second of every link, to each switch by name.
    """

    prefix: str
    about: str
    build: Callable[[int, int, int], Mapping[str, Topology]]


def _tor(servers: int, nics: int, rate_bps: int) -> dict[str, Topology]:
    return {"tor": tor(servers, nics, rate_bps, _LINK_NS)}


def _leaf_spine(servers: int, nics: int, rate_bps: int) -> dict[str, Topology]:
    # Both uplinks of a rack together have half the rate of its hosts: without oversubscription nothing waits there.
    switches = leaf_spine(servers, nics, rate_bps, _LINK_NS, uplink_rate_bps=max(1, servers * nics * rate_bps // 8))
    return dict(zip(("leaf1", "leaf2", "spine1", "spine2"), switches, strict=True))


CATALOGUE: Mapping[str, Named] = {
    "tor": Named("mfstor", "one top-of-rack switch with all servers", _tor),
    "leaf-spine": Named(
        "mfsleaf",
        "two racks of half the servers each, joined by two spine switches, uplinks oversubscribed 2:1",
        _leaf_spine,
    ),
}


def switches(name: str, servers: int = 8, nics: int = 1, rate_bps: int = DEFAULT_RATE_BPS) -> Mapping[str, Topology]:
    """The switches of the topology called ``name``, by their own names.

    Raises:
        TopologyError: there is none of that name, or it cannot be of that size.
    """
    if name not in CATALOGUE:
        raise TopologyError(f"there is no topology {name!r}; there are: {', '.join(CATALOGUE)}")
    try:
        return CATALOGUE[name].build(servers, nics, rate_bps)
    except ValueError as error:
        raise TopologyError(str(error)) from None


def switch(name: str, node: str | None, servers: int, nics: int, rate_bps: int) -> Topology:
    """The switch ``node`` of a topology, which may be left out where there is one only.

    Raises:
        TopologyError: there is no such topology or switch.
    """
    found = switches(name, servers, nics, rate_bps)
    if node is None and len(found) == 1:
        return next(iter(found.values()))
    if node is None or node not in found:
        raise TopologyError(f"topology {name} has the switches {', '.join(found)}; say which with --node")
    return found[node]
