"""Receive offload of the namespaces' interfaces: frames of a flow are merged before TCP sees them, as NICs do (GRO).

The kernel merges what one poll finds. At the rates of virtual links that is one frame, so an interface is told to hold
frames for a while (``gro_flush_timeout``, Documentation/networking/napi.rst). Merged frames have one acknowledgement.
"""

from __future__ import annotations

import subprocess
from functools import partial

from host_agent.protocol.units import NS_PER_S, WIRE_OVERHEAD_BYTES
from soft_switch.realtime import offloads
from topologies.errors import TopologyError
from topologies.namespaces import inside
from topologies.topology import FULL_FRAME_BYTES

FRAMES = 6
"""Full frames that arrive, at the link's rate, while the first of them is held."""


def hold_ns(rate_bps: int) -> int:
    """Return for how long an interface of this rate holds a frame, in nanoseconds."""
    return FRAMES * (FULL_FRAME_BYTES + WIRE_OVERHEAD_BYTES) * 8 * NS_PER_S // rate_bps


def turn_on(namespace: str, interface: str, rate_bps: int) -> None:
    """Let ``interface`` of a network ``namespace`` merge the frames of a flow.

    Raises:
        TopologyError: the kernel does not offer it.
    """
    inside(namespace, partial(offloads.restore, interface, {"gro": 1}))
    # In its own view of /sys: that of this process shows the interfaces of this process's namespace.
    path = f"/sys/class/net/{interface}/gro_flush_timeout"
    command = ["ip", "netns", "exec", namespace, "tee", path]
    done = subprocess.run(command, input=str(hold_ns(rate_bps)), capture_output=True, text=True, check=False)
    if done.returncode or "gro" not in inside(namespace, partial(offloads.active, interface)):
        raise TopologyError(
            f"{interface} of {namespace} does not merge frames ({done.stderr.strip() or 'GRO stays off'}); "
            "use --carrier shim, which does not ask for it"
        )
