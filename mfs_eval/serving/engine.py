"""Disaggregated serving: requests wait at prefill units, are batched, computed, and handed to decode servers.

An event-driven, deterministic state machine on any :class:`~mfs_eval.serving.network_interface.Network`. The
placement and the reuse of requests are planned beforehand (:mod:`mfs_eval.serving.placement`). Only the formation and
the progress of batches depend on the network, so policies are compared on the same work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

from mfs_eval.errors import ServingError
from mfs_eval.serving.admission import defer_infeasible
from mfs_eval.serving.batching import Job, form_batch
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.metrics import RequestRecord
from mfs_eval.serving.network_interface import Network
from mfs_eval.serving.placement import Placement
from mfs_eval.serving.prefill_batch import BatchRecord, PrefillBatch
from mfs_eval.serving.trace import Request

__all__ = ["BatchRecord", "Network", "RequestRecord", "Serving", "ServingConfig"]

FIRST_BATCH = 1
BATCHES = 1 << 32
"""Batch numbers are 32 bits wide."""


class Observer(Protocol):
    """Interface that is told about batches and requests."""

    def batch_began(self, batch: PrefillBatch) -> None:
        """Called when a batch has been formed, before any of its flows starts."""
        ...

    def batch_ended(self, batch: PrefillBatch) -> None:
        """Called when a batch is computed. Its last-stage flows may still be in flight."""
        ...

    def request_finished(self, index: int) -> None:
        """Called when all KV of a request is at its decode server."""
        ...


class Serving:
    """A serving run.

    Args:
        config: what is served, on which hardware.
        network: carries the flows and keeps the time.
        requests: the workload.
        slo_ns: by request index, the objective in nanoseconds from arrival.
        placements: by request index, the prefill unit and what the request reuses there.
        observer: is told about batches and requests.

    Raises:
        ServingError: a request has no objective or no placement, or is placed at a unit that does not exist.
    """

    def __init__(
        self,
        config: ServingConfig,
        network: Network,
        requests: Iterable[Request],
        slo_ns: Mapping[int, int],
        placements: Mapping[int, Placement],
        observer: Observer | None = None,
    ) -> None:
        units = len(config.cluster.units)
        self.records: list[RequestRecord] = []
        """Finished requests, in the order of finishing."""
        self.batches: list[BatchRecord] = []
        """Finished batches, in the order of ending."""
        self._config = config
        self._network = network
        self._requests = list(requests)
        self._slo_ns = slo_ns
        self._placements = placements
        self._observer = observer
        self._queues: list[deque[Job]] = [deque() for _ in range(units)]
        self._running: list[PrefillBatch | None] = [None] * units
        self._next_batch = FIRST_BATCH
        self._check()

    @property
    def unfinished(self) -> int:
        """Number of requests whose KV cache is not yet complete at its decode server."""
        return len(self._requests) - len(self.records)

    def start(self) -> None:
        """Schedule the arrivals. The network's event loop then runs the rest."""
        for request in self._requests:
            self._network.call_at(request.arrival_ns, self._arrive, request)

    def _check(self) -> None:
        for what, given in (("objective in slo_ns", self._slo_ns), ("placement in placements", self._placements)):
            missing = [request.index for request in self._requests if request.index not in given]
            if missing:
                raise ServingError(f"request {missing[0]} has no {what} ({len(missing)} requests have none)")
        units = len(self._queues)
        for request in self._requests:
            placement = self._placements[request.index]
            for unit in (placement.unit, placement.reuse.holder):
                if unit is not None and not 0 <= unit < units:
                    raise ServingError(
                        f"the placement of request {request.index} names unit {unit}, but the cluster's units are "
                        f"0 to {units - 1}; place the requests for this cluster"
                    )

    def _arrive(self, request: Request) -> None:
        placement = self._placements[request.index]
        unit = placement.unit
        job = Job(
            request=request,
            unit=unit,
            decode_server=self._config.cluster.decode_server(request.index, unit),
            deadline_ns=request.arrival_ns + self._slo_ns[request.index],
            reuse=placement.reuse,
        )
        self._queues[unit].append(job)
        if self._running[unit] is None:
            self._begin_batch(unit)

    def _begin_batch(self, unit: int) -> None:
        if self._config.defer_infeasible:
            defer_infeasible(self._config, self._queues[unit], self._network.now_ns)
        chunks = form_batch(self._queues[unit], self._config.batch_tokens)
        if not chunks:
            self._running[unit] = None
            return
        batch = PrefillBatch(
            self._config, self._network, unit, self._next_batch, chunks, self._on_flow, self._end_batch
        )
        self._next_batch = (self._next_batch + 1) % BATCHES
        self._running[unit] = batch
        for chunk in chunks:
            if chunk.job.batches == 1:
                chunk.job.start_ns = self._network.now_ns
        if self._observer is not None:
            self._observer.batch_began(batch)
        batch.start()

    def _end_batch(self, batch: PrefillBatch) -> None:
        self.batches.append(batch.record())
        for chunk in batch.chunks:
            if chunk.tokens_after == 0 and chunk.job.flows == 0:
                self._finish(chunk.job, self._network.now_ns)
        if self._observer is not None:
            self._observer.batch_ended(batch)
        self._begin_batch(batch.unit)

    def _on_flow(self, job: Job, now_ns: int) -> None:
        if job.flows == 0 and job.computed_ns is not None:
            self._finish(job, now_ns)

    def _finish(self, job: Job, now_ns: int) -> None:
        assert job.computed_ns is not None
        request = job.request
        self.records.append(
            RequestRecord(
                index=request.index,
                unit=job.unit,
                decode_server=job.decode_server,
                arrival_ns=request.arrival_ns,
                deadline_ns=job.deadline_ns,
                ttft_ns=now_ns - request.arrival_ns,
                batches=job.batches,
                new_tokens=request.prompt_tokens - job.reuse.tokens,
                local_tokens=job.reuse.local_tokens,
                fetched_tokens=job.reuse.remote_tokens,
                queued_ns=job.start_ns - request.arrival_ns,
                compute_ns=job.compute_ns,
                stage1_wait_ns=job.stage1_wait_ns,
                stage2_ns=job.stage2_ns,
                tail_ns=now_ns - job.computed_ns,
            )
        )
        if self._observer is not None:
            self._observer.request_finished(request.index)
