"""TCP connections of a process, from outside it: its open files, and the kernel's list of sockets."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from host_agent.daemon import socket_diag
from host_agent.protocol.errors import RequestError
from host_agent.protocol.flow_request import Connection

_SOCKET = "socket:["


def connections_of(pid: int, destination: str, destination_port: int | None) -> list[tuple[int, Connection]]:
    """Return the connections of a process to a peer, with the cookies of their sockets.

    Args:
        pid: process, as this process sees its id. Only sockets of this network namespace are found.
        destination: address of the peer.
        destination_port: of the peer; None for all.

    Raises:
        RequestError: there is no such process, or its files may not be seen.
    """
    inodes = _sockets_of(pid)
    return [
        (found.cookie, found.connection)
        for found in socket_diag.connections()
        if found.inode in inodes
        and found.connection.addresses.destination == destination
        and destination_port in (None, found.connection.addresses.destination_port)
    ]


def _sockets_of(pid: int) -> set[int]:
    """Return the inodes of the sockets that a process has open."""
    folder = Path(f"/proc/{pid}/fd")
    found = set()
    try:
        for entry in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                target = os.readlink(folder / entry)
                if target.startswith(_SOCKET):
                    found.add(int(target[len(_SOCKET) : -1]))
    except OSError as error:
        raise RequestError(f"the sockets of process {pid}: {error.strerror}") from None
    return found
