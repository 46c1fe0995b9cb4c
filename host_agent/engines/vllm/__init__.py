"""What vLLM loads: :func:`register` by the entry point, and the connectors of :data:`CONNECTORS`."""

from __future__ import annotations

CONNECTORS = {
    "MfsConnector": "host_agent.engines.vllm.connector",
    "MfsNixlPull": "host_agent.engines.vllm.nixl",
    "MfsNixlPush": "host_agent.engines.vllm.nixl",
    "MfsMooncake": "host_agent.engines.vllm.mooncake",
}
"""Modules of the connectors, by name."""


def register() -> None:
    """Make the connectors known to vLLM. vLLM calls it in each of its processes (``vllm.general_plugins``)."""
    from importlib import import_module

    factory = import_module("vllm.distributed.kv_transfer.kv_connector.factory").KVConnectorFactory
    for name, module in CONNECTORS.items():
        if name not in factory._registry:
            factory.register_connector(name, module, name)
