"""``MfsConnector``: a KV connector of vLLM that sends the KV of each layer as soon as it is computed.

::

    --kv-transfer-config '{"kv_connector": "MfsConnector", "kv_role": "kv_producer",
                           "kv_connector_module_path": "host_agent.engines.vllm.connector"}'

``kv_connector_extra_config`` is :class:`~host_agent.engines.params.ConnectorOptions`; a request's
``kv_transfer_params`` are :class:`~host_agent.engines.params.TransferParams`. ``docs/guide/vllm.md`` has the steps.
This module adapts vLLM's hooks, and holds no logic of its own. It is the only one that imports vLLM and torch.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size

from host_agent.engines.channel import Pool
from host_agent.engines.errors import ParamsError
from host_agent.engines.fetch import Fetch, Lookups
from host_agent.engines.flows import Announcer
from host_agent.engines.gate import Gate
from host_agent.engines.params import ConnectorOptions, TransferParams, deadline_ns, objective_ms
from host_agent.engines.plan import Planner, PushStep, StepPlan, batch_numbers
from host_agent.engines.prefix import prefix_keys
from host_agent.engines.push import Means, Push, PushTarget, Staging
from host_agent.engines.receive import Receiver
from host_agent.engines.records import Records
from host_agent.engines.store import Store
from host_agent.engines.wire import Layout
from host_agent.protocol.flow_request import BATCH_MAX

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

_LOG = logging.getLogger("vllm.mfs")  # vLLM shows its own loggers only

_HINT = "mfs"
"""Type of the KV hint action whose payload may have ``mfs_deadline_ms``."""


@dataclass
class MfsMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler's side tells the workers in each step."""

    plan: StepPlan = field(default_factory=StepPlan)


class MfsConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """See the module."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        """Make one side of the connector.

        Raises:
            ParamsError: the configuration is invalid, or the model's KV cache is of a kind that is not supported.
        """
        super().__init__(vllm_config, role, kv_cache_config)
        options = ConnectorOptions.from_config(vllm_config.kv_transfer_config.kv_connector_extra_config or {})
        if len(kv_cache_config.kv_cache_groups) != 1:
            raise ParamsError(
                f"MfsConnector needs one group of KV caches, this model has {len(kv_cache_config.kv_cache_groups)}"
            )
        if vllm_config.parallel_config.pipeline_parallel_size != 1:
            raise ParamsError("MfsConnector does not support pipeline parallelism")
        transfer = vllm_config.kv_transfer_config
        if transfer.is_kv_consumer and not transfer.is_kv_producer and options.listen is None:
            raise ParamsError('a decode engine (kv_consumer) needs "listen": "HOST:PORT" in kv_connector_extra_config')
        self._scheduler: _SchedulerSide | None = None
        self._worker: _WorkerSide | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = _SchedulerSide(vllm_config, options)
        else:
            self._worker = _WorkerSide(vllm_config, kv_cache_config, options)

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:  # noqa: ARG003
        """Layer hooks do not run inside full CUDA graphs."""
        return True

    # The scheduler's side

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        """See the base class."""
        return self._of_scheduler.matched(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Request, blocks: Any, num_external_tokens: int) -> None:
        """See the base class."""
        self._of_scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> MfsMetadata:
        """See the base class."""
        return MfsMetadata(self._of_scheduler.plan(scheduler_output))

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """See the base class. Blocks may be freed at once: what is not sent yet has been copied."""
        return self.request_finished(request, block_ids[0] if block_ids else [])

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:  # noqa: ARG002
        """See the base class."""
        self._of_scheduler.finished(request.request_id)
        return False, None

    # The worker's side

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """See the base class."""
        self._of_worker.register(kv_caches)

    def bind_connector_metadata(self, connector_metadata: MfsMetadata) -> None:
        """See the base class."""
        super().bind_connector_metadata(connector_metadata)
        self._of_worker.begin(connector_metadata.plan)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """See the base class."""
        self._of_worker.load(self._get_connector_metadata().plan)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """See the base class."""
        self._of_worker.wait_for_layer(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """See the base class."""
        if self.has_connector_metadata():
            self._of_worker.save_layer(layer_name, self._get_connector_metadata().plan)

    def wait_for_save(self) -> None:
        """See the base class."""
        self._of_worker.end()

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:  # noqa: ARG002
        """See the base class."""
        done, failed = self._of_worker.results()
        return KVConnectorTransferResults(finished_recving=done | failed, failed_recving=failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """See the base class."""
        return self._of_worker.invalid_blocks()

    def shutdown(self) -> None:
        """See the base class."""
        for side in (self._scheduler, self._worker):
            if side is not None:
                side.close()

    @property
    def _of_scheduler(self) -> _SchedulerSide:
        assert self._scheduler is not None
        return self._scheduler

    @property
    def _of_worker(self) -> _WorkerSide:
        assert self._worker is not None
        return self._worker


class _SchedulerSide:
    """In the scheduler's process: decides what is pushed, received and fetched."""

    def __init__(self, vllm_config: VllmConfig, options: ConnectorOptions) -> None:
        model = vllm_config.model_config
        served = model.served_model_name
        self._model = str(served[0] if isinstance(served, list) else served or model.model)
        self._options = options
        self._block_tokens = int(vllm_config.cache_config.block_size)
        self._seed = "|".join(
            str(each)
            for each in (
                _model_id(vllm_config, options),
                vllm_config.cache_config.cache_dtype,
                model.dtype,
                vllm_config.parallel_config.tensor_parallel_size,
            )
        )
        self._planner = Planner(self._block_tokens, batch_numbers(random.randrange(BATCH_MAX)))
        self._pool = Pool(options.secret(), options.timeout_s)
        self._lookups = Lookups(self._pool)
        self._params: dict[str, TransferParams | None] = {}
        self._loaded: set[str] = set()
        self._keys: dict[str, tuple[str, ...]] = {}

    def matched(self, request: Request, computed_tokens: int) -> tuple[int | None, bool]:
        params = self._params_of(request)
        if params is None or request.request_id in self._loaded:
            # Loaded once already: after a failure, or a preemption, everything is computed here.
            return 0, False
        if params.receive:
            return max(0, request.num_prompt_tokens - computed_tokens), request.num_prompt_tokens > computed_tokens
        if params.fetch is not None and (
            keys := self._keys_of(request)[: (request.num_prompt_tokens - 1) // self._block_tokens]
        ):
            blocks = self._lookups.blocks(request.request_id, params.fetch, keys)
            if blocks is None:
                return None, False
            return max(0, blocks * self._block_tokens - computed_tokens), False
        return 0, False

    def allocated(self, request: Request, block_ids: Sequence[int], external_tokens: int) -> None:
        params = self._params_of(request)
        if params is None:
            return
        name = request.request_id
        if params.receive:
            if external_tokens and name not in self._loaded:
                self._loaded.add(name)
                blocks = block_ids[: -(-request.num_prompt_tokens // self._block_tokens)]
                self._planner.receive(name, params.transfer or "", blocks, request.num_prompt_tokens - external_tokens)
            return
        if params.to is None and params.store is None and params.fetch is None:
            return
        self._planner.prefill(
            name, params, request.num_prompt_tokens, self._deadline_ns(request, params), self._keys_of(request)
        )
        if external_tokens and name not in self._loaded:
            self._loaded.add(name)
            blocks_end = self._lookups.blocks(name, params.fetch, ()) if params.fetch is not None else None
            assert blocks_end is not None
            self._planner.fetch(name, blocks_end * self._block_tokens - external_tokens, external_tokens)

    def plan(self, output: SchedulerOutput) -> StepPlan:
        counts = output.num_scheduled_tokens
        for new in output.scheduled_new_reqs:
            computed = new.num_computed_tokens + counts[new.req_id]
            self._planner.scheduled(new.req_id, computed, new.block_ids[0], replaced=True)
        cached = output.scheduled_cached_reqs
        for number, name in enumerate(cached.req_ids):
            new_ids = cached.new_block_ids[number]
            self._planner.scheduled(
                name,
                cached.num_computed_tokens[number] + counts[name],
                new_ids[0] if new_ids else (),
                replaced=name in cached.resumed_req_ids,
            )
        return self._planner.take()

    def finished(self, name: str) -> None:
        if self._params.pop(name, None) is not None:
            self._planner.ended(name)
        self._loaded.discard(name)
        self._keys.pop(name, None)
        self._lookups.forget(name)

    def close(self) -> None:
        self._lookups.close()
        self._pool.close()

    def _params_of(self, request: Request) -> TransferParams | None:
        name = request.request_id
        if name not in self._params:
            try:
                self._params[name] = TransferParams.from_request(request.kv_transfer_params)
            except ParamsError as error:
                # An invalid request must not stop the engine: it is computed here.
                _LOG.warning("request %s: %s; it is served without a transfer", name, error)
                self._params[name] = None
        return self._params[name]

    def _keys_of(self, request: Request) -> tuple[str, ...]:
        params = self._params_of(request)
        if params is None or (params.fetch is None and params.store is None):
            return ()
        if request.lora_request is not None or request.mm_features or request.prompt_token_ids is None:
            return ()  # their KV depends on more than tokens
        name = request.request_id
        if name not in self._keys:
            seed = f"{self._seed}|{request.cache_salt or ''}"
            self._keys[name] = prefix_keys(seed, self._block_tokens, request.prompt_token_ids)
        return self._keys[name]

    def _deadline_ns(self, request: Request, params: TransferParams) -> int:
        extra = request.sampling_params.extra_args if request.sampling_params is not None else None
        objective = objective_ms(params, extra, _hints(request), self._options.deadlines_ms, self._model)
        return deadline_ns(objective, request.arrival_time, time.time(), time.monotonic_ns())


class _WorkerSide:
    """In a worker's process: moves KV."""

    def __init__(self, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, options: ConnectorOptions) -> None:
        from vllm.model_executor.models.utils import extract_layer_index

        self._options = options
        self._block_tokens = int(vllm_config.cache_config.block_size)
        self._blocks = int(kv_cache_config.num_blocks)
        self._model_id = _model_id(vllm_config, options)
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
        self._gate: Gate | None = None

    def register(self, kv_caches: Mapping[str, torch.Tensor]) -> None:
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
        self._rank, ranks = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
        layout = Layout(
            model=self._model_id,
            layers=len(self._caches),
            block_tokens=self._block_tokens,
            block_bytes=first.numel() // self._blocks * first.element_size(),
            dtype=str(first.dtype),
            shape=shape,
            rank=self._rank,
            ranks=ranks,
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

    def begin(self, plan: StepPlan) -> None:
        for name in plan.ended:
            for key in [key for key in self._pushes if key[0] == name]:
                self._pushes.pop(key).abort("the request ended before its prompt was computed")
            if self._receiver is not None:
                self._receiver.cancel(name)
        for step in plan.pushes:
            self._begin_push(step)

    def load(self, plan: StepPlan) -> None:
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
        for request, fetch in list(self._fetches.items()):
            if not fetch.wait(self._number[name], self._options.timeout_s):
                self._invalid.update(fetch.block_ids)
                del self._fetches[request]
                for key in [key for key in self._pushes if key[0] == request]:
                    self._pushes[key].abort("the prefix of the request could not be fetched")

    def save_layer(self, name: str, plan: StepPlan) -> None:
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
        self._fetches.clear()

    def results(self) -> tuple[set[str], set[str]]:
        return self._receiver.results() if self._receiver is not None else (set(), set())

    def invalid_blocks(self) -> set[int]:
        invalid, self._invalid = self._invalid, set()
        return invalid

    def close(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
        if self._store is not None:
            self._store.close()
        if self._gate is not None:
            self._gate.close()
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


def _model_id(vllm_config: VllmConfig, options: ConnectorOptions) -> str:
    model = vllm_config.model_config
    return options.model_id or f"{model.model}@{model.revision or ''}"


def _hints(request: Request) -> Mapping[str, Any] | None:
    envelope = getattr(request, "kv_hints", None)
    actions = getattr(envelope, "actions", None) or ()
    return next((action.payload for action in actions if action.action_type == _HINT), None)
