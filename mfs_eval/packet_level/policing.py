"""Policing: what a port may send at the metered levels, which is little more than its server's role needs.

Only the top level is metered. Nothing overtakes it, so false claims below it do not hurt urgent traffic, and honest
servers send little there: flows about to miss their deadline, and acknowledgements. The shares were measured: they do
not affect honest runs, see ``docs/studies/results.md``.
"""

from __future__ import annotations

from host_agent.protocol.stamp import SCAVENGER, TOP_LEVEL
from mfs_eval.serving.cluster import Cluster
from topologies.topology import Topology

FLOOR = TOP_LEVEL
LEVEL = SCAVENGER
"""Level of the excess; at any other level it would overtake honest traffic."""
PREFILL_SHARE = 0.1
"""Share of a prefill server's port: last-stage flows about to miss their deadline."""
DECODE_SHARE = 3 / 64
"""Share of a decode server's port: acknowledgements, one of 110 wire bytes per four packets or fewer. 1/32 would slow
honest runs down, and with 1/16 a flood would cost the others too much."""
IDLE_SHARE = 1 / 256
"""Share of the port of a server without a role, which has nothing to send at this level."""
BURST_US = 100_000


def shares(topology: Topology, cluster: Cluster) -> dict[int, float]:
    """Return, by port, the share of its rate that may arrive at metered levels."""
    of_server = dict.fromkeys(range(cluster.servers), IDLE_SHARE)
    of_server |= dict.fromkeys(cluster.decode_servers, DECODE_SHARE)
    of_server |= {server: PREFILL_SHARE for unit in cluster.units for server in unit}
    return {host.port: of_server[host.server] for host in topology.hosts}
