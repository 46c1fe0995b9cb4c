"""Requests that cannot be in time any more, whatever the network does: they are computed after all others."""

from __future__ import annotations

from collections import deque

from host_agent.protocol.units import NS_PER_S
from mfs_eval.serving.batching import Job
from mfs_eval.serving.costs import (
    all_to_all_bytes_per_server_pair,
    compute_ns,
    kv_bytes_per_token_layer,
    prefill_flops_per_layer,
)
from mfs_eval.serving.prefill_batch import ServingConfig


def least_ns(config: ServingConfig, job: Job) -> int:
    """The time from now that ``job`` needs at least: its tokens that are left alone in a batch, on idle links.

    Computing and collectives of all layers, and the last step's KV unless it is sent beside its collective. Reused KV
    is taken to be there. Nanoseconds.
    """
    model, cluster = config.model, config.cluster
    tokens, servers = job.remaining_tokens, len(cluster.units[job.unit])
    flops = prefill_flops_per_layer(model, tokens, job.request.prompt_tokens - tokens) * model.layers
    compute = compute_ns(flops, config.gpu, cluster.unit_gpus(job.unit))
    # Of a server's interfaces together; each sends to all other servers of the unit.
    sent: float = all_to_all_bytes_per_server_pair(model, tokens, servers) * (servers - 1) * model.layers
    sent *= config.collective_factor
    if not config.hand_over_early:
        sent += tokens * kv_bytes_per_token_layer(model) * config.layers_per_step / servers
    rate_bps = cluster.nic_bits_per_second * cluster.nics_per_server
    return compute + int(sent * 8 * NS_PER_S / rate_bps)


def hopeless_last(config: ServingConfig, queue: deque[Job], now_ns: int) -> None:
    """Move those of ``queue`` that cannot meet their deadline any more behind the others, each part in its order."""
    late = [job for job in queue if now_ns + least_ns(config, job) > job.deadline_ns]
    if late:
        in_time = [job for job in queue if job not in late]
        queue.clear()
        queue.extend(in_time + late)
