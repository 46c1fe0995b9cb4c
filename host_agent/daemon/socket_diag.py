"""TCP connections of this network namespace, from the kernel (sock_diag(7))."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from host_agent.protocol.errors import RequestError
from host_agent.protocol.flow_request import PROTOCOLS, Connection, FiveTuple, unmapped

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_INFO = 2
_ESTABLISHED, _CLOSE_WAIT = 1, 8
_STATES = 1 << _ESTABLISHED | 1 << _CLOSE_WAIT
_ALL_STATES = 0xFFFFFFFF
_USER_OFFSET = 64
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBBI")
_SOCKET = struct.Struct("=4B2s2s16s16sIII")
_INODE_OFFSET = 68
_BODY_BYTES = 72
_SCALES_OFFSET, _OPTIONS_OFFSET = 6, 5
_WINDOW_SCALED = 4
_ANSWER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Found:
    """A connection, with the cookie of its socket and the inode by which /proc names it."""

    cookie: int
    inode: int
    connection: Connection


def connections() -> Iterator[Found]:
    """Yield the established connections."""
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from _asked(family, _DUMP, bytes(36))


def connection_at(addresses: FiveTuple) -> Connection | None:
    """Return the connection with these addresses; None if this namespace has none."""
    for found in _asked(*_exactly(addresses)):
        return found.connection
    return None


def _exactly(addresses: FiveTuple) -> tuple[int, int, bytes]:
    """Return family, flags and ends that ask for the connection with these addresses."""
    ends = [ipaddress.ip_address(end).packed.ljust(16, b"\0") for end in (addresses.source, addresses.destination)]
    family = socket.AF_INET if ipaddress.ip_address(addresses.source).version == 4 else socket.AF_INET6
    ports = [port.to_bytes(2, "big") for port in (addresses.source_port, addresses.destination_port)]
    return family, 0, b"".join((*ports, *ends))


def connection_of(cookie: int) -> Connection | None:
    """Return the connection of the socket with this cookie; None if it is not of this namespace, or not connected."""
    return next((found.connection for found in connections() if found.cookie == cookie), None)


def owner_of(cookie: int | None, addresses: FiveTuple | None) -> int | None:
    """Return the user of the socket with this cookie, or of the TCP connection with these addresses; None if unknown.

    With both, the addresses only make the search short: what counts is the cookie.
    """
    if addresses is not None and addresses.protocol == "tcp":
        for number, user in _owners(*_exactly(addresses)):
            if cookie in (None, number):
                return user
    if cookie is not None:
        for protocol in PROTOCOLS.values():
            for family in (socket.AF_INET, socket.AF_INET6):
                for number, user in _owners(family, _DUMP, bytes(36), protocol):
                    if number == cookie:
                        return user
    return None


def _owners(family: int, flags: int, ends: bytes, protocol: int = PROTOCOLS["tcp"]) -> Iterator[tuple[int, int]]:
    """Yield cookie and user of sockets, listening and unconnected ones too."""
    for body in _bodies(family, flags, ends, protocol, _ALL_STATES):
        *_, low, high = _SOCKET.unpack_from(body)
        yield high << 32 | low, struct.unpack_from("=I", body, _USER_OFFSET)[0]


def _asked(family: int, flags: int, ends: bytes) -> Iterator[Found]:
    """Ask for the TCP sockets of a family; yields their connections."""
    for body in _bodies(family, flags, ends, PROTOCOLS["tcp"], _STATES):
        if (found := _decoded(body)) is not None:
            yield found


def _bodies(family: int, flags: int, ends: bytes, protocol: int, states: int) -> Iterator[bytes]:
    """Ask for sockets; yields the messages that describe them."""
    asked = _ASKED.pack(family, protocol, 1 << (_INFO - 1), 0, states) + ends
    asked += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(1)
        diag.send(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST | flags, 0, 0) + asked)
        while True:
            answer = diag.recv(_ANSWER_BYTES)
            while len(answer) >= _HEADER.size:
                length, kind, *_ = _HEADER.unpack_from(answer)
                if kind in (_ERROR, _DONE):
                    return
                yield answer[_HEADER.size : length]
                answer = answer[-(-length // 4) * 4 :]
            if not flags:
                return


def _decoded(body: bytes) -> Found | None:
    family, _, _, _, *ports, source, destination, _, low, high = _SOCKET.unpack_from(body)
    size = 4 if family == socket.AF_INET else 16
    addresses = [unmapped(str(ipaddress.ip_address(end[:size]))) for end in (source, destination)]
    numbers = [int.from_bytes(port, "big") for port in ports]
    [inode] = struct.unpack_from("=I", body, _INODE_OFFSET)
    attributes = body[_BODY_BYTES:]
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == _INFO:
            options, scales = attributes[4 + _OPTIONS_OFFSET], attributes[4 + _SCALES_OFFSET]
            with contextlib.suppress(RequestError):
                ends = FiveTuple("tcp", addresses[0], numbers[0], addresses[1], numbers[1])
                return Found(high << 32 | low, inode, Connection(ends, scales & 0xF if options & _WINDOW_SCALED else 0))
        attributes = attributes[-(-max(length, 4) // 4) * 4 :]
    return None
