"""The order in which an interface sends: eight HTB classes, ``1:1`` for level 0 to ``1:8`` for level 7.

Each has a small guaranteed rate and may borrow all of the link; what the link has left goes to the highest level first
(tc-htb(8): classes with the lowest ``prio`` are offered excess bandwidth first).
"""

from __future__ import annotations

from typing import Any

from pyroute2 import IPRoute

from host_agent.daemon.netlink import gone_is_fine, refused
from host_agent.ebpf.layout import CLASS_MAJOR, UNSTAGED_LEVEL
from host_agent.protocol.level import GUARANTEED_SHARE
from host_agent.protocol.stamp import LEVELS, STAMP_BYTES, TOP_LEVEL
from host_agent.protocol.units import WIRE_OVERHEAD_BYTES

HANDLE = CLASS_MAJOR << 16
_LINK = HANDLE | 0xFF
_ROOT = 0xFFFFFFFF
_BURST_S = 0.001
_BURST_BYTES_MIN = 3_200
_QUANTUM_BYTES = 3_200
"""Two packets in turn between classes of one level; there is only one, but HTB warns where it must guess."""
_PER_FRAME_BYTES = WIRE_OVERHEAD_BYTES + STAMP_BYTES
"""What the kernel does not weigh of a frame: preamble, gap, FCS, and the shim, which is not in yet."""


def class_of(level: int) -> int:
    """The class id of a level."""
    return HANDLE | (level + 1)


def root_qdisc(route: IPRoute, index: int) -> str:
    """Kind of the root qdisc that somebody put there; empty where it is the kernel's default, whose handle is 0."""
    for qdisc in route.get_qdiscs(index=index):
        if qdisc["parent"] == _ROOT and qdisc["handle"]:
            return str(qdisc.get_attr("TCA_KIND"))
    return ""


def shaped_bps(rate_bps: int, frame_bytes: int) -> int:
    """The rate at which packets may leave that are still to be segmented into frames of ``frame_bytes``, shim included.

    The kernel adds ``overhead`` once for such a packet, not for each of its frames.
    """
    return rate_bps * frame_bytes // (frame_bytes + _PER_FRAME_BYTES)


def install(route: IPRoute, index: int, rate_bps: int) -> None:
    """Put the eight classes on an interface that may send ``rate_bps``, in bits on the wire per second.

    Raises:
        InterfaceError: the kernel refuses it, for instance because it has no HTB.
    """
    with refused("no HTB classes (CONFIG_NET_SCH_HTB; --no-order goes without)"):
        route.tc("add", "htb", index, HANDLE, default=UNSTAGED_LEVEL + 1)
        rate = rate_bps // 8
        burst = max(_BURST_BYTES_MIN, round(rate * _BURST_S))
        common: dict[str, Any] = {"ceil": rate, "cburst": burst, "overhead": _PER_FRAME_BYTES}
        route.tc("add-class", "htb", index, _LINK, parent=HANDLE, rate=rate, burst=burst, **common)
        least = max(1_000, int(rate * GUARANTEED_SHARE))
        for level in range(LEVELS):
            share = {"rate": least, "quantum": _QUANTUM_BYTES, "prio": TOP_LEVEL - level, **common}
            route.tc("add-class", "htb", index, class_of(level), parent=_LINK, burst=_BURST_BYTES_MIN, **share)


def remove(route: IPRoute, index: int) -> None:
    """Take the classes away; the kernel's default qdisc comes back."""
    with gone_is_fine():
        route.tc("del", "htb", index, HANDLE)
