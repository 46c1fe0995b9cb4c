"""Connections of NCCL's collectives, from a profiler plugin of NCCL (``plugin.c``) in the engine's process.

NCCL loads the plugin, built by ``python -m host_agent.engines.nccl.build``, from the file that ``NCCL_PROFILER_PLUGIN``
names, and tells it the socket of each send. The engine reads here what it has noted.
"""

from __future__ import annotations

import ctypes
import os

from host_agent.protocol.flow_request import Match

PLUGIN_VARIABLE = "NCCL_PROFILER_PLUGIN"
SOCKETS_MAX = 4096


def connections() -> list[Match]:
    """Return the sockets over which NCCL has sent in this process; none without the plugin."""
    path = os.environ.get(PLUGIN_VARIABLE, "")
    try:
        # The library that NCCL has loaded, if it has: the same file is not loaded twice.
        plugin = ctypes.CDLL(path) if os.path.isabs(path) else None
        noted = None if plugin is None else plugin.mfs_nccl_sockets
    except (OSError, AttributeError):
        return []  # another plugin
    if noted is None:
        return []
    cookies = (ctypes.c_uint64 * SOCKETS_MAX)()
    return [Match(cookie=cookie) for cookie in cookies[: noted(cookies, SOCKETS_MAX)]]
