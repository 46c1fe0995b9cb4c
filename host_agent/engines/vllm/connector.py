"""``MfsConnector``: a KV connector of vLLM that sends the KV of each layer as soon as it is computed.

::

    --kv-transfer-config '{"kv_connector": "MfsConnector", "kv_role": "kv_producer",
                           "kv_connector_module_path": "host_agent.engines.vllm.connector"}'

``kv_connector_extra_config`` is :class:`~host_agent.engines.params.ConnectorOptions`; a request's
``kv_transfer_params`` are :class:`~host_agent.engines.params.TransferParams`. ``docs/guide/vllm.md`` has the steps.
This module maps vLLM's hooks to the two sides. This package is the only one that imports vLLM and torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)

from host_agent.engines.errors import ParamsError
from host_agent.engines.params import ConnectorOptions
from host_agent.engines.plan import StepPlan
from host_agent.engines.vllm.scheduler_side import SchedulerSide
from host_agent.engines.vllm.worker_side import WorkerSide

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


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
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = SchedulerSide(vllm_config, options)
        else:
            self._worker = WorkerSide(vllm_config, kv_cache_config, options)

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
    def _of_scheduler(self) -> SchedulerSide:
        assert self._scheduler is not None
        return self._scheduler

    @property
    def _of_worker(self) -> WorkerSide:
        assert self._worker is not None
        return self._worker
