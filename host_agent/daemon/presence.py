"""Whether the interface that an agent serves still exists, and whether it is up."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import struct

from host_agent.ebpf.errors import InterfaceError

PERIOD_S = 1.0
"""Time between two looks."""
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1

_log = logging.getLogger(__name__)


async def until_gone(interface: str) -> None:
    """Say once that ``interface`` goes down or comes up again; raise when it no longer exists.

    Raises:
        InterfaceError: the interface was removed, renamed, or made again: nothing of the agent is on the new one.
    """
    index, up = socket.if_nametoindex(interface), True
    while True:
        await asyncio.sleep(PERIOD_S)
        if _index(interface) != index:
            raise InterfaceError(f"{interface} is gone or was made again; start the agent again when it is back")
        before, up = up, _is_up(interface)
        if before and not up:
            _log.warning("%s is down: nothing leaves it; run: ip link set %s up", interface, interface)
        elif up and not before:
            _log.info("%s is up again", interface)


def _index(interface: str) -> int | None:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return None


def _is_up(interface: str) -> bool:
    # By ioctl, since /sys may show another network namespace.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16sh14x", interface.encode(), 0))
        except OSError:
            return False
    flags: int = struct.unpack("16xh14x", answer)[0]
    return bool(flags & _IFF_UP)
