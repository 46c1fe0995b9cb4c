"""Configuration of the serving model: model, hardware, and layout of flows."""

from __future__ import annotations

from dataclasses import dataclass

from host_agent.protocol.flow_spec import LAYER_MAX
from mfs_eval.errors import ServingError
from mfs_eval.serving.batching import BATCH_TOKENS
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.costs import GPU, ModelShape


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """Model and hardware of a serving run.

    Attributes:
        cluster: servers, prefill units, decode servers.
        model: the model.
        gpu: the GPUs of the prefill units.
        batch_tokens: new tokens per batch, at most.
        layers_per_step: layers that are simulated together as one step.
        scale: divisor of every flow's bytes (at least one byte remains). If the network's rates are divided by the same
            number, all times stay the same.
        collective_factor: factor of the all-to-all bytes.
        hand_over_early: whether the KV of a step is sent during the step's collective instead of after it. Hardware
            allows it early: a layer's KV exists once its attention has run, before activations go to the experts, and
            serving engines pass a layer's KV to their connector right after attention.
        kv_on_one_gpu: whether a request's KV lives on one GPU of its unit (data-parallel attention). It is then fetched
            and handed over through one NIC, chosen in turn by request index. Otherwise all NICs of the unit carry equal
            shares.
        kv_nics: number of NICs that fetch and hand over a request's KV: those of the GPUs that share its attention
            (tensor parallelism within a server), chosen in turn by request index. 0 means all NICs of the unit.
        sequence_parallel: whether sequences are spread over the unit's servers, so that keys and values are gathered in
            each layer.
        laxity_deadlines: whether flows have the deadlines of a clairvoyant scheduler (:mod:`mfs_eval.serving.laxity`).
        defer_infeasible: whether requests that can no longer be in time are computed after all others
            (:mod:`mfs_eval.serving.admission`).
        compute_estimate: factor between the true compute time and the one that schedulers are told.

    Raises:
        ServingError: a value is out of range, or the values do not fit together.
    """

    cluster: Cluster
    model: ModelShape
    gpu: GPU
    batch_tokens: int = BATCH_TOKENS
    layers_per_step: int = 1
    scale: int = 1
    collective_factor: float = 1.0
    hand_over_early: bool = False
    kv_on_one_gpu: bool = False
    kv_nics: int = 0
    sequence_parallel: bool = False
    laxity_deadlines: bool = False
    defer_infeasible: bool = False
    compute_estimate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "layers_per_step", "scale"):
            if (value := getattr(self, name)) < 1:
                raise ServingError(f"{name} must be at least 1, it is {value}")
        if self.model.layers > LAYER_MAX:
            raise ServingError(
                f"{self.model.name} has {self.model.layers} layers, but stamps can carry at most {LAYER_MAX}"
            )
        unit_nics = min(len(unit) for unit in self.cluster.units) * self.cluster.nics_per_server
        if self.kv_nics < 0 or (self.kv_nics and unit_nics % self.kv_nics):
            raise ServingError(f"kv_nics must divide a unit's {unit_nics} NICs, it is {self.kv_nics}")
        for name in ("collective_factor", "compute_estimate"):
            if (factor := getattr(self, name)) < 0:
                raise ServingError(f"{name} must not be negative, it is {factor}")

    @property
    def scaled_nic_bits_per_second(self) -> int:
        """The rate of a NIC in the scaled network."""
        return max(1, self.cluster.nic_bits_per_second // self.scale)
