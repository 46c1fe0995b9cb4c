"""Turns off what a network interface leaves to hardware: linux/ethtool.h, through the ioctl SIOCETHTOOL.

A switch must see frames as they are on the wire. With offloads, frames arrive merged (GRO, LRO), as long as 64 KB (TSO,
GSO) and without checksums, and between the two ends of a veth no hardware completes them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
from array import array
from collections.abc import Mapping

from soft_switch.realtime.errors import InterfaceError

_SIOCETHTOOL = 0x8946
_IFREQ = struct.Struct("16sP16x")
# Name in ethtool -K: (command that reads it, command that sets it). Segmentation needs checksums, so it is first.
_OFFLOADS = {
    "tso": (0x1E, 0x1F),
    "gso": (0x23, 0x24),
    "gro": (0x2B, 0x2C),
    "tx": (0x16, 0x17),
    "rx": (0x14, 0x15),
}
_GET_FLAGS, _SET_FLAGS = 0x25, 0x26
_FLAG_LRO = 1 << 15
NEEDED_OFF = ("tso", "gso", "gro", "tx")
"""Offloads that spoil frames; ``rx`` and ``lro`` are turned off where possible."""


def turn_off(interface: str) -> dict[str, int]:
    """Turn all offloads of ``interface`` off; return what was on before, for :func:`restore`.

    Acts in the network namespace of the calling thread and needs CAP_NET_ADMIN there.

    Raises:
        InterfaceError: there is no such interface, or one of :data:`NEEDED_OFF` cannot be turned off.
    """
    before: dict[str, int] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name, (get, put) in _OFFLOADS.items():
            try:
                if _call(control, interface, get):
                    _call(control, interface, put, 0)
                    before[name] = 1
                    if name in NEEDED_OFF and _call(control, interface, get):
                        raise OSError("it stays on")
            except OSError as error:
                # A device that does not know an offload does not have it.
                if name in NEEDED_OFF and error.errno != errno.EOPNOTSUPP:
                    raise InterfaceError(
                        f"cannot turn off {name} of {interface} ({error.strerror or error}); try: "
                        f"ethtool -K {interface} {' '.join(f'{word} off' for word in NEEDED_OFF)}"
                    ) from error
        with contextlib.suppress(OSError):
            flags = _call(control, interface, _GET_FLAGS)
            if flags & _FLAG_LRO:
                _call(control, interface, _SET_FLAGS, flags & ~_FLAG_LRO)
                before["lro"] = 1
    return before


def restore(interface: str, before: Mapping[str, int]) -> None:
    """Turn on again what :func:`turn_off` found on; an interface that no longer exists is ignored."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, contextlib.suppress(OSError):
        for name in reversed(_OFFLOADS):
            if before.get(name):
                _call(control, interface, _OFFLOADS[name][1], 1)
        if before.get("lro"):
            _call(control, interface, _SET_FLAGS, _call(control, interface, _GET_FLAGS) | _FLAG_LRO)


def active(interface: str) -> tuple[str, ...]:
    """Return which of :data:`NEEDED_OFF` are on; offloads that the interface does not have are not."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name in NEEDED_OFF:
            with contextlib.suppress(OSError):
                if _call(control, interface, _OFFLOADS[name][0]):
                    found.append(name)
    return tuple(found)


def _call(control: socket.socket, interface: str, command: int, value: int = 0) -> int:
    words = array("I", (command, value))
    fcntl.ioctl(control, _SIOCETHTOOL, _IFREQ.pack(interface.encode(), words.buffer_info()[0]))
    return words[1]
