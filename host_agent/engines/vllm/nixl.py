"""vLLM's NIXL connectors, with the connections of the prefill engine stamped (UCX over TCP)."""

from __future__ import annotations

from vllm.distributed.kv_transfer.kv_connector.v1.nixl import NixlPullConnector, NixlPushConnector

from host_agent.engines.vllm.shared_hooks import SharedHooks


class MfsNixlPull(SharedHooks, NixlPullConnector):  # type: ignore[misc]
    """The decode engine reads, and the prefill engine's NIXL answers."""


class MfsNixlPush(SharedHooks, NixlPushConnector):  # type: ignore[misc]
    """The prefill engine writes, once the decode engine has registered its blocks."""
