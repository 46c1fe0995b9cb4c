"""Pruning between the serving model and its network: tracks what is still to be sent and which requests to give up.

Decisions are made when a batch is formed and when one departs, that is, when it is computed and its last flow has
arrived. (The end of its computation alone frees no load, and the unit's next batch follows at once anyway.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import PAYLOAD_SHARE
from mfs_ctrl.policy.coordinator import BatchLoad, Port, RequestLoad, prune
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.network_interface import Network, PassingNetwork
from mfs_eval.serving.prefill_batch import PrefillBatch

Hosts = TypeVar("Hosts", int, NDArray[np.int64])


def ports(source: Hosts, destination: Hosts) -> tuple[Hosts, Hosts]:
    """Return the egress ports between two hosts: the sender's interface and the switch port to the receiver.

    Takes one pair of hosts or arrays of them.
    """
    return 2 * source, 2 * destination + 1


class _BatchInFlight:
    """A batch and its unsent bytes by request; the key None is for what the whole batch needs."""

    def __init__(self, batch: PrefillBatch) -> None:
        self.prefill = batch
        self.ended = False
        self.flows = 0
        self.bytes: dict[int | None, Counter[Port]] = {}
        for source, spec in batch.flows():
            self.flows += 1
            left = self.bytes.setdefault(spec.request, Counter())
            for port in ports(source, spec.destination):
                left[port] += spec.total_bytes

    def arrived(self, source: int, spec: FlowSpec) -> None:
        self.flows -= 1
        left = self.bytes[spec.request]
        for port in ports(source, spec.destination):
            left[port] -= spec.total_bytes

    def load(self, finished: Collection[int]) -> BatchLoad | None:
        requests = {
            chunk.job.request.index: RequestLoad(
                chunk.job.request.index,
                chunk.job.deadline_ns,
                self.bytes.get(chunk.job.request.index, {}),
            )
            for chunk in self.prefill.chunks
            if chunk.job.request.index not in finished
        }
        if not requests:
            return None
        compute_ns = self.prefill.compute_left_ns
        return BatchLoad(self.prefill.batch, compute_ns, tuple(requests.values()), self.bytes.get(None, {}))


class Coordination(PassingNetwork):
    """A network for the serving model that prunes requests; also the serving model's observer.

    Args:
        config: what is served, on which hardware.
        network: carries the flows.
        drop_budget: share of the requests that may be given up, 0 to 1.
    """

    def __init__(self, config: ServingConfig, network: Network, drop_budget: float) -> None:
        self.pruned: frozenset[int] = frozenset()
        """Requests that are given up at the moment."""
        self.given_up = 0
        """Number of requests that were given up when they finished."""
        super().__init__(network)
        self._drop_budget = drop_budget
        hosts = config.cluster.servers * config.cluster.nics_per_server
        self._bandwidth_bps = dict.fromkeys(range(2 * hosts), int(config.scaled_nic_bits_per_second * PAYLOAD_SHARE))
        self._in_flight: dict[int, _BatchInFlight] = {}
        self._finished: set[int] = set()

    # --- the network ---------------------------------------------------------------------------------------------

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Start the flow on the network and track its completion."""
        self._network.start_flow(source_host, spec, partial(self._arrived, source_host, spec, on_complete))

    # --- the observer --------------------------------------------------------------------------------------------

    def batch_began(self, batch: PrefillBatch) -> None:
        """Decide again, with the new batch."""
        self._in_flight[batch.batch] = _BatchInFlight(batch)
        self._decide()

    def batch_ended(self, batch: PrefillBatch) -> None:
        """Decide again, without the batch, if all its flows have arrived."""
        self._in_flight[batch.batch].ended = True
        self._depart(batch.batch)

    def request_finished(self, index: int) -> None:
        """Count the request in the budget as what it is now, given up or not."""
        self._finished.add(index)
        self.given_up += index in self.pruned

    def _arrived(self, source: int, spec: FlowSpec, on_complete: Callable[[int], None], now_ns: int) -> None:
        self._in_flight[spec.batch].arrived(source, spec)
        on_complete(now_ns)
        self._depart(spec.batch)

    def _depart(self, number: int) -> None:
        batch = self._in_flight.get(number)
        if batch is not None and batch.ended and not batch.flows:
            del self._in_flight[number]
            self._decide()

    def _decide(self) -> None:
        loads = [load for batch in self._in_flight.values() if (load := batch.load(self._finished)) is not None]
        decision = prune(loads, self._bandwidth_bps, self.now_ns, self._drop_budget, len(self._finished), self.given_up)
        if decision.pruned != self.pruned:
            self.pruned = decision.pruned
            self.prune(decision.pruned)
