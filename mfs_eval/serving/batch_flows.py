"""The flows of one batch, step by step: reused KV, collectives, new KV. A step is one layer, or several together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from host_agent.protocol.effective_deadline import robust_effective_deadline
from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from mfs_eval.serving.batching import Chunk, Job
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.costs import (
    all_to_all_bytes_per_server_pair,
    kv_bytes_per_token_layer,
    sequence_gather_bytes_per_server_pair,
)

Departure = tuple[int, FlowSpec]
"""A flow and the host that sends it."""


class BatchFlows:
    """The flows that a batch sends, independent of time.

    Args:
        config: what is served, on which hardware.
        unit: the unit that computes the batch.
        batch: number of the batch.
        chunks: what the batch computes, at least one.

    Attributes:
        hosts: the unit's hosts.
        steps: number of steps.
        tokens: new tokens of the batch.
        effective_deadline_ns: the batch's robust effective deadline (RED).
    """

    def __init__(self, config: ServingConfig, unit: int, batch: int, chunks: Sequence[Chunk]) -> None:
        self.hosts = config.cluster.unit_hosts(unit)
        self.steps = -(-config.model.layers // config.layers_per_step)
        self.tokens = sum(chunk.tokens for chunk in chunks)
        self.effective_deadline_ns = robust_effective_deadline(chunk.job.deadline_ns for chunk in chunks)
        self._config = config
        self._unit = unit
        self._batch = batch
        self._chunks = chunks
        self._kv_bytes = kv_bytes_per_token_layer(config.model)
        self._attended = self.tokens + sum(chunk.context for chunk in chunks)

    def __iter__(self) -> Iterator[Departure]:
        """Yield all flows of the batch, step by step."""
        for step in range(self.steps):
            yield from self.collective(step)
            for chunk in self._chunks:
                yield from self.reused_kv(chunk, step)
                yield from self.new_kv(chunk, step)

    def layers_of(self, step: int) -> int:
        """Return the number of layers in ``step``."""
        return min(self._config.layers_per_step, self._config.model.layers - step * self._config.layers_per_step)

    def layers_done(self, step: int) -> int:
        """Return the number of layers that are computed at the end of ``step``."""
        return min((step + 1) * self._config.layers_per_step, self._config.model.layers)

    def collective_bytes(self, step: int) -> int:
        """Return the scaled bytes of a step's all-to-all between NICs of two servers; 0 without a collective."""
        config = self._config
        servers = len(config.cluster.units[self._unit])
        if servers == 1:
            return 0
        per_pair = all_to_all_bytes_per_server_pair(config.model, self.tokens, servers)
        if config.sequence_parallel:
            per_pair += sequence_gather_bytes_per_server_pair(config.model, self._attended, servers)
        total = int(per_pair * self.layers_of(step) * config.collective_factor) // config.cluster.nics_per_server
        return self._scaled(total) if total else 0

    def longest_hand_over_bytes(self) -> int:
        """Return the scaled bytes that the largest chunk hands over in the last step, spread evenly over all NICs."""
        longest_chunk = max(chunk.tokens for chunk in self._chunks)
        return self._scaled(longest_chunk * self.layers_of(self.steps - 1) * self._kv_bytes // len(self.hosts))

    def reused_kv(self, chunk: Chunk, step: int) -> Iterator[Departure]:
        """Yield the flows of KV that ``chunk`` fetches for ``step`` from the unit that holds it."""
        if chunk.holder is None or chunk.fetched_tokens == 0:
            return
        sources = self._config.cluster.unit_hosts(chunk.holder)
        interfaces = self._kv_interfaces(chunk.job)
        total = chunk.fetched_tokens * self._kv_bytes * self.layers_of(step)
        for interface in interfaces:
            yield (
                # Hosts are numbered server by server, so the source is on the same rail.
                sources[interface % len(sources)],
                FlowSpec(
                    destination=self.hosts[interface],
                    batch=self._batch,
                    stage=Stage.KV_REUSE,
                    deadline_ns=self.effective_deadline_ns,
                    total_bytes=self._scaled(total // len(interfaces)),
                    target_layer=step * self._config.layers_per_step,
                ),
            )

    def collective(self, step: int) -> Iterator[Departure]:
        """Yield the flows of the all-to-all of ``step``, along the rails."""
        count = self.collective_bytes(step)
        if not count:
            return
        cluster = self._config.cluster
        servers = cluster.units[self._unit]
        layer = step * self._config.layers_per_step
        # A host receives the same from every other one, so they share a specification.
        specs = {
            host: FlowSpec(
                destination=host,
                batch=self._batch,
                stage=Stage.COLLECTIVE,
                deadline_ns=self.effective_deadline_ns,
                total_bytes=count,
                target_layer=layer,
            )
            for host in self.hosts
        }
        for source in servers:
            for destination in servers:
                if source != destination:
                    for nic in range(cluster.nics_per_server):
                        yield cluster.host(source, nic), specs[cluster.host(destination, nic)]

    def new_kv(self, chunk: Chunk, step: int) -> Iterator[Departure]:
        """Yield the flows of new KV of ``chunk`` and ``step`` to the decode server, one from each NIC that has some."""
        cluster, layers, job = self._config.cluster, self._config.model.layers, chunk.job
        interfaces = self._kv_interfaces(job)
        total = chunk.tokens * self.layers_of(step) * self._kv_bytes
        beyond = (chunk.tokens * (layers - self.layers_done(step)) + chunk.tokens_after * layers) * self._kv_bytes
        # A NIC of the decode server receives the same from every NIC on its rail, so they share a specification.
        specs: dict[int, FlowSpec] = {}
        for interface in interfaces:
            server, nic = divmod(self.hosts[interface], cluster.nics_per_server)
            if server == job.decode_server:
                continue  # the KV is on that server already
            if nic not in specs:
                specs[nic] = FlowSpec(
                    destination=cluster.host(job.decode_server, nic),
                    batch=self._batch,
                    stage=Stage.P2D,
                    deadline_ns=job.deadline_ns,
                    total_bytes=self._scaled(total // len(interfaces)),
                    target_layer=layers,  # a relative layer index (RLI) of 0 says that the batch is computed
                    beyond_bytes=beyond // len(interfaces) // self._config.scale,
                    request=job.request.index,
                )
            yield self.hosts[interface], specs[nic]

    def _kv_interfaces(self, job: Job) -> Sequence[int]:
        """Return the NICs that a job's KV arrives at and leaves by, as positions in ``hosts``."""
        count = len(self.hosts)
        size = 1 if self._config.kv_on_one_gpu else self._config.kv_nics or count
        first = job.request.index % (count // size) * size
        return range(first, first + size)

    def _scaled(self, count: int) -> int:
        return max(1, count // self._config.scale)
