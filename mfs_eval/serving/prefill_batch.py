"""One batch of a prefill unit, step by step: wait for reused KV, compute, exchange activations, hand over new KV.

A step is one layer, or several taken together so that fewer and longer flows do for the same bytes and times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from host_agent.protocol.stamp import Stage
from mfs_ctrl.policy.effective_deadline import robust_effective_deadline
from mfs_eval.errors import ServingError
from mfs_eval.serving.batching import BATCH_TOKENS, Chunk, Job
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.costs import (
    GPU,
    ModelShape,
    all_to_all_bytes_per_server_pair,
    compute_ns,
    kv_bytes_per_token_layer,
    prefill_flops_per_layer,
    sequence_gather_bytes_per_server_pair,
)
from mfs_eval.serving.laxity import BatchTimes, LaxityNetwork, transmission_ns
from mfs_eval.serving.network_interface import FlowSpec, Network

MOST_LAYERS = 255
"""Layers are stamped in 8 bits."""


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """What is served, on what.

    Attributes:
        cluster: servers, units, decode servers.
        model: the model.
        gpu: the GPUs of the prefill units.
        batch_tokens: new tokens of a batch, at most.
        layers_per_step: layers taken together in a step.
        scale: bytes of every flow are divided by this (at least one is left). The network's rates have to be divided
            by the same, then all times stay as they are.
        collective_factor: the all-to-all bytes are multiplied by this.
        hand_over_early: the KV of a step is sent beside the step's collective, else after it. Early is what the
            hardware allows: a layer's KV exists once its attention has run, before activations are exchanged with the
            experts, and serving engines give a layer's KV to their connector right after attention.
        kv_on_one_gpu: a request's KV lives on one GPU of its unit (attention is data-parallel), so it is fetched and
            handed over through one NIC, in turn by the request's index; else all NICs of the unit have equal shares.
        kv_nics: through how many NICs a request's KV is fetched and handed over, those of the GPUs that share its
            attention (tensor parallelism within a server); 0: all of the unit. They take turns by the request's index.
        sequence_parallel: sequences are spread over the unit's servers, so keys and values are gathered in each layer.
        laxity_deadlines: flows have the deadlines of a clairvoyant, see :mod:`mfs_eval.serving.laxity`.
        defer_infeasible: whether requests that can no longer be in time are computed after all others
            (:mod:`mfs_eval.serving.admission`).
        compute_estimate: what schedulers are told that computing takes is the truth times this.
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
        for name, value in (
            ("batch_tokens", self.batch_tokens),
            ("layers_per_step", self.layers_per_step),
            ("scale", self.scale),
        ):
            if value < 1:
                raise ServingError(f"{name} must be at least 1, it is {value}")
        if self.model.layers > MOST_LAYERS:
            raise ServingError(f"{self.model.name} has {self.model.layers} layers; stamps can tell {MOST_LAYERS}")
        unit_nics = min(len(unit) for unit in self.cluster.units) * self.cluster.nics_per_server
        if self.kv_nics < 0 or (self.kv_nics and unit_nics % self.kv_nics):
            raise ServingError(f"kv_nics must divide a unit's {unit_nics} NICs, it is {self.kv_nics}")
        if self.collective_factor < 0:
            raise ServingError(f"collective_factor must not be negative, it is {self.collective_factor}")
        if self.compute_estimate < 0:
            raise ServingError(f"compute_estimate must not be negative, it is {self.compute_estimate}")

    @property
    def scaled_nic_bits_per_second(self) -> int:
        """The rate of a NIC in the scaled network."""
        return max(1, self.cluster.nic_bits_per_second // self.scale)


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What a batch did. All times in nanoseconds.

    Attributes:
        batch: its number.
        unit: the unit that computed it.
        start_ns: when it was formed.
        end_ns: when its last layer, collective included, was over.
        red_ns: its robust effective deadline.
        requests: the requests in it, by index.
        tokens: new tokens in it.
        compute_ns: time spent computing.
        stage1_wait_ns: time the GPUs waited for reused KV.
        stage2_ns: time in collectives.
        collectives_ns: completion time of each step's collective.
    """

    batch: int
    unit: int
    start_ns: int
    end_ns: int
    red_ns: int
    requests: tuple[int, ...]
    tokens: int
    compute_ns: int
    stage1_wait_ns: int
    stage2_ns: int
    collectives_ns: tuple[int, ...]


class Iteration:
    """The state machine of one batch.

    Args:
        config: what is served, on what.
        network: carries the flows.
        unit: the computing unit.
        batch: number of the batch, unique over all units.
        chunks: what is computed, at least one.
        on_flow: called with the job when a P2D flow of it has arrived, and the time.
        on_end: called when the batch is over (its P2D flows may still be under way).
    """

    def __init__(
        self,
        config: ServingConfig,
        network: Network,
        unit: int,
        batch: int,
        chunks: list[Chunk],
        on_flow: Callable[[Job, int], None],
        on_end: Callable[[Iteration], None],
    ) -> None:
        self.unit = unit
        self.batch = batch
        self.chunks = chunks
        self._config = config
        self._network: Network = network
        self._on_flow = on_flow
        self._on_end = on_end
        self._hosts = config.cluster.unit_hosts(unit)
        self._steps = -(-config.model.layers // config.layers_per_step)
        self._red_ns = robust_effective_deadline(chunk.job.deadline_ns for chunk in chunks)
        self._tokens = sum(chunk.tokens for chunk in chunks)
        self._flops_per_layer = sum(
            prefill_flops_per_layer(config.model, chunk.tokens, chunk.context) for chunk in chunks
        )
        self._kv_bytes = kv_bytes_per_token_layer(config.model)
        self._attended = self._tokens + sum(chunk.context for chunk in chunks)
        self._fetching = [0] * self._steps
        self._collecting = 0
        self._step = 0
        self._computed_steps = 0
        self._computing_until_ns = 0
        self._waiting = False
        self._phase_ns = network.now_ns
        self._start_ns = network.now_ns
        self._compute_ns = self._stage1_wait_ns = 0
        self._collectives_ns: list[int] = []
        if config.laxity_deadlines:
            self._network = LaxityNetwork(network, self._times())

    @property
    def compute_left_ns(self) -> int:
        """Computing that is left as it is estimated, the running step's included, nanoseconds."""
        now_ns = self._network.now_ns
        left = sum(map(self._step_compute_ns, range(self._computed_steps, self._steps))) + max(
            0, self._computing_until_ns - now_ns
        )
        return self._estimated(left)

    def flows(self) -> Iterator[tuple[int, FlowSpec]]:
        """All flows that the batch sends from beginning to end, each with the host it leaves."""
        for step in range(self._steps):
            yield from self._collective(step)
            for chunk in self.chunks:
                if chunk.holder is not None and chunk.fetched_tokens > 0:
                    yield from self._reuse(chunk, chunk.holder, step)
                yield from self._new_kv(chunk, step)

    def start(self) -> None:
        """Open the flows of reused KV for all steps, and begin with the first."""
        for chunk in self.chunks:
            if chunk.holder is not None and chunk.fetched_tokens > 0:
                self._fetch(chunk, chunk.holder)
        self._begin_step()

    def record(self) -> BatchRecord:
        """What the batch did until now."""
        return BatchRecord(
            batch=self.batch,
            unit=self.unit,
            start_ns=self._start_ns,
            end_ns=self._network.now_ns,
            red_ns=self._red_ns,
            requests=tuple(chunk.job.request.index for chunk in self.chunks),
            tokens=self._tokens,
            compute_ns=self._compute_ns,
            stage1_wait_ns=self._stage1_wait_ns,
            stage2_ns=sum(self._collectives_ns),
            collectives_ns=tuple(self._collectives_ns),
        )

    def _times(self) -> BatchTimes:
        config, rate = self._config, self._config.scaled_nic_bits_per_second
        steps = range(self._steps)
        longest_chunk = max(chunk.tokens for chunk in self.chunks)
        last_kv = longest_chunk * self._layers_of(self._steps - 1) * self._kv_bytes // len(self._hosts)
        exchanged = [self._scaled(total) if (total := self._collective_bytes(step)) else 0 for step in steps]
        return BatchTimes(
            compute_ns=tuple(self._estimated(self._step_compute_ns(step)) for step in steps),
            collective_ns=tuple(transmission_ns(count, rate) for count in exchanged),
            hand_over_ns=transmission_ns(self._scaled(last_kv), rate),
            hand_over_early=config.hand_over_early,
            layers_per_step=config.layers_per_step,
            bits_per_second=rate,
        )

    def _estimated(self, duration_ns: int) -> int:
        return round(duration_ns * self._config.compute_estimate)

    def _layers_of(self, step: int) -> int:
        return min(self._config.layers_per_step, self._config.model.layers - step * self._config.layers_per_step)

    def _scaled(self, count: int) -> int:
        return max(1, count // self._config.scale)

    def _fetch(self, chunk: Chunk, holder: int) -> None:
        for step in range(self._steps):
            for source, spec in self._reuse(chunk, holder, step):
                self._fetching[step] += 1
                self._network.start_flow(source, spec, partial(self._fetched, step))

    def _reuse(self, chunk: Chunk, holder: int, step: int) -> Iterator[tuple[int, FlowSpec]]:
        sources = self._config.cluster.unit_hosts(holder)
        interfaces = self._kv_interfaces(chunk.job)
        total = chunk.fetched_tokens * self._kv_bytes * self._layers_of(step)
        for interface in interfaces:
            yield (
                # Hosts are numbered server by server, so the source is on the same rail.
                sources[interface % len(sources)],
                FlowSpec(
                    destination=self._hosts[interface],
                    batch=self.batch,
                    stage=Stage.KV_REUSE,
                    deadline_ns=self._red_ns,
                    total_bytes=self._scaled(total // len(interfaces)),
                    target_layer=step * self._config.layers_per_step,
                ),
            )

    def _kv_interfaces(self, job: Job) -> Sequence[int]:
        """Which of the unit's NICs a job's KV comes in and leaves by, as positions in ``self._hosts``."""
        count = len(self._hosts)
        size = 1 if self._config.kv_on_one_gpu else self._config.kv_nics or count
        first = job.request.index % (count // size) * size
        return range(first, first + size)

    def _fetched(self, step: int, now_ns: int) -> None:
        self._fetching[step] -= 1
        if self._waiting and step == self._step and self._fetching[step] == 0:
            self._waiting = False
            self._stage1_wait_ns += now_ns - self._phase_ns
            self._compute()

    def _begin_step(self) -> None:
        self._phase_ns = self._network.now_ns
        if self._fetching[self._step]:
            self._waiting = True
        else:
            self._compute()

    def _compute(self) -> None:
        duration = self._step_compute_ns(self._step)
        self._compute_ns += duration
        self._computed_steps += 1
        self._computing_until_ns = self._network.now_ns + duration
        self._network.call_at(self._computing_until_ns, self._exchange)

    def _step_compute_ns(self, step: int) -> int:
        config = self._config
        return compute_ns(
            self._flops_per_layer * self._layers_of(step), config.gpu, config.cluster.unit_gpus(self.unit)
        )

    def _collective_bytes(self, step: int) -> int:
        """Bytes of a step's all-to-all from one NIC to one of another server, not scaled."""
        config = self._config
        servers = len(config.cluster.units[self.unit])
        if servers == 1:
            return 0
        per_pair = all_to_all_bytes_per_server_pair(config.model, self._tokens, servers)
        if config.sequence_parallel:
            per_pair += sequence_gather_bytes_per_server_pair(config.model, self._attended, servers)
        return int(per_pair * self._layers_of(step) * config.collective_factor) // config.cluster.nics_per_server

    def _exchange(self) -> None:
        self._phase_ns = self._network.now_ns
        flows = list(self._collective(self._step))
        self._collecting = len(flows)
        for source, spec in flows:
            self._network.start_flow(source, spec, self._exchanged)
        if self._config.hand_over_early:
            self._hand_over_all()
        if not flows:
            self._end_step()

    def _collective(self, step: int) -> Iterator[tuple[int, FlowSpec]]:
        total = self._collective_bytes(step)
        if not total:
            return
        cluster = self._config.cluster
        servers = cluster.units[self.unit]
        count = self._scaled(total)
        layer = step * self._config.layers_per_step
        # What a host is sent is the same from everybody.
        specs = {
            host: FlowSpec(
                destination=host,
                batch=self.batch,
                stage=Stage.COLLECTIVE,
                deadline_ns=self._red_ns,
                total_bytes=count,
                target_layer=layer,
            )
            for host in self._hosts
        }
        for source in servers:
            for destination in servers:
                if source != destination:
                    for nic in range(cluster.nics_per_server):
                        yield cluster.host(source, nic), specs[cluster.host(destination, nic)]

    def _exchanged(self, now_ns: int) -> None:
        self._collecting -= 1
        if self._collecting == 0:
            self._collectives_ns.append(now_ns - self._phase_ns)
            self._end_step()

    def _end_step(self) -> None:
        # The agents learn the progress first, so that the KV sent next is stamped with it.
        self._network.advance(self._hosts, self.batch, self._layers_done(self._step))
        over = self._step + 1 == self._steps
        if over:
            self._settle()
        if not self._config.hand_over_early:
            self._hand_over_all()
        self._step += 1
        if over:
            self._on_end(self)
        else:
            self._begin_step()

    def _settle(self) -> None:
        for chunk in self.chunks:
            job = chunk.job
            job.compute_ns += self._compute_ns
            job.stage1_wait_ns += self._stage1_wait_ns
            job.stage2_ns += sum(self._collectives_ns)
            if chunk.tokens_after == 0:
                job.computed_ns = self._network.now_ns

    def _layers_done(self, step: int) -> int:
        """Layers that are computed when ``step`` is."""
        return min((step + 1) * self._config.layers_per_step, self._config.model.layers)

    def _hand_over_all(self) -> None:
        for chunk in self.chunks:
            on_complete = partial(self._on_flow_of, chunk.job)
            for source, spec in self._new_kv(chunk, self._step):
                chunk.job.flows += 1
                self._network.start_flow(source, spec, on_complete)

    def _new_kv(self, chunk: Chunk, step: int) -> Iterator[tuple[int, FlowSpec]]:
        """The KV of this chunk and step to the decode server, from each NIC that has a part along its rail."""
        cluster, layers, job = self._config.cluster, self._config.model.layers, chunk.job
        interfaces = self._kv_interfaces(job)
        total = chunk.tokens * self._layers_of(step) * self._kv_bytes
        beyond = (chunk.tokens * (layers - self._layers_done(step)) + chunk.tokens_after * layers) * self._kv_bytes
        # What an interface of the decode server is sent is the same from everybody on its rail.
        specs: dict[int, FlowSpec] = {}
        for interface in interfaces:
            server, nic = divmod(self._hosts[interface], cluster.nics_per_server)
            if server == job.decode_server:
                continue  # it is there already
            if nic not in specs:
                specs[nic] = FlowSpec(
                    destination=cluster.host(job.decode_server, nic),
                    batch=self.batch,
                    stage=Stage.P2D,
                    deadline_ns=job.deadline_ns,
                    total_bytes=self._scaled(total // len(interfaces)),
                    target_layer=layers,  # RLI 0 says that the batch is computed
                    beyond_bytes=beyond // len(interfaces) // self._config.scale,
                    request=job.request.index,
                )
            yield self._hosts[interface], specs[nic]

    def _on_flow_of(self, job: Job, now_ns: int) -> None:
        job.flows -= 1
        self._on_flow(job, now_ns)
