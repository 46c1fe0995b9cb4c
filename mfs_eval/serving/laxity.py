"""Laxity deadlines, for a clairvoyant scheduler: the latest time at which a flow can complete without causing a miss.

The time of what follows a flow is computed without contention, each flow alone on its path, so a laxity deadline is
never too early.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from host_agent.protocol.units import NS_PER_S
from mfs_eval.serving.network_interface import Network, PassingNetwork


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Durations of a batch's parts without contention, in nanoseconds.

    Attributes:
        compute_ns: computation, per step.
        collective_ns: all-to-all, per step.
        hand_over_ns: the longest flow of the last step's KV.
        hand_over_early: whether that flow starts with the step's all-to-all instead of after it.
        layers_per_step: layers per step, which maps a flow's target layer to its step.
        bits_per_second: rate of a path.
    """

    compute_ns: tuple[int, ...]
    collective_ns: tuple[int, ...]
    hand_over_ns: int
    hand_over_early: bool
    layers_per_step: int
    bits_per_second: int

    def deadline_ns(self, spec: FlowSpec) -> int:
        """Return when ``spec`` must complete so that everything after it can complete by ``spec.deadline_ns``.

        Reused KV is followed by its step's computation and everything after that, an all-to-all by the later steps, and
        handed-over KV by the request's remaining bytes on the same path.
        """
        if spec.stage == Stage.P2D:
            return spec.deadline_ns - transmission_ns(spec.beyond_bytes, self.bits_per_second)
        step = spec.target_layer // self.layers_per_step
        if spec.stage == Stage.COLLECTIVE:
            return spec.deadline_ns - self._after_collective_ns(step)
        if spec.stage == Stage.KV_REUSE:
            return spec.deadline_ns - self.compute_ns[step] - self._after_compute_ns(step)
        return spec.deadline_ns

    def _after_collective_ns(self, step: int) -> int:
        if step + 1 == len(self.compute_ns):
            return 0 if self.hand_over_early else self.hand_over_ns
        return self.compute_ns[step + 1] + self._after_compute_ns(step + 1)

    def _after_compute_ns(self, step: int) -> int:
        if step + 1 == len(self.compute_ns) and self.hand_over_early:
            return max(self.collective_ns[step], self.hand_over_ns)
        return self.collective_ns[step] + self._after_collective_ns(step)


def transmission_ns(byte_count: int, bits_per_second: int) -> int:
    """Return the nanoseconds that ``byte_count`` bytes take on an idle link, rounded down."""
    return byte_count * 8 * NS_PER_S // bits_per_second


class LaxityNetwork(PassingNetwork):
    """The network of one batch. It gives flows laxity deadlines before they start."""

    def __init__(self, network: Network, times: BatchTimes) -> None:
        super().__init__(network)
        self._times = times

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send the flow with its laxity deadline."""
        self._network.start_flow(source_host, replace(spec, deadline_ns=self._times.deadline_ns(spec)), on_complete)
