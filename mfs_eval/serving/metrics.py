"""Metrics of a serving run, computed from its records. Times in nanoseconds unless a name ends in ``_s``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from host_agent.protocol.units import NS_PER_S
from mfs_eval.serving.prefill_batch import BatchRecord


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Outcome of one request.

    ``ttft_ns = queued_ns + compute_ns + stage1_wait_ns + stage2_ns + tail_ns``, exactly.

    Attributes:
        index: number of the request in its trace.
        unit: the prefill unit that computed it.
        decode_server: the server that received its KV cache.
        arrival_ns: arrival time.
        deadline_ns: deadline of its first token.
        ttft_ns: time to first token (TTFT): from arrival until the last byte of KV is at the decode server.
        batches: number of batches it was computed in.
        new_tokens: tokens that were computed.
        local_tokens: tokens whose KV the unit held.
        fetched_tokens: tokens whose KV came from another unit.
        queued_ns: time from arrival until its first batch began.
        compute_ns: time that its batches spent computing.
        stage1_wait_ns: time that its batches waited for reused KV.
        stage2_ns: time that its batches spent in collectives.
        tail_ns: time from the end of its last batch until its last byte arrived.
    """

    index: int
    unit: int
    decode_server: int
    arrival_ns: int
    deadline_ns: int
    ttft_ns: int
    batches: int
    new_tokens: int
    local_tokens: int
    fetched_tokens: int
    queued_ns: int
    compute_ns: int
    stage1_wait_ns: int
    stage2_ns: int
    tail_ns: int

    @property
    def in_time(self) -> bool:
        """Whether the objective was met."""
        return self.earliness_ns >= 0

    @property
    def earliness_ns(self) -> int:
        """Time from the arrival of the last P2D (prefill-to-decode) byte to the deadline; negative if late."""
        return self.deadline_ns - self.arrival_ns - self.ttft_ns

    @property
    def network_share(self) -> float:
        """Share of the TTFT spent waiting for flows: for reused KV, collectives, and the last P2D bytes.

        It does not include queueing for the unit, although other requests' waiting for the network causes part of that.
        """
        return (self.stage1_wait_ns + self.stage2_ns + self.tail_ns) / max(1, self.ttft_ns)


@dataclass(frozen=True, slots=True)
class Summary:
    """Metrics of a run; each is 0 if there is nothing to measure.

    Attributes:
        requests: requests that finished.
        slo_attainment: share of them that met their objective.
        ttft_mean_s: mean TTFT.
        ttft_p50_s: median TTFT.
        ttft_p99_s: 99th percentile of the TTFT.
        collective_mean_s: mean completion time of a step's collective.
        collective_p99_s: 99th percentile of that time.
        earliness_mean_s: mean time from P2D completion to the deadline; late requests count as negative.
        network_share: mean share of the TTFT spent waiting for flows.
        queued_share: mean share of the TTFT spent waiting for the unit.
    """

    requests: int
    slo_attainment: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    collective_mean_s: float
    collective_p99_s: float
    earliness_mean_s: float
    network_share: float
    queued_share: float


def after_warm_up(records: Iterable[RequestRecord], warm: int) -> list[RequestRecord]:
    """Return the records in order of arrival, without the first ``warm``, which found an empty cluster."""
    return sorted(records, key=lambda record: record.arrival_ns)[warm:]


def percentile(values: Iterable[int], share: float) -> int:
    """Return the smallest of ``values`` that at least ``share`` of them do not exceed (nearest rank); 0 if empty."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0


def slo_attainment(records: Sequence[RequestRecord]) -> float:
    """Return the share of requests that met their objective; 0 without requests."""
    return _mean([record.in_time for record in records])


def summarise(records: Sequence[RequestRecord], batches: Sequence[BatchRecord]) -> Summary:
    """Return the metrics of a run."""
    ttfts = [record.ttft_ns for record in records]
    collectives = [duration for batch in batches for duration in batch.collectives_ns]
    return Summary(
        requests=len(records),
        slo_attainment=slo_attainment(records),
        ttft_mean_s=_mean(ttfts) / NS_PER_S,
        ttft_p50_s=percentile(ttfts, 0.50) / NS_PER_S,
        ttft_p99_s=percentile(ttfts, 0.99) / NS_PER_S,
        collective_mean_s=_mean(collectives) / NS_PER_S,
        collective_p99_s=percentile(collectives, 0.99) / NS_PER_S,
        earliness_mean_s=_mean([record.earliness_ns for record in records]) / NS_PER_S,
        network_share=_mean([record.network_share for record in records]),
        queued_share=_mean([record.queued_ns / max(1, record.ttft_ns) for record in records]),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
