"""The connector in a worker's process: moves KV between the caches and connections. Uses torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from vllm.distributed.parallel_state import get_tp_group
from vllm.utils.network_utils import get_ip

from host_agent.engines import nccl
from host_agent.engines.channel import Pool
from host_agent.engines.collectives import Collectives, CollectiveStep
from host_agent.engines.errors import ParamsError
from host_agent.engines.fetch import Fetch
from host_agent.engines.flows import Announcer
from host_agent.engines.gate import Gate
from host_agent.engines.params import ConnectorOptions
from host_agent.engines.plan import PushStep, StepPlan
from host_agent.engines.push import Means, Push, PushTarget, Staging
from host_agent.engines.receive import Receiver
from host_agent.engines.records import Records
from host_agent.engines.store import Store
from host_agent.engines.vllm.scheduler_side import model_id
from host_agent.engines.wire import Layout

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

_LOG = logging.getLogger("vllm.mfs")  # vLLM shows its own loggers only


class WorkerSide:
    """One for each rank of an engine."""

    def __init__(self, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, options: ConnectorOptions) -> None:
        from vllm.model_executor.models.utils import extract_layer_index

        self._options = options
        self._block_tokens = int(vllm_config.cache_config.block_size)
        self._blocks = int(kv_cache_config.num_blocks)
        self._model_id = model_id(vllm_config, options)
        names = sorted(kv_cache_config.kv_cache_groups[0].layer_names, key=extract_layer_index)
        self._number = {name: number for number, name in enumerate(names)}
        self._names = names
        self._secret = options.secret()
        self._announcer = Announcer(options.agent)
        self._records = Records(options.log)
        self._pool = Pool(self._secret, options.timeout_s)
        self._receiver: Receiver | None = None
        self._store: Store | None = None
        self._means: Means | None = None
        self._pushes: dict[tuple[str, str], Push] = {}
        self._fetches: dict[str, Fetch] = {}
        self._invalid: set[int] = set()
        self._rank = 0
        model = vllm_config.model_config
        self._token_bytes = int(model.get_hidden_size()) * model.dtype.itemsize
        """Activations of a token, which the ranks exchange twice a layer, and once before the first."""
        self._ranks = 1
        self._collectives: Collectives | None = None
        self._gate: Gate | None = None

    def register(self, kv_caches: Mapping[str, torch.Tensor]) -> None:
        """Take the KV caches, and start to listen.

        Raises:
            ParamsError: their shapes are not supported.
        """
        self._caches = [kv_caches[name] for name in self._names]
        first = self._caches[0]
        if self._blocks not in first.shape[:2] or any(cache.shape != first.shape for cache in self._caches):
            raise ParamsError(
                f"MfsConnector needs KV caches of one shape, {self._blocks} blocks in the first or second dimension, "
                f"not {[tuple(cache.shape) for cache in self._caches][:3]}"
            )
        self._dimension = list(first.shape).index(self._blocks)
        self._gate = Gate() if first.is_cuda else None
        shape = tuple(size for number, size in enumerate(first.shape) if number != self._dimension)
        group = get_tp_group()
        self._rank, self._ranks = group.rank_in_group, group.world_size
        layout = Layout(
            model=self._model_id,
            layers=len(self._caches),
            block_tokens=self._block_tokens,
            block_bytes=first.numel() // self._blocks * first.element_size(),
            dtype=str(first.dtype),
            shape=shape,
            rank=self._rank,
            ranks=self._ranks,
        )
        options = self._options
        staging = Staging(int(options.staging_bytes))
        self._means = Means(layout, self._pool, self._announcer, staging, self._records, options.timeout_s)
        if options.listen is not None:
            address = options.listen.of_rank(self._rank)
            times = options.timeout_s, options.receive_timeout_s
            self._receiver = Receiver(address, layout, self._secret, self._write, self._records, *times)
            _LOG.info("MfsConnector listens at %s", address)
        if options.prefixes is not None:
            address = options.prefixes.of_rank(self._rank)
            capacity = int(options.prefix_bytes)
            shared = self._secret, self._announcer, self._records, options.timeout_s
            self._store = Store(address, *shared, capacity_bytes=capacity)
            _LOG.info("MfsConnector keeps prefixes at %s", address)
        if self._ranks > 1:
            hosts = [""] * self._ranks
            torch.distributed.all_gather_object(hosts, get_ip(), group=group.cpu_group)
            others = sorted({*hosts} - {get_ip()})
            self._collectives = Collectives(self._announcer, others, nccl.connections)
            _LOG.info("%d connections to other ranks are stamped", len(self._collectives.matches))

    def begin(self, plan: StepPlan) -> None:
        """Begin a step: end what has ended, begin pushes, and announce the collectives of prefills."""
        for name in plan.ended:
            for key in [key for key in self._pushes if key[0] == name]:
                self._pushes.pop(key).abort("the request ended before its prompt was computed")
            if self._receiver is not None:
                self._receiver.cancel(name)
        for step in plan.pushes:
            self._begin_push(step)
        if self._collectives is not None and plan.tightest_ns is not None:
            message_bytes = plan.tokens * self._token_bytes
            # Of an all-reduce in a ring, a rank sends this share.
            total_bytes = (2 * len(self._names) + 1) * message_bytes * 2 * (self._ranks - 1) // self._ranks
            self._collectives.step(CollectiveStep(plan.tightest_ns, total_bytes, message_bytes))

    def load(self, plan: StepPlan) -> None:
        """Begin to receive and to fetch."""
        for receive in plan.receives:
            if self._receiver is not None:
                self._receiver.expect(receive.request, receive.transfer, receive.block_ids, receive.first)
        for step in plan.fetches:
            assert self._means is not None
            self._fetches[step.request] = fetch = Fetch(
                request=step.request,
                address=step.address.of_rank(self._rank),
                keys=step.keys,
                first=step.first,
                block_ids=step.block_ids,
                batch=step.batch,
                deadline_ns=step.deadline_ns,
                layout=self._means.layout,
                pool=self._pool,
                records=self._records,
                write=self._write,
            )
            fetch.start()

    def wait_for_layer(self, name: str) -> None:
        """Wait until the layer's fetched blocks are there; those of a failed fetch are invalid."""
        for request, fetch in list(self._fetches.items()):
            if not fetch.wait(self._number[name], self._options.timeout_s):
                self._invalid.update(fetch.block_ids)
                del self._fetches[request]
                for key in [key for key in self._pushes if key[0] == request]:
                    self._pushes[key].abort("the prefix of the request could not be fetched")

    def save_layer(self, name: str, plan: StepPlan) -> None:
        """Push the computed blocks of a layer, and report progress."""
        layer = self._number[name]
        for step in plan.pushes:
            pushes = [push for key, push in self._pushes.items() if key[0] == step.request and not push.failed]
            if pushes:
                rows = self._read(layer, step.block_ids)
                for push in pushes:
                    self._computed(partial(self._add, push, step, layer, rows))
        for batch in plan.computing:
            self._computed(partial(self._announcer.advance, batch, layer + 1))
        if layer == len(self._names) - 1:
            for step in plan.pushes:
                if step.last:
                    for key in [key for key in self._pushes if key[0] == step.request]:
                        self._computed(self._pushes.pop(key).finish)

    def end(self) -> None:
        """End a step."""
        self._fetches.clear()

    def results(self) -> tuple[set[str], set[str]]:
        """Return the requests whose pushes have arrived, and those whose pushes have failed."""
        return self._receiver.results() if self._receiver is not None else (set(), set())

    def invalid_blocks(self) -> set[int]:
        """Return the blocks that could not be loaded since the last call."""
        invalid, self._invalid = self._invalid, set()
        return invalid

    def close(self) -> None:
        """Stop listening, and close connections."""
        if self._receiver is not None:
            self._receiver.close()
        if self._store is not None:
            self._store.close()
        if self._gate is not None:
            self._gate.close()
        if self._collectives is not None:
            self._collectives.stop()
        self._pool.close()
        self._announcer.stop()

    def _begin_push(self, step: PushStep) -> None:
        assert self._means is not None
        if step.first:
            return  # began in an earlier step
        for kind, address, blocks in (("to", step.to, step.total), ("store", step.store, len(step.keys))):
            if address is not None and blocks:
                keys = step.keys if kind == "store" else ()
                target = PushTarget(
                    request=step.request,
                    address=address.of_rank(self._rank),
                    transfer=step.transfer if kind == "to" else "",
                    blocks=blocks,
                    batch=step.batch,
                    deadline_ns=step.deadline_ns,
                    keys=keys,
                )
                self._pushes[step.request, kind] = push = Push(target, self._means)
                push.start()

    def _computed(self, call: Callable[[], None]) -> None:
        """Call ``call`` once everything launched so far is computed: now on CPUs, in the gate's thread on GPUs."""
        if self._gate is None:
            call()
            return
        event = torch.cuda.Event()
        event.record()
        self._gate.submit(event, call)

    def _add(self, push: Push, step: PushStep, layer: int, rows: torch.Tensor) -> None:
        assert self._means is not None
        payload = memoryview(rows.view(torch.uint8).numpy()).cast("B")
        # A store takes full blocks only.
        count = min(len(step.block_ids), push.target.blocks - step.first)
        if count > 0:
            push.add(layer, step.first, count, payload[: count * self._means.layout.block_bytes])

    def _read(self, layer: int, block_ids: Sequence[int]) -> torch.Tensor:
        """Return a copy of blocks in host memory, one after the other: they may be freed before they are sent.

        On GPUs the copy is launched, in order with what computes the blocks and with what overwrites them later.
        """
        cache = self._caches[layer]
        chosen = torch.index_select(cache, self._dimension, torch.tensor(block_ids, device=cache.device))
        rows = chosen.movedim(self._dimension, 0).contiguous()
        if not cache.is_cuda:
            return rows
        return torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)

    def _write(self, layer: int, block_ids: Sequence[int], payload: memoryview) -> None:
        """Write blocks; in any thread."""
        cache = self._caches[layer]
        rows = torch.frombuffer(payload, dtype=torch.uint8).view(cache.dtype)
        assert self._means is not None
        blocks = rows.view(len(block_ids), *self._means.layout.shape).to(cache.device).movedim(0, self._dimension)
        cache.index_copy_(self._dimension, torch.tensor(block_ids, device=cache.device), blocks)
        if cache.is_cuda:
            torch.cuda.current_stream().synchronize()
