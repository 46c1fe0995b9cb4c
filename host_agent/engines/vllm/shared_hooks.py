"""Hooks that stamp the connections of another connector of vLLM, as a mixin in front of it.

The prefill engine's scheduler knows a request's deadline and reader; when the request has been prefilled, its KV is
about to be moved, and its worker stamps all its connections to that reader until the connector says that the KV is
sent. :mod:`host_agent.engines.shared` says what that cannot order.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

from host_agent.engines.errors import ParamsError
from host_agent.engines.flows import Announcer
from host_agent.engines.params import ConnectorOptions, PeerParams, deadline_ns, objective_ms
from host_agent.engines.shared import SharedConnections, SharedTransfer
from host_agent.engines.vllm.scheduler_side import kv_hints, served_name

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorTransferResults
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

_LOG = logging.getLogger("vllm.mfs")  # vLLM shows its own loggers only
_OPTIONS = {"agent", "deadlines_ms"}


class SharedHooks:
    """Mixin; its options are in the field ``mfs`` of ``kv_connector_extra_config``."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        """Make one side of the connector.

        Raises:
            ParamsError: the options are invalid.
        """
        values = (vllm_config.kv_transfer_config.kv_connector_extra_config or {}).get("mfs", {})
        if not isinstance(values, dict) or not values.keys() <= _OPTIONS:
            raise ParamsError(f'"mfs" in kv_connector_extra_config takes {", ".join(sorted(_OPTIONS))}, not {values!r}')
        self._mfs_options = ConnectorOptions.from_config(values)
        affinity = os.sched_getaffinity(0)
        super().__init__(vllm_config, role, kv_cache_config)  # type: ignore[call-arg]
        # NIXL's worker binds the engine to the last processor, and every engine of the machine to the same one.
        os.sched_setaffinity(0, affinity)
        self._mfs_model = served_name(vllm_config)
        # The caches of a group have equal pages, and each block one in every layer.
        self._mfs_block_bytes = [
            group.kv_cache_spec.page_size_bytes * len(group.layer_names) for group in kv_cache_config.kv_cache_groups
        ]
        self._mfs_begun: dict[str, SharedTransfer] = {}
        self._mfs_announcer = self._mfs_shared = None
        if role == KVConnectorRole.WORKER and vllm_config.kv_transfer_config.is_kv_producer:
            self._mfs_announcer = Announcer(self._mfs_options.agent)
            self._mfs_shared = SharedConnections(self._mfs_announcer)

    # The scheduler's side

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """See the base class. Blocks that are not freed yet are about to be sent."""
        delayed, params = super().request_finished_all_groups(request, block_ids)  # type: ignore[misc]
        if delayed:
            self._mfs_note(request, block_ids)
        return delayed, params

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """See the base class."""
        metadata = super().build_connector_meta(scheduler_output)  # type: ignore[misc]
        metadata.mfs_begun, self._mfs_begun = self._mfs_begun, {}
        return metadata

    def _mfs_note(self, request: Request, block_ids: tuple[list[int], ...]) -> None:
        try:
            params = PeerParams.from_request(request.kv_transfer_params)
        except ParamsError as error:
            # An invalid request must not stop the engine.
            _LOG.warning("request %s: %s; its KV is not stamped", request.request_id, error)
            return
        if params.to is None:
            return
        extra = request.sampling_params.extra_args if request.sampling_params is not None else None
        objective = objective_ms(params, extra, kv_hints(request), self._mfs_options.deadlines_ms, self._mfs_model)
        due_ns = deadline_ns(objective, request.arrival_time, time.time(), time.monotonic_ns())
        count = sum(len(ids) * size for ids, size in zip(block_ids, self._mfs_block_bytes, strict=False))
        self._mfs_begun[request.request_id] = SharedTransfer(params.to, due_ns, count)

    # The worker's side

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """See the base class."""
        if self._mfs_shared is not None:
            for name, transfer in connector_metadata.mfs_begun.items():
                self._mfs_shared.begin(name, transfer)
        super().bind_connector_metadata(connector_metadata)  # type: ignore[misc]

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """See the base class."""
        results = super().get_transfer_results(finished_req_ids)  # type: ignore[misc]
        if self._mfs_shared is not None:
            for name in results.finished_sending:
                self._mfs_shared.end(name)
        return results

    def shutdown(self) -> None:
        """See the base class."""
        super().shutdown()  # type: ignore[misc]
        if self._mfs_shared is not None and self._mfs_announcer is not None:
            self._mfs_shared.stop()
            self._mfs_announcer.stop()
            self._mfs_shared = None
