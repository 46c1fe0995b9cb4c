"""A wire between two interfaces that changes what passes, and TCP segments as other versions would send them."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from host_agent.protocol.stamp import TCP_OPTION_BYTES, TCP_OPTION_HEAD, VERSION

Edit = Callable[[bytes], bytes]
_OUTGOING = 4
_IP, _TCP = 14, 34
_LONGEST = 1 << 16


def same(frame: bytes) -> bytes:
    """Change nothing."""
    return frame


class Wire:
    """Carries frames between two interfaces of this network namespace; ``onward`` and ``back`` may change them."""

    def __init__(self, near: str, far: str) -> None:
        self.onward: Edit = same
        self.back: Edit = same
        self._ends = [_raw(near), _raw(far)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self) -> None:
        near, far = self._ends
        while not self._over.is_set():
            for end in select.select(self._ends, [], [], 0.1)[0]:
                frame, where = end.recvfrom(_LONGEST)
                if where[2] == _OUTGOING:
                    continue
                # A full queue drops, as on a link.
                with contextlib.suppress(OSError):
                    if end is near:
                        far.send(self.onward(frame))
                    else:
                        near.send(self.back(frame))

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for end in self._ends:
            end.close()


@contextlib.contextmanager
def wired(near: str, far: str) -> Iterator[Wire]:
    """A wire for the time of a block."""
    wire = Wire(near, far)
    try:
        yield wire
    finally:
        wire.close()


def _raw(interface: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.bind((interface, 0))
    return raw


def another_version(option: bytes) -> bytes:
    """The option with a stamp of the version after this one."""
    return option[:4] + bytes([(VERSION + 1) << 4 | option[4] & 0xF]) + option[5:]


def shorter(option: bytes) -> bytes:
    """The option with a stamp that is four bytes shorter."""
    return option[:1] + bytes([TCP_OPTION_BYTES - 4]) + option[2:-4] + b"\x01" * 4


def longer(option: bytes) -> bytes:
    """The option with a stamp that is four bytes longer."""
    return option[:1] + bytes([TCP_OPTION_BYTES + 4]) + option[2:] + bytes(4)


def with_option(edit: Edit) -> Edit:
    """What changes the option that ends the TCP header of an IPv4 frame, and mends lengths and checksums."""

    def changed(frame: bytes) -> bytes:
        if frame[12:14] != b"\x08\x00" or frame[_IP] != 0x45 or frame[_IP + 9] != socket.IPPROTO_TCP:
            return frame
        total = int.from_bytes(frame[_IP + 2 : _IP + 4], "big")
        end = _TCP + (frame[_TCP + 12] >> 4) * 4
        option = frame[end - TCP_OPTION_BYTES : end]
        if not option.startswith(TCP_OPTION_HEAD):
            return frame
        option = edit(option)
        grown = len(option) - TCP_OPTION_BYTES
        words = (end - _TCP + grown) // 4
        network = frame[_IP : _IP + 2] + (total + grown).to_bytes(2, "big") + frame[_IP + 4 : _IP + 10]
        network += bytes(2) + frame[_IP + 12 : _TCP]
        network = network[:10] + _sum(network).to_bytes(2, "big") + network[12:]
        tcp = frame[_TCP : _TCP + 12] + bytes([words << 4 | frame[_TCP + 12] & 0xF]) + frame[_TCP + 13 : _TCP + 16]
        tcp += bytes(2) + frame[_TCP + 18 : end - TCP_OPTION_BYTES] + option + frame[end : _IP + total]
        pseudo = network[12:20] + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp))
        tcp = tcp[:16] + _sum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
        return frame[:_IP] + network + tcp

    return changed


def _sum(data: bytes) -> int:
    """The checksum of the Internet (RFC 1071)."""
    data += bytes(len(data) % 2)
    # Sums of 16-bit words are the same modulo 2^16 - 1 for the whole as one number.
    rest = int.from_bytes(data, "big") % 0xFFFF
    return 0xFFFF - rest
