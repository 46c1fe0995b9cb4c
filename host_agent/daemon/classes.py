"""The order in which an interface sends: eight HTB classes, ``1:1`` for level 0 to ``1:8`` for level 7.

Each class has a small guaranteed rate and may borrow the whole link; spare rate goes to the highest level first
(tc-htb(8): classes with the lowest ``prio`` are offered excess bandwidth first).
"""

from __future__ import annotations

from typing import Any

from pyroute2 import IPRoute

from host_agent.daemon.netlink import ignoring_absence, refused
from host_agent.ebpf.layout import CLASS_MAJOR
from host_agent.protocol.level import GUARANTEED_SHARE, UNTAGGED_LEVEL
from host_agent.protocol.stamp import LEVELS, STAMP_BYTES, TOP_LEVEL
from host_agent.protocol.units import WIRE_OVERHEAD_BYTES

HANDLE = CLASS_MAJOR << 16
"""Handle of the root qdisc."""
_LINK = HANDLE | 0xFF
_ROOT = 0xFFFFFFFF
_BURST_S = 0.001
_BURST_BYTES_MIN = 3_200
_QUANTUM_BYTES = 3_200
"""Two packets per turn between classes of one level. There is only one class per level, but HTB warns without it."""


def class_of(level: int) -> int:
    """Return the class id of a level."""
    return HANDLE | (level + 1)


def add_classes(
    route: IPRoute,
    index: int,
    rate_bps: int,
    *,
    default_level: int,
    overhead_bytes: int,
    burst_bytes: int = _BURST_BYTES_MIN,
    levels: int = LEVELS,
    standing: bool = False,
) -> None:
    """Add HTB to an interface: a class for the link, and below it a class for each level.

    Args:
        route: netlink socket of the interface's namespace.
        index: index of the interface.
        rate_bps: rate of the link in bits per second.
        default_level: level of packets that nothing classifies.
        overhead_bytes: bytes on the wire of each packet that the kernel does not count.
        burst_bytes: burst of the link.
        levels: number of levels, from 0; a single one has the whole rate.
        standing: whether HTB is there already; its classes get these rates.

    Raises:
        NetlinkError: the kernel refuses, for instance because it has no HTB or the interface has a root qdisc.
    """
    rate = rate_bps // 8
    if not standing:
        route.tc("add", "htb", index, HANDLE, default=default_level + 1)
    common: dict[str, Any] = {"ceil": rate, "cburst": burst_bytes, "overhead": overhead_bytes}
    route.tc("replace-class", "htb", index, _LINK, parent=HANDLE, rate=rate, burst=burst_bytes, **common)
    guaranteed = max(1_000, int(rate * GUARANTEED_SHARE)) if levels > 1 else rate
    for level in range(levels):
        share = {"rate": guaranteed, "quantum": _QUANTUM_BYTES, "prio": TOP_LEVEL - level, **common}
        route.tc("replace-class", "htb", index, class_of(level), parent=_LINK, burst=_BURST_BYTES_MIN, **share)


def root_qdisc(route: IPRoute, index: int) -> str:
    """Return the kind of the interface's root qdisc; empty for the kernel's default, whose handle is 0."""
    for qdisc in route.get_qdiscs(index=index):
        if qdisc["parent"] == _ROOT and qdisc["handle"]:
            return str(qdisc.get_attr("TCA_KIND"))
    return ""


def _uncounted_bytes(shim_bytes: int) -> int:
    """Return the bytes of a frame that the kernel does not count: preamble, gap, FCS, and a shim, added later."""
    return WIRE_OVERHEAD_BYTES + shim_bytes


def shaped_bps(rate_bps: int, frame_bytes: int, shim_bytes: int = STAMP_BYTES) -> int:
    """Return the rate of packets that are segmented later into frames of ``frame_bytes``, shim included.

    The kernel adds ``overhead`` once for such a packet, not once for each of its frames.
    """
    return rate_bps * frame_bytes // (frame_bytes + _uncounted_bytes(shim_bytes))


def is_installed(route: IPRoute, index: int) -> bool:
    """Return whether the interface's root qdisc is HTB as :func:`install` adds it; rates may be others."""
    for qdisc in route.get_qdiscs(index=index):
        if qdisc["parent"] == _ROOT and qdisc["handle"] == HANDLE and qdisc.get_attr("TCA_KIND") == "htb":
            return bool(qdisc.get_attr("TCA_OPTIONS").get_attr("TCA_HTB_INIT")["defcls"] == UNTAGGED_LEVEL + 1)
    return False


def install(route: IPRoute, index: int, rate_bps: int, shim_bytes: int = STAMP_BYTES) -> None:
    """Add the eight classes to an interface that may send ``rate_bps``, in bits on the wire per second.

    Classes of an earlier agent stay and get this rate. A change of the root qdisc would stop the interface for a
    moment, in which the kernel drops what waits and what is sent (``dev_deactivate`` of net/sched/sch_generic.c).

    Raises:
        InterfaceError: the kernel refuses, for instance because it has no HTB.
    """
    with refused("cannot add HTB classes (kernel option CONFIG_NET_SCH_HTB; --no-order does without)"):
        add_classes(
            route,
            index,
            rate_bps,
            default_level=UNTAGGED_LEVEL,
            overhead_bytes=_uncounted_bytes(shim_bytes),
            burst_bytes=max(_BURST_BYTES_MIN, round(rate_bps // 8 * _BURST_S)),
            standing=is_installed(route, index),
        )


def remove(route: IPRoute, index: int) -> None:
    """Remove the classes; the kernel's default qdisc returns."""
    with ignoring_absence():
        route.tc("del", "htb", index, HANDLE)
