"""Room for the shim in the link's frames: routes get a smaller MTU, from which TCP derives its segment size.

The interface keeps its own MTU, since the frames with the shim are as long as before.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from host_agent.daemon.netlink import gone_is_fine, refused

_UNICAST = 1
_HEADER = ("family", "dst_len", "src_len", "tos", "table", "proto", "scope", "type", "flags")
# What the kernel reports of a route and does not take back: its state.
_STATE_FLAGS = 0x1 | 0x8 | 0x10 | 0x40 | 0x4000
_IGNORED = {"RTA_CACHEINFO"}
_UNDERSTOOD = {"RTA_TABLE", "RTA_DST", "RTA_GATEWAY", "RTA_OIF", "RTA_PRIORITY", "RTA_PREFSRC", "RTA_METRICS"}

Route = dict[str, Any]
"""A route in JSON: its header's fields, attributes by name, ``metrics`` by name."""


def routes_of(route: IPRoute, index: int) -> tuple[list[Route], list[str]]:
    """The IPv4 unicast routes of all tables that leave by an interface; destinations of those too special for us."""
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
    """``entry`` with an MTU of at most ``mtu`` bytes."""
    metrics = dict(entry["metrics"])
    metrics["RTAX_MTU"] = min(mtu, metrics.get("RTAX_MTU", mtu))
    if "RTAX_ADVMSS" in metrics:
        # IPv4's and TCP's headers.
        metrics["RTAX_ADVMSS"] = min(mtu - 40, metrics["RTAX_ADVMSS"])
    return {**entry, "metrics": metrics}


def change(route: IPRoute, entry: Route) -> None:
    """Give the route that ``entry`` names the metrics of ``entry``."""
    words = {key: value for key, value in entry.items() if key != "metrics"}
    words["RTA_METRICS"] = {"attrs": list(entry["metrics"].items())}
    route.route("change", **words)


def lower(route: IPRoute, routes: list[Route], mtu: int) -> None:
    """Give every one of ``routes`` an MTU of at most ``mtu`` bytes; open connections follow.

    Raises:
        InterfaceError: the kernel refuses one.
    """
    for entry in routes:
        with refused(f"changing the MTU of the route to {entry.get('RTA_DST', 'default')}"):
            change(route, with_mtu(entry, mtu))


def restore(route: IPRoute, routes: list[Route]) -> None:
    """Put ``routes`` back; those that are gone stay so."""
    for entry in routes:
        with gone_is_fine():
            change(route, entry)


def _mtu6_path(interface: str) -> Path:
    return Path("/proc/sys/net/ipv6/conf") / interface / "mtu"


def mtu6(interface: str) -> int | None:
    """The interface's MTU for IPv6, in bytes; None without IPv6."""
    try:
        return int(_mtu6_path(interface).read_text("ascii"))
    except (OSError, ValueError):
        return None


def set_mtu6(interface: str, mtu: int) -> None:
    """Set it; without IPv6, nothing happens."""
    with contextlib.suppress(OSError):
        _mtu6_path(interface).write_text(f"{mtu}\n", "ascii")
