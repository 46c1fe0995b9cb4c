"""Topologies as data: hosts, ports, addresses and links, as one switch sees them.

The same objects describe simulated networks, the controller's forwarding entries, network namespaces and Mininet.
"""

from topologies.catalogue import CATALOGUE, TopologyKind, switches
from topologies.errors import TopologyError
from topologies.topology import (
    Addresses,
    Downlink,
    Host,
    Topology,
    Uplink,
    cables,
    leaf_spine,
    neighbours,
    tor,
    two_tors,
)

__all__ = [
    "CATALOGUE",
    "Addresses",
    "Downlink",
    "Host",
    "Topology",
    "TopologyError",
    "TopologyKind",
    "Uplink",
    "cables",
    "leaf_spine",
    "neighbours",
    "switches",
    "tor",
    "two_tors",
]
