"""One batch of a prefill unit, step by step: wait for reused KV, compute, exchange activations, hand over new KV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from mfs_eval.serving.batch_flows import BatchFlows, Departure
from mfs_eval.serving.batching import Chunk, Job
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.costs import compute_ns, prefill_flops_per_layer
from mfs_eval.serving.laxity import BatchTimes, LaxityNetwork, transmission_ns
from mfs_eval.serving.network_interface import Network


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """History of a finished batch. All times in nanoseconds.

    Attributes:
        batch: its number.
        unit: the unit that computed it.
        start_ns: when it was formed.
        end_ns: when its last layer ended, collective included.
        effective_deadline_ns: its robust effective deadline (RED).
        requests: indices of its requests.
        tokens: its new tokens.
        compute_ns: time spent computing.
        stage1_wait_ns: time the GPUs waited for reused KV.
        stage2_ns: time spent in collectives.
        collectives_ns: completion time of each step's collective.
    """

    batch: int
    unit: int
    start_ns: int
    end_ns: int
    effective_deadline_ns: int
    requests: tuple[int, ...]
    tokens: int
    compute_ns: int
    stage1_wait_ns: int
    stage2_ns: int
    collectives_ns: tuple[int, ...]


class PrefillBatch:
    """State machine of one batch.

    Args:
        config: what is served, on which hardware.
        network: carries the flows.
        unit: the unit that computes the batch.
        batch: number of the batch, unique over all units.
        chunks: what the batch computes, at least one.
        on_flow: called with the job and the time when one of the job's P2D (prefill-to-decode) flows has arrived.
        on_end: called when the batch is computed. Its P2D flows may still be in flight.
    """

    def __init__(
        self,
        config: ServingConfig,
        network: Network,
        unit: int,
        batch: int,
        chunks: list[Chunk],
        on_flow: Callable[[Job, int], None],
        on_end: Callable[[PrefillBatch], None],
    ) -> None:
        self.unit = unit
        self.batch = batch
        self.chunks = chunks
        self._config = config
        self._network: Network = network
        self._on_flow = on_flow
        self._on_end = on_end
        self._flows = BatchFlows(config, unit, batch, chunks)
        self._flops_per_layer = sum(
            prefill_flops_per_layer(config.model, chunk.tokens, chunk.context) for chunk in chunks
        )
        self._fetching = [0] * self._flows.steps
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
        """Estimated compute time that is left, the running step's included, in nanoseconds."""
        now_ns = self._network.now_ns
        left = sum(map(self._step_compute_ns, range(self._computed_steps, self._flows.steps))) + max(
            0, self._computing_until_ns - now_ns
        )
        return self._estimated(left)

    def flows(self) -> Iterator[Departure]:
        """Return all flows that the batch sends from beginning to end."""
        return iter(self._flows)

    def start(self) -> None:
        """Start the flows of reused KV for all steps and begin the first step."""
        for chunk in self.chunks:
            for step in range(self._flows.steps):
                for source, spec in self._flows.reused_kv(chunk, step):
                    self._fetching[step] += 1
                    self._network.start_flow(source, spec, partial(self._fetched, step))
        self._begin_step()

    def record(self) -> BatchRecord:
        """Return the batch's history up to now."""
        return BatchRecord(
            batch=self.batch,
            unit=self.unit,
            start_ns=self._start_ns,
            end_ns=self._network.now_ns,
            effective_deadline_ns=self._flows.effective_deadline_ns,
            requests=tuple(chunk.job.request.index for chunk in self.chunks),
            tokens=self._flows.tokens,
            compute_ns=self._compute_ns,
            stage1_wait_ns=self._stage1_wait_ns,
            stage2_ns=sum(self._collectives_ns),
            collectives_ns=tuple(self._collectives_ns),
        )

    def _times(self) -> BatchTimes:
        config, flows, rate = self._config, self._flows, self._config.scaled_nic_bits_per_second
        steps = range(flows.steps)
        return BatchTimes(
            compute_ns=tuple(self._estimated(self._step_compute_ns(step)) for step in steps),
            collective_ns=tuple(transmission_ns(flows.collective_bytes(step), rate) for step in steps),
            hand_over_ns=transmission_ns(flows.longest_hand_over_bytes(), rate),
            hand_over_early=config.hand_over_early,
            layers_per_step=config.layers_per_step,
            bits_per_second=rate,
        )

    def _estimated(self, duration_ns: int) -> int:
        return round(duration_ns * self._config.compute_estimate)

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
        flops = self._flops_per_layer * self._flows.layers_of(step)
        return compute_ns(flops, config.gpu, config.cluster.unit_gpus(self.unit))

    def _exchange(self) -> None:
        self._phase_ns = self._network.now_ns
        flows = list(self._flows.collective(self._step))
        self._collecting = len(flows)
        for source, spec in flows:
            self._network.start_flow(source, spec, self._exchanged)
        if self._config.hand_over_early:
            self._hand_over()
        if not flows:
            self._end_step()

    def _exchanged(self, now_ns: int) -> None:
        self._collecting -= 1
        if self._collecting == 0:
            self._collectives_ns.append(now_ns - self._phase_ns)
            self._end_step()

    def _end_step(self) -> None:
        # The agents learn the progress first, so that the KV sent next carries it in its stamps.
        self._network.advance(self._flows.hosts, self.batch, self._flows.layers_done(self._step))
        over = self._step + 1 == self._flows.steps
        if over:
            self._account()
        if not self._config.hand_over_early:
            self._hand_over()
        self._step += 1
        if over:
            self._on_end(self)
        else:
            self._begin_step()

    def _account(self) -> None:
        """Add the batch's times to its jobs."""
        for chunk in self.chunks:
            job = chunk.job
            job.compute_ns += self._compute_ns
            job.stage1_wait_ns += self._stage1_wait_ns
            job.stage2_ns += sum(self._collectives_ns)
            if chunk.tokens_after == 0:
                job.computed_ns = self._network.now_ns

    def _hand_over(self) -> None:
        for chunk in self.chunks:
            on_complete = partial(self._handed_over, chunk.job)
            for source, spec in self._flows.new_kv(chunk, self._step):
                chunk.job.flows += 1
                self._network.start_flow(source, spec, on_complete)

    def _handed_over(self, job: Job, now_ns: int) -> None:
        job.flows -= 1
        self._on_flow(job, now_ns)
