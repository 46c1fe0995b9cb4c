"""Switches whose queues hold whole flows, as those of the packet-level engine do at its scale.

Scaled down a thousandfold, a queue of a megabyte represents gigabytes. Last-stage flows therefore leave their sender at
the full rate of its NIC and wait in the switch for the port to their receiver, in order of arrival within a level. Here
such a flow takes two legs, to a buffer and from there; other flows share their path as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import Stage
from mfs_eval.flow_level.fabric import Fabric, Racks
from mfs_eval.flow_level.network import FlowNetwork
from mfs_eval.flow_level.settings import FlowSettings
from mfs_eval.flow_level.shares import Ints

BUFFER_SPEED = 1_000
"""Rate of the buffer relative to a link, high enough that the buffer is never the bottleneck."""


@dataclass(frozen=True, slots=True)
class BufferedRacks:
    """``racks`` with a buffer in the first rack's switch, which counts as one more host.

    Flows from the buffer to another rack cross an uplink, as those from any host of the first rack.
    """

    racks: Racks

    @property
    def hosts(self) -> int:
        """See :class:`~mfs_eval.flow_level.fabric.Fabric`; the last host is the buffer."""
        return self.racks.hosts + 1

    @property
    def propagation_ns(self) -> int:
        """See :class:`~mfs_eval.flow_level.fabric.Fabric`."""
        return self.racks.propagation_ns

    @property
    def rates_bps(self) -> tuple[int, ...]:
        """See :class:`~mfs_eval.flow_level.fabric.Fabric`; the buffer's links follow those of the hosts."""
        own = self.racks.rates_bps
        after_hosts = 2 * self.racks.hosts
        return own[:after_hosts] + (self.racks.rate_bps * BUFFER_SPEED,) * 2 + own[after_hosts:]

    def paths(self, sources: Ints, destinations: Ints, draws: Ints) -> Ints:
        """See :class:`~mfs_eval.flow_level.fabric.Fabric`."""
        buffer = self.racks.hosts
        into, out_of = destinations == buffer, sources == buffer
        rows = self.racks.paths(np.where(out_of, 0, sources), np.where(into, sources, destinations), draws)
        rows[rows >= 2 * buffer] += 2
        rows[out_of, 0] = 2 * buffer
        rows[into, 1] = 2 * buffer + 1
        return rows


class DeepQueues(FlowNetwork):
    """A :class:`~mfs_eval.flow_level.network.FlowNetwork` whose switches hold whole flows of the last stage."""

    def __init__(self, fabric: Fabric, rules: Sequence[LevelRule], settings: FlowSettings | None = None) -> None:
        """Create a network; the last host of ``fabric`` is the buffer."""
        super().__init__(fabric, rules, replace(settings or FlowSettings(), deep_queues=True))
        self._buffer = fabric.hosts - 1

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send a flow; last-stage flows go through the buffer."""
        if spec.stage != Stage.P2D or source_host == spec.destination:
            super().start_flow(source_host, spec, on_complete)
            return
        onward = partial(self._onward, spec, on_complete)
        super().start_flow(source_host, replace(spec, destination=self._buffer), onward)

    def _onward(self, spec: FlowSpec, on_complete: Callable[[int], None], now_ns: int) -> None:
        del now_ns
        super().start_flow(self._buffer, spec, on_complete)
