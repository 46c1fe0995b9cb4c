"""What vLLM loads: :func:`register` by the entry point, and :mod:`host_agent.engines.vllm.connector`."""

from __future__ import annotations

CONNECTOR = "MfsConnector"
MODULE = "host_agent.engines.vllm.connector"


def register() -> None:
    """Make ``MfsConnector`` known to vLLM. vLLM calls it in each of its processes (``vllm.general_plugins``)."""
    from importlib import import_module

    factory = import_module("vllm.distributed.kv_transfer.kv_connector.factory").KVConnectorFactory
    if CONNECTOR not in factory._registry:
        factory.register_connector(CONNECTOR, MODULE, CONNECTOR)
