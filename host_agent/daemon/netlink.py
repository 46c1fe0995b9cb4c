"""Netlink and ethtool by pyroute2, with errors that a user can read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from pyroute2 import IPRoute
from pyroute2.ethtool.ethtool import Ethtool
from pyroute2.ethtool.ioctl import NotSupportedError
from pyroute2.netlink.exceptions import NetlinkError

from host_agent.ebpf.errors import InterfaceError

ARPHRD_ETHER = 1


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Within, what the kernel refuses becomes an :class:`InterfaceError` that begins with ``what``."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        reason = error.args[-1] if isinstance(error, NetlinkError) else error.strerror
        raise InterfaceError(f"{what}: {reason}") from None


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """Within, what is not there any more is no error."""
    with contextlib.suppress(NetlinkError, OSError, InterfaceError):
        yield


def link(route: IPRoute, interface: str) -> Any:
    """The interface as netlink describes it.

    Raises:
        InterfaceError: there is none of that name, or it is no Ethernet.
    """
    found = route.link_lookup(ifname=interface)
    if not found:
        raise InterfaceError(f"there is no interface {interface!r}; `ip link` lists those that are")
    [described] = route.get_links(found[0])
    if described["ifi_type"] != ARPHRD_ETHER:
        raise InterfaceError(f"{interface} is no Ethernet interface")
    return described


def features(interface: str, names: Iterable[str]) -> list[str]:
    """Those of the offloads ``names`` (as ``ethtool -k`` has them) that are on and can be turned off."""
    try:
        with contextlib.closing(Ethtool()) as tool:
            held = tool.get_features(interface).features
    except (NetlinkError, OSError, NotSupportedError):
        return []
    return [name for name in names if name in held and held[name].enable and held[name].available]


def set_features(interface: str, names: Iterable[str], on: bool) -> None:
    """Ask for the offloads ``names`` to be on or off. Some may have to wait until others are on.

    Raises:
        InterfaceError: the interface refuses it.
    """
    what = f"turning offloads of {interface} {'on' if on else 'off'}"
    with refused(what), contextlib.closing(Ethtool()) as tool:
        wanted = tool.get_features(interface)
        for name in names:
            wanted.features[name].enable = on
        try:
            tool.set_features(interface, wanted)
        except NotSupportedError as error:
            # Without words, it is no refusal: the kernel says that not all are as asked for yet (ETHTOOL_F_WISH).
            if error.args:
                raise InterfaceError(f"{what}: not supported") from None
