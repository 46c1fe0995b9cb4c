"""The host agent: stamps and orders what a server sends, in the kernel, and serves engines through a Unix socket.

The names below are for serving engines; see :mod:`host_agent.client`. They need only the standard library, and are
imported on first use, so that the command line starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from host_agent.client import AgentClient, AgentGoneError, OpenFlow
    from host_agent.protocol.errors import AgentError, RequestError
    from host_agent.protocol.flow_request import FiveTuple, FlowRequest, Match
    from host_agent.protocol.paths import AGENT_SOCKET
    from host_agent.protocol.registration import QueuePair
    from host_agent.protocol.stamp import Stage

__all__ = [
    "AGENT_SOCKET",
    "AgentClient",
    "AgentError",
    "AgentGoneError",
    "FiveTuple",
    "FlowRequest",
    "Match",
    "OpenFlow",
    "QueuePair",
    "RequestError",
    "Stage",
]
_MODULES = {
    "client": ("AgentClient", "AgentGoneError", "OpenFlow"),
    "protocol.errors": ("AgentError", "RequestError"),
    "protocol.flow_request": ("FiveTuple", "FlowRequest", "Match"),
    "protocol.paths": ("AGENT_SOCKET",),
    "protocol.registration": ("QueuePair",),
    "protocol.stamp": ("Stage",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
