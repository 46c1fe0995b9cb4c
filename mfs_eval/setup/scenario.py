"""Scenarios of the packet-level engine: a cluster, what it serves, how it is scaled, and the request rates."""

from __future__ import annotations

from dataclasses import dataclass

from mfs_eval.errors import EvaluationError
from mfs_eval.serving import cluster
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.costs import B200, GPU, MIXTRAL_8X7B, ModelShape
from mfs_eval.serving.placement import HotPrefixes
from topologies.topology import Topology, tor, two_tors

LOADS = (0.6, 0.4, 0.2)
"""Approximate attainment of objectives (SLOs) under fair sharing at the request rates of a scenario, on the first
window of the trace."""
WINDOW_LOADS = (0.9, 0.8, 0.6, 0.4)
"""The same for the rates over windows of the trace, found by ``mfs study rates`` on windows 1 to 9."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A cluster, what it serves, and how it is simulated.

    Attributes:
        name: as on the command line.
        cluster: servers and their roles.
        request_rates: requests per second at which fair sharing attains about the shares of :data:`LOADS`.
        model: the model that is served.
        gpu: the GPUs that compute it.
        scale: divisor of rates and bytes. Times stay the same and there are fewer packets.
        layers_per_step: layers whose flows are combined, which also reduces the number of packets.
        longest_prompt: longest prompt in tokens; longer ones of the trace are skipped.
        warm_requests: requests of the trace that are served before the run; the caches hold their blocks.
        cache_blocks: KV blocks that a unit can hold; None means no limit.
        propagation_ns: one-way delay of every link.
        window_rates: requests per second at which fair sharing attains about the shares of :data:`WINDOW_LOADS`.
        uplinks: links between two racks, each as fast as a NIC, with the decode servers in the second rack and all
            others in the first. 0 means one rack.
        hand_over_early, collective_factor, kv_on_one_gpu, kv_nics, sequence_parallel: see
            :class:`~mfs_eval.serving.config.ServingConfig`.
        hot_prefixes: see :func:`~mfs_eval.serving.placement.place`.
    """

    name: str
    cluster: Cluster
    request_rates: tuple[float, ...]
    model: ModelShape = MIXTRAL_8X7B
    gpu: GPU = B200
    scale: int = 8000
    layers_per_step: int = 4
    longest_prompt: int = 16_384
    warm_requests: int = 1000
    cache_blocks: int | None = None
    propagation_ns: int = 1_000
    hand_over_early: bool = True
    collective_factor: float = 1.0
    kv_on_one_gpu: bool = False
    kv_nics: int = 0
    sequence_parallel: bool = False
    hot_prefixes: HotPrefixes | None = None
    uplinks: int = 0
    window_rates: tuple[float, ...] = ()

    def rates_by_load(self, over_windows: bool) -> dict[float, float]:
        """Return requests per second by the share that fair sharing attains: on windows, or on the first one."""
        loads, rates = (WINDOW_LOADS, self.window_rates) if over_windows else (LOADS, self.request_rates)
        return dict(zip(loads, rates, strict=False))

    @property
    def serving(self) -> ServingConfig:
        """Configuration of the serving model."""
        return ServingConfig(
            self.cluster,
            self.model,
            self.gpu,
            layers_per_step=self.layers_per_step,
            scale=self.scale,
            collective_factor=self.collective_factor,
            hand_over_early=self.hand_over_early,
            kv_on_one_gpu=self.kv_on_one_gpu,
            kv_nics=self.kv_nics,
            sequence_parallel=self.sequence_parallel,
        )

    @property
    def description(self) -> str:
        """What it is, for readers: cluster, model and scaling in one line."""
        cluster = self.cluster
        exchange = f", all-to-all bytes times {self.collective_factor:g}" if self.collective_factor != 1 else ""
        racks = f" in two racks joined by {self.uplinks} links," if self.uplinks else ","
        return (
            f"{cluster.servers} servers x {cluster.nics_per_server} x {cluster.nic_bits_per_second / 1e9:g} Gb/s, "
            f"{len(cluster.units)} prefill units of {cluster.unit_gpus(0)} {self.gpu.name} GPUs, "
            f"{len(cluster.decode_servers)} decode servers{racks} {self.model.name}; rates and bytes divided by "
            f"{self.scale:,}, {self.layers_per_step} layers a step{exchange}"
        )

    @property
    def tors(self) -> tuple[Topology, ...]:
        """The top-of-rack (ToR) topologies at the scaled rate: one rack, or two that are joined by uplinks.

        Raises:
            ValueError: one of two racks has no server.
        """
        cluster, rate = self.cluster, self.serving.scaled_nic_bits_per_second
        if not self.uplinks:
            return (tor(cluster.servers, cluster.nics_per_server, rate, self.propagation_ns),)
        return two_tors(
            cluster.servers,
            cluster.nics_per_server,
            rate,
            self.propagation_ns,
            second_rack_from=min(cluster.decode_servers),
            uplinks=self.uplinks,
        )


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("testbed", cluster.testbed(), (22.0, 25.0, 28.0)),
        Scenario("incast", cluster.incast(), (34.0, 39.0, 43.5)),
        Scenario("colocated", cluster.colocated(), (41.0, 45.5, 50.5)),
        # The mean share of a prompt that is in the KV of earlier requests of the trace.
        Scenario("hot-prefix", cluster.four_units(), (55.0, 63.0, 72.0), hot_prefixes=HotPrefixes(unit=0, share=0.4)),
        Scenario("one-gpu", cluster.testbed(), (16.0, 18.0, 20.0), kv_on_one_gpu=True),
        Scenario("collective-heavy", cluster.testbed(), (7.7, 8.7, 9.6), scale=16_000, collective_factor=4.0),
        # Eight NICs of each rack behind four links, and behind two. Activations are exchanged in 8 bits. With 16 bits,
        # the collectives within a rack would load the NICs more than KV loads the uplinks, even at 4:1.
        Scenario("uplink-2", cluster.testbed(), (32.5, 37.0, 41.0), uplinks=4, collective_factor=0.5),
        Scenario("uplink-4", cluster.testbed(), (32.0, 36.5, 40.5), uplinks=2, collective_factor=0.5),
    )
}
DEMO_SCENARIOS = ("testbed", "incast")
"""The scenarios that ``mfs demo`` runs by default."""


def scenario_named(name: str) -> Scenario:
    """Return the scenario ``name``.

    Raises:
        EvaluationError: there is no such scenario; the message lists all of them.
    """
    if name not in SCENARIOS:
        raise EvaluationError(f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
