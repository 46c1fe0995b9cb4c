"""vLLM's Mooncake connector, with the connections of the prefill engine stamped (its transport over TCP)."""

from __future__ import annotations

from vllm.distributed.kv_transfer.kv_connector.v1.mooncake.mooncake_connector import MooncakeConnector

from host_agent.engines.vllm.shared_hooks import SharedHooks


class MfsMooncake(SharedHooks, MooncakeConnector):  # type: ignore[misc]
    """The prefill engine writes when the decode engine asks, each request over all its connections."""
