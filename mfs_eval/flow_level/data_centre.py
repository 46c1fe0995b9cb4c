"""Clusters of the size of a data centre: as many prefill as decode servers, on a fat-tree."""

from __future__ import annotations

from mfs_eval.errors import ClusterError
from mfs_eval.serving.cluster import Cluster

GPUS_PER_SERVER = 8
NICS_PER_SERVER = 8
NIC_BITS_PER_SECOND = 200_000_000_000
PACKED = "packed"
SPREAD = "spread"
LAYOUTS = (PACKED, SPREAD)
"""Whether the servers of a unit are adjacent, or as far apart as possible."""


def data_centre(servers: int, servers_per_unit: int, layout: str = PACKED) -> Cluster:
    """Return a cluster of ``servers``: groups of ``servers_per_unit`` alternately form a prefill unit and decode.

    If an edge switch has as many servers as a unit, a packed unit has an edge switch to itself, and so have the decode
    servers next to it. Spread units use the same servers in turn, so that everything a unit exchanges crosses the
    fabric.

    Raises:
        ClusterError: there are too few servers for a unit and its decode servers, or there is no such layout.
    """
    units = servers // (2 * servers_per_unit) if servers_per_unit > 0 else 0
    if units < 1:
        raise ClusterError(f"{servers} servers are too few: a unit needs {servers_per_unit} and as many to decode")
    if layout not in LAYOUTS:
        raise ClusterError(f"there is no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    starts = [2 * servers_per_unit * unit for unit in range(units)]
    prefill = [server for start in starts for server in range(start, start + servers_per_unit)]
    step, size = (units, 1) if layout == SPREAD else (1, servers_per_unit)
    return Cluster(
        servers=2 * servers_per_unit * units,
        nics_per_server=NICS_PER_SERVER,
        gpus_per_server=GPUS_PER_SERVER,
        units=tuple(tuple(prefill[unit * size :: step][:servers_per_unit]) for unit in range(units)),
        decode_servers=tuple(
            server for start in starts for server in range(start + servers_per_unit, start + 2 * servers_per_unit)
        ),
        nic_bits_per_second=NIC_BITS_PER_SECOND,
    )
