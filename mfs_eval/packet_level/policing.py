"""What a port may send at the metered levels: enough for the part that its servers play, and little more.

Only the top level is metered. It is the one that nothing overtakes, so a claim below it costs the urgent nothing, and
what honest servers send there is little: flows about to miss, and acknowledgements. The shares are measured: honest
runs do not feel them, see ``docs/studies/results.md``.
"""

from __future__ import annotations

from host_agent.protocol.stamp import SCAVENGER, TOP_LEVEL
from mfs_eval.serving.cluster import Cluster
from topologies.topology import Topology

FLOOR = TOP_LEVEL
LEVEL = SCAVENGER
"""Of the excess: any other level goes before someone's honest traffic."""
PREFILL_SHARE = 0.1
"""Of a prefill server's port: its last-stage flows about to miss."""
DECODE_SHARE = 3 / 64
"""Of a decode server's port: its acknowledgements, one of 110 wire bytes for four packets or fewer. Honest runs feel
1/32, and at 1/16 a flood costs the others too much."""
IDLE_SHARE = 1 / 256
"""Of the port of a server that plays no part: it has nothing to send there."""
BURST_US = 100_000


def shares(topology: Topology, cluster: Cluster) -> dict[int, float]:
    """By port, the share of its rate that may come in at metered levels."""
    of_server = dict.fromkeys(range(cluster.servers), IDLE_SHARE)
    of_server |= dict.fromkeys(cluster.decode_servers, DECODE_SHARE)
    of_server |= {server: PREFILL_SHARE for unit in cluster.units for server in unit}
    return {host.port: of_server[host.server] for host in topology.hosts}
