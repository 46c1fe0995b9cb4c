"""Netlink and ethtool through pyroute2, with readable errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from pyroute2 import IPRoute
from pyroute2.ethtool.ethtool import Ethtool
from pyroute2.ethtool.ioctl import EthtoolError, NotSupportedError
from pyroute2.netlink.exceptions import NetlinkError

from host_agent.ebpf.errors import InterfaceError

ARPHRD_ETHER = 1


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn refusals of the kernel into an :class:`InterfaceError` that starts with ``what``."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        reason = error.args[-1] if isinstance(error, NetlinkError) else error.strerror
        raise InterfaceError(f"{what}: {reason}") from None


@contextlib.contextmanager
def ignoring_absence() -> Iterator[None]:
    """Ignore errors about things that no longer exist."""
    with contextlib.suppress(NetlinkError, OSError, InterfaceError):
        yield


def link(route: IPRoute, interface: str) -> Any:
    """Return the netlink description of an interface.

    Raises:
        InterfaceError: there is no such interface, or it is not Ethernet.
    """
    found = route.link_lookup(ifname=interface)
    if not found:
        raise InterfaceError(f"there is no interface {interface!r}; `ip link` lists the interfaces")
    [described] = route.get_links(found[0])
    if described["ifi_type"] != ARPHRD_ETHER:
        raise InterfaceError(f"{interface} is not an Ethernet interface")
    return described


def link_rate_bps(interface: str) -> int | None:
    """Return the rate that the interface reports for its link, in bits per second; None if it reports none.

    Not from /sys/class/net, which may show another network namespace's interface of the same name.
    """
    try:
        with contextlib.closing(Ethtool()) as tool:
            megabits = tool.get_link_mode(interface).speed
    except (NetlinkError, OSError, EthtoolError):
        return None
    return int(megabits) * 1_000_000 if megabits else None


def features(interface: str, names: Iterable[str]) -> list[str]:
    """Return those of the offloads ``names`` (as in ``ethtool -k``) that are on and can be turned off."""
    try:
        with contextlib.closing(Ethtool()) as tool:
            held = tool.get_features(interface).features
    except (NetlinkError, OSError, NotSupportedError):
        return []
    return [name for name in names if name in held and held[name].enable and held[name].available]


def set_features(interface: str, names: Iterable[str], on: bool) -> None:
    """Turn the offloads ``names`` on or off. Some take effect only once others are on.

    Raises:
        InterfaceError: the interface refuses.
    """
    what = f"turning offloads of {interface} {'on' if on else 'off'}"
    with refused(what), contextlib.closing(Ethtool()) as tool:
        wanted = tool.get_features(interface)
        for name in names:
            wanted.features[name].enable = on
        try:
            tool.set_features(interface, wanted)
        except NotSupportedError as error:
            # Without arguments this is not a refusal: not all offloads are in the wanted state yet (ETHTOOL_F_WISH).
            if error.args:
                raise InterfaceError(f"{what}: not supported") from None
