"""Admission: requests that can no longer be in time, whatever the network does, are computed after all others."""

from __future__ import annotations

from collections import deque

from host_agent.protocol.units import NS_PER_S
from mfs_eval.serving.batching import Job
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.costs import (
    all_to_all_bytes_per_server_pair,
    compute_ns,
    kv_bytes_per_token_layer,
    prefill_flops_per_layer,
)


def least_ns(config: ServingConfig, job: Job) -> int:
    """Return the least time that ``job`` still needs, in nanoseconds: its remaining tokens alone on idle links.

    It covers computation and collectives of all layers, and the KV of the last step unless that is sent beside its
    collective. Reused KV is assumed to be present.
    """
    model, cluster = config.model, config.cluster
    tokens, servers = job.remaining_tokens, len(cluster.units[job.unit])
    flops = prefill_flops_per_layer(model, tokens, job.request.prompt_tokens - tokens) * model.layers
    compute = compute_ns(flops, config.gpu, cluster.unit_gpus(job.unit))
    # Sent by all interfaces of a server together, to all other servers of the unit.
    sent: float = all_to_all_bytes_per_server_pair(model, tokens, servers) * (servers - 1) * model.layers
    sent *= config.collective_factor
    if not config.hand_over_early:
        sent += tokens * kv_bytes_per_token_layer(model) * config.layers_per_step / servers
    rate_bps = cluster.nic_bits_per_second * cluster.nics_per_server
    return compute + int(sent * 8 * NS_PER_S / rate_bps)


def defer_infeasible(config: ServingConfig, queue: deque[Job], now_ns: int) -> None:
    """Move the jobs that can no longer meet their deadline behind the others; both parts keep their order."""
    late = [job for job in queue if now_ns + least_ns(config, job) > job.deadline_ns]
    if late:
        in_time = [job for job in queue if job not in late]
        queue.clear()
        queue.extend(in_time + late)
