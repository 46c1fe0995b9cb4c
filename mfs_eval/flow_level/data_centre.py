"""Clusters of the size of a data centre: prefill units and decode servers, one to one, on a fat-tree."""

from __future__ import annotations

from mfs_eval.errors import ClusterError
from mfs_eval.serving.cluster import Cluster

GPUS_PER_SERVER = 8
NICS_PER_SERVER = 8
NIC_BITS_PER_SECOND = 200_000_000_000
PACKED = "packed"
SPREAD = "spread"
LAYOUTS = (PACKED, SPREAD)
"""Whether the servers of a unit stand side by side, or as far from each other as they can."""


def data_centre(servers: int, servers_per_unit: int, layout: str = PACKED) -> Cluster:
    """``servers`` servers, half of them in prefill units of ``servers_per_unit``, half decoding, in turn.

    With as many servers to an edge switch as to a unit, a packed unit has a switch of its own, and so have the decode
    servers beside it. Spread units have the same servers, each of them in turn, so that all that a unit exchanges
    crosses the fabric.

    Raises:
        ClusterError: fewer servers than a unit and as many for decoding need, or no such layout.
    """
    units = servers // (2 * servers_per_unit) if servers_per_unit > 0 else 0
    if units < 1:
        raise ClusterError(f"{servers} servers are too few: a unit has {servers_per_unit}, and as many decode")
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
