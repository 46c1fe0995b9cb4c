"""The connector in the scheduler's process: decides what is pushed, received and fetched."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from host_agent.engines.channel import Pool
from host_agent.engines.errors import ParamsError
from host_agent.engines.fetch import Lookups
from host_agent.engines.params import ConnectorOptions, TransferParams, deadline_ns, objective_ms
from host_agent.engines.plan import Planner, StepPlan, batch_numbers
from host_agent.engines.prefix import prefix_keys
from host_agent.protocol.flow_request import BATCH_MAX

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

_LOG = logging.getLogger("vllm.mfs")  # vLLM shows its own loggers only

_HINT = "mfs"
"""Type of the KV hint action whose payload may have ``mfs_deadline_ms``."""


class SchedulerSide:
    """One for each engine."""

    def __init__(self, vllm_config: VllmConfig, options: ConnectorOptions) -> None:
        model = vllm_config.model_config
        self._model = served_name(vllm_config)
        self._options = options
        self._block_tokens = int(vllm_config.cache_config.block_size)
        self._seed = "|".join(
            str(each)
            for each in (
                model_id(vllm_config, options),
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
        """Return how many tokens beyond ``computed_tokens`` others have (None: ask again), and whether later."""
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
        """Plan the transfers of a request whose blocks are allocated."""
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
        """Return what the workers are to do in this step."""
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
        plan = self._planner.take()
        plan.tokens = output.total_num_scheduled_tokens
        return plan

    def finished(self, name: str) -> None:
        """Forget a request."""
        if self._params.pop(name, None) is not None:
            self._planner.ended(name)
        self._loaded.discard(name)
        self._keys.pop(name, None)
        self._lookups.forget(name)

    def close(self) -> None:
        """Close connections."""
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
        objective = objective_ms(params, extra, kv_hints(request), self._options.deadlines_ms, self._model)
        return deadline_ns(objective, request.arrival_time, time.time(), time.monotonic_ns())


def model_id(vllm_config: VllmConfig, options: ConnectorOptions) -> str:
    """Return the name of the weights, equal on all engines that exchange KV."""
    model = vllm_config.model_config
    return options.model_id or f"{model.model}@{model.revision or ''}"


def served_name(vllm_config: VllmConfig) -> str:
    """Return the name by which clients ask for the model."""
    served = vllm_config.model_config.served_model_name
    return str(served[0] if isinstance(served, list) else served or vllm_config.model_config.model)


def kv_hints(request: Request) -> Mapping[str, Any] | None:
    """Return the payload of the request's KV hint for this project; None without one."""
    envelope = getattr(request, "kv_hints", None)
    actions = getattr(envelope, "actions", None) or ()
    return next((action.payload for action in actions if action.action_type == _HINT), None)
