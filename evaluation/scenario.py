"""Scenarios of the packet-level engine: a cluster, what it serves, how far it is scaled, and at which rates."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation import cluster
from evaluation.cluster import Cluster
from evaluation.errors import EvaluationError
from evaluation.iteration import ServingConfig
from evaluation.llm import B200, GPU, MIXTRAL_8X7B, ModelShape
from topologies.topology import Topology, tor

LOADS = (0.6, 0.4, 0.2)
"""What fair sharing attains, about, at the request rates of a scenario."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated.

    Attributes:
        name: as on the command line.
        cluster: servers and their roles.
        request_rates: requests per second at which fair sharing attains about the shares of :data:`LOADS`.
        model: what is served.
        gpu: on what it is computed.
        scale: rates and bytes are divided by this, so times stay as they are and there are fewer packets.
        layers_per_step: layers whose flows are taken together, for the same reason.
        longest_prompt: longer prompts of the trace are left out, tokens.
        warm_requests: requests of the trace that were served before the run begins; the caches hold their blocks.
        cache_blocks: KV blocks that a unit can hold; None is without limit.
        propagation_ns: one way, host to switch.
        hand_over_early: see :class:`~evaluation.iteration.ServingConfig`.
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

    @property
    def serving(self) -> ServingConfig:
        """What the serving model needs to know."""
        return ServingConfig(
            self.cluster,
            self.model,
            self.gpu,
            layers_per_step=self.layers_per_step,
            scale=self.scale,
            hand_over_early=self.hand_over_early,
        )

    @property
    def topology(self) -> Topology:
        """The rack, at its scaled rate."""
        rate = self.serving.scaled_nic_bits_per_second
        return tor(self.cluster.servers, self.cluster.nics_per_server, rate, self.propagation_ns)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("testbed", cluster.testbed(), (21.0, 24.0, 27.0)),
        Scenario("incast", cluster.incast(), (34.0, 38.0, 42.0)),
    )
}


def scenario_named(name: str) -> Scenario:
    """The scenario ``name``.

    Raises:
        EvaluationError: there is none of that name; the message lists them.
    """
    if name not in SCENARIOS:
        raise EvaluationError(f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
