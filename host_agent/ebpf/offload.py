"""Transmit checksum offload of an interface, by the ioctl of ethtool (``linux/ethtool.h``, ``SIOCETHTOOL``)."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_GET_TX_CHECKSUM = 0x16
_SET_TX_CHECKSUM = 0x17


def _ethtool(interface: str, command: int, value: int = 0) -> int:
    data = array.array("I", [command, value])
    request = struct.pack("16sP16x", interface.encode(), data.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        fcntl.ioctl(anything, _SIOCETHTOOL, request)
    return data[1]


def transmit_checksum(interface: str) -> bool:
    """Whether the interface computes checksums; False also where it cannot say."""
    try:
        return bool(_ethtool(interface, _GET_TX_CHECKSUM))
    except OSError:
        return False


def set_transmit_checksum(interface: str, on: bool) -> bool:
    """Turn it on or off; whether that worked."""
    try:
        _ethtool(interface, _SET_TX_CHECKSUM, int(on))
    except OSError:
        return False
    return True
