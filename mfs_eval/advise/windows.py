"""Windows of a trace as the seeds of an advice, and what each of them offers to links and GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.units import NS_PER_S
from mfs_eval.advise.cluster_file import Described
from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level.experiment import flow_workload, uncontended_on
from mfs_eval.flow_level.fabric import Fabric, FatTree
from mfs_eval.flow_level.network import HEADER_BYTES
from mfs_eval.flow_level.shares import NONE
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.network_interface import Network, PassingNetwork
from mfs_eval.serving.placement import place
from mfs_eval.serving.router import route
from mfs_eval.serving.trace import Request, with_poisson_arrivals
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.windows import of_requests
from mfs_eval.setup.workload import Workload, eligible

LEAST_WINDOWS = 3
"""Fewer say nothing of how windows differ."""
GPUS = "GPUs of a prefill unit"


@dataclass(frozen=True, slots=True)
class Offered:
    """What a request offers to a class of links, or of units of GPUs, in seconds of use.

    At r requests per second the load is r times this.

    Attributes:
        mean_s: mean over the class.
        highest_s: of the one with the most.
        count: members of the class.
    """

    mean_s: float
    highest_s: float
    count: int


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive requests of the trace, the same for every policy.

    Attributes:
        number: its number, which is also the seed of the arrivals.
        work: requests, placements, objectives.
        offered: by class of resources.
        flows: flows that a run starts.
    """

    number: int
    work: Workload
    offered: Mapping[str, Offered]
    flows: int


def cut(
    scenario: Scenario, trace: Sequence[Request], windows: int, count: int
) -> list[tuple[list[Request], Sequence[Request]]]:
    """Return for each window its ``count`` requests and those that came before and fill the caches.

    Windows are spread evenly over the trace and do not overlap; there are fewer if the trace is too short.

    Raises:
        EvaluationError: the trace is too short for :data:`LEAST_WINDOWS`.
    """
    fitting = eligible(scenario, trace)
    windows = min(windows, len(fitting) // count)
    if windows < LEAST_WINDOWS:
        raise EvaluationError(
            f"the trace has {len(fitting)} requests of at most {scenario.longest_prompt} tokens after its first "
            f"{scenario.warm_requests}, but {LEAST_WINDOWS} windows need {LEAST_WINDOWS * count}; use a longer trace "
            "or fewer --requests"
        )
    # Indices count the requests of the trace from 0.
    starts = [number * (len(fitting) - count) // (windows - 1) for number in range(windows)]
    parts = [fitting[start : start + count] for start in starts]
    return [(list(one.requests), one.before) for one in (of_requests(scenario, trace, part) for part in parts)]


def prepare(cluster: Described, number: int, requests: Sequence[Request], before: Sequence[Request]) -> Window:
    """Return the window of ``requests``, with its placements, its objectives, and what it offers."""
    scenario = cluster.scenario
    units = len(scenario.cluster.units)
    if cluster.cache_aware:
        placements = route(requests, units, before)
    else:
        placements = place(requests, units, before, hot_prefixes=scenario.hot_prefixes)
    if cluster.slo_ns is None:
        assert cluster.slo_factor is not None
        work = flow_workload(scenario, cluster.fabric, requests, placements, cluster.slo_factor)
    else:
        work = Workload(tuple(requests), placements, dict.fromkeys(placements, cluster.slo_ns))
    offered, flows = _offered(cluster, work)
    return Window(number, work, offered, flows)


class _Counting(PassingNetwork):
    """Passes flows on and adds up the wire bytes of each pair of hosts."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.bytes: Counter[tuple[int, int]] = Counter()
        self.flows = 0

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Count the flow and pass it on."""
        packets = -(-spec.total_bytes // SEGMENT_BYTES)
        self.bytes[source_host, spec.destination] += spec.total_bytes + packets * HEADER_BYTES
        self.flows += 1
        super().start_flow(source_host, spec, on_complete)


def _offered(cluster: Described, work: Workload) -> tuple[dict[str, Offered], int]:
    """Return the offers of ``work`` by class, and the number of its flows; neither depends on policy or rate."""
    scenario, fabric = cluster.scenario, cluster.fabric
    idle = uncontended_on(fabric)
    counting = _Counting(idle)
    requests = with_poisson_arrivals(work.requests, scenario.request_rates[0], seed=0)
    serving = Serving(scenario.serving, counting, requests, work.slo_ns, work.placements)
    serving.start()
    idle.run()
    count = len(requests)
    link_s = _link_seconds(fabric, counting.bytes) / count
    busy_s = np.zeros(len(scenario.cluster.units))
    for batch in serving.batches:
        busy_s[batch.unit] += batch.compute_ns / NS_PER_S / count
    members = {name: link_s[links] for name, links in classes(scenario.cluster, fabric).items()} | {GPUS: busy_s}
    return {
        name: Offered(float(seconds.mean()), float(seconds.max()), len(seconds)) for name, seconds in members.items()
    }, counting.flows


def _link_seconds(
    fabric: Fabric, wire_bytes: Mapping[tuple[int, int], int]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return how long each link takes for the bytes of all pairs of hosts; a pair spreads over paths of equal cost."""
    rates = np.array(fabric.rates_bps, dtype=np.float64)
    seconds = np.zeros(len(rates))
    sources, destinations = (np.array(side) for side in zip(*wire_bytes, strict=True))
    amounts = np.array(list(wire_bytes.values()), dtype=np.float64)
    spread = fabric.uplinks if isinstance(fabric, FatTree) else 1
    for draw in range(spread):
        paths = fabric.paths(sources, destinations, np.full_like(sources, draw))
        for links in paths.T:
            used = links != NONE
            np.add.at(seconds, links[used], amounts[used] * 8 / spread)
    return seconds / rates


def classes(cluster: Cluster, fabric: Fabric) -> dict[str, list[int]]:
    """Return the links of each class that may be short, by name."""
    prefill = [host for unit in range(len(cluster.units)) for host in cluster.unit_hosts(unit)]
    decode = [cluster.host(server, nic) for server in cluster.decode_servers for nic in range(cluster.nics_per_server)]
    found = {
        "prefill NICs, sending": [2 * host for host in prefill],
        "prefill NICs, receiving": [2 * host + 1 for host in prefill],
    }
    if not set(decode) & set(prefill):
        found["decode NICs, receiving"] = [2 * host + 1 for host in decode]
    if isinstance(fabric, FatTree):
        first = 2 * fabric.hosts
        uplinks = fabric.edges * fabric.uplinks
        found["uplinks of racks, up"] = [first + 2 * link for link in range(uplinks)]
        found["uplinks of racks, down"] = [first + 2 * link + 1 for link in range(uplinks)]
    return found
