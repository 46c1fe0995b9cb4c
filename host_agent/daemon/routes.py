"""Metrics of an interface's routes: an MTU that leaves room for the shim, and TCP's shortest retransmission timeout.

TCP derives its segment size from the MTU of the route. The interface keeps its own MTU, because frames with the shim
are as long as frames were before. The timeout is ``rto_min`` of ip-route(8), which counts only while it is locked.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from host_agent.daemon.netlink import ignoring_absence, refused

_UNICAST = 1
_HEADER = ("family", "dst_len", "src_len", "tos", "table", "proto", "scope", "type", "flags")
# Flags that the kernel reports and does not accept back: the state of a route.
_STATE_FLAGS = 0x1 | 0x8 | 0x10 | 0x40 | 0x4000
_IGNORED = {"RTA_CACHEINFO"}
_UNDERSTOOD = {"RTA_TABLE", "RTA_DST", "RTA_GATEWAY", "RTA_OIF", "RTA_PRIORITY", "RTA_PREFSRC", "RTA_METRICS"}

_RTO_MIN_LOCK = 1 << 13
"""Bit of RTAX_RTO_MIN in RTAX_LOCK (linux/rtnetlink.h)."""

Route = dict[str, Any]
"""A route as JSON: fields of the header, attributes by name, ``metrics`` by name."""


def routes_of(route: IPRoute, index: int) -> tuple[list[Route], list[str]]:
    """Return the IPv4 unicast routes of all tables through an interface.

    Returns:
        The routes, and the destinations of routes with attributes that cannot be restored, such as several next hops.
    """
    found: list[Route] = []
    special = []
    for entry in route.get_routes(family=socket.AF_INET, oif=index):
        if entry["type"] != _UNICAST:
            continue
        attributes = {name: value for name, value in entry["attrs"] if name not in _IGNORED}
        if attributes.keys() - _UNDERSTOOD:
            special.append(f"{attributes.get('RTA_DST', 'default')}/{entry['dst_len']}")
            continue
        metrics = dict(attributes.pop("RTA_METRICS", {"attrs": []})["attrs"])
        kept: Route = {name: entry[name] for name in _HEADER}
        kept["flags"] &= ~_STATE_FLAGS
        found.append({**kept, **attributes, "metrics": metrics})
    return found, special


def with_mtu(entry: Route, mtu: int) -> Route:
    """Return ``entry`` with an MTU of at most ``mtu`` bytes."""
    metrics = dict(entry["metrics"])
    metrics["RTAX_MTU"] = min(mtu, metrics.get("RTAX_MTU", mtu))
    if "RTAX_ADVMSS" in metrics:
        # Without the headers of IPv4 and TCP.
        metrics["RTAX_ADVMSS"] = min(mtu - 40, metrics["RTAX_ADVMSS"])
    return {**entry, "metrics": metrics}


def with_rto_min(entry: Route, milliseconds: int) -> Route:
    """Return ``entry`` with a shortest retransmission timeout of at least ``milliseconds``."""
    metrics = dict(entry["metrics"])
    metrics["RTAX_RTO_MIN"] = max(milliseconds, metrics.get("RTAX_RTO_MIN", 0))
    metrics["RTAX_LOCK"] = metrics.get("RTAX_LOCK", 0) | _RTO_MIN_LOCK
    return {**entry, "metrics": metrics}


def change(route: IPRoute, entry: Route) -> None:
    """Set the metrics of a route to those of ``entry``."""
    words = {key: value for key, value in entry.items() if key != "metrics"}
    words["RTA_METRICS"] = {"attrs": list(entry["metrics"].items())}
    route.route("change", **words)


def adapt(route: IPRoute, routes: list[Route], mtu: int | None, rto_min_ms: int | None = None) -> None:
    """Limit the MTU of ``routes`` to ``mtu`` bytes and raise their shortest timeout; None leaves either as it is.

    Open connections follow.

    Raises:
        InterfaceError: the kernel refuses a change.
    """
    for entry in routes:
        changed = entry if mtu is None else with_mtu(entry, mtu)
        if rto_min_ms is not None:
            changed = with_rto_min(changed, rto_min_ms)
        with refused(f"changing the metrics of the route to {entry.get('RTA_DST', 'default')}"):
            change(route, changed)


def restore(route: IPRoute, routes: list[Route]) -> None:
    """Restore ``routes``, except those that no longer exist."""
    for entry in routes:
        with ignoring_absence():
            change(route, entry)


def _mtu6_path(interface: str) -> Path:
    return Path("/proc/sys/net/ipv6/conf") / interface / "mtu"


def mtu6(interface: str) -> int | None:
    """Return the interface's MTU for IPv6, in bytes; None without IPv6."""
    try:
        return int(_mtu6_path(interface).read_text("ascii"))
    except (OSError, ValueError):
        return None


def set_mtu6(interface: str, mtu: int) -> None:
    """Set the interface's MTU for IPv6, in bytes; does nothing without IPv6."""
    with contextlib.suppress(OSError):
        _mtu6_path(interface).write_text(f"{mtu}\n", "ascii")
