"""Who may do what at the agent's socket: limits for each user, and flows of sockets of one's own.

File permissions say who may connect (``--mode``, ``--group``). Within these, root may do everything. Others may open
flows for their own sockets and cgroups, and change their own flows. What the kernel does not tell is allowed:
unconnected UDP sockets by their addresses, sockets of other network namespaces, queue pairs of RDMA.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from pathlib import Path

from host_agent.daemon.socket_diag import owner_of
from host_agent.ebpf.layout import FLOWS_MAX
from host_agent.protocol.errors import RequestError
from host_agent.protocol.flow_request import FlowRequest

ROOT = 0
CLIENTS_PER_USER = 256
"""Connections at a time; an engine needs one for each of its processes."""
FLOWS_PER_USER = FLOWS_MAX // 2
_CREDENTIALS = struct.Struct("=iII")
_CGROUPS = Path("/sys/fs/cgroup")


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return the process that has connected a Unix socket, as this process sees its id, and its user (unix(7))."""
    held = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(held)
    return pid, user


class Access:
    """What each user holds: connections and flows."""

    def __init__(self) -> None:
        self._clients: Counter[int] = Counter()
        self._flows: Counter[int] = Counter()
        self._users: dict[int, int] = {}
        """The user of each open flow that was opened since this process started."""

    def connected(self, user: int) -> str:
        """Count a connection; return why it is refused, or an empty text."""
        if self._clients[user] >= CLIENTS_PER_USER:
            return f"user {user} has {CLIENTS_PER_USER} connections, the most that one may have; close some"
        self._clients[user] += 1
        return ""

    def disconnected(self, user: int) -> None:
        """Count the end of a connection that was not refused."""
        self._clients[user] -= 1

    def check_open(self, user: int, request: FlowRequest) -> None:
        """Check that a user may open a flow.

        Raises:
            RequestError: the user has too many, or the socket or cgroup is another user's.
        """
        if user == ROOT:
            return
        if self._flows[user] >= FLOWS_PER_USER:
            raise RequestError(f"user {user} has {FLOWS_PER_USER} flows open, the most that one may have; close some")
        match = request.match
        if match.cgroup is not None:
            owner = _owner_of_cgroup(match.cgroup)
            if owner != user:
                raise RequestError(
                    f"cgroup {match.cgroup} is not user {user}'s; give the path of one that is, or be root"
                )
        elif match.rdma is None:
            addresses = request.connection.addresses if request.connection is not None else match.addresses
            owner = owner_of(match.cookie, addresses)
            if owner not in (None, user):
                raise RequestError(f"{match} is a socket of user {owner}; open its flow as that user, or as root")

    def check_process(self, pid: int, user: int) -> None:
        """Check that a user may know the connections of a process.

        Raises:
            RequestError: it is another user's, or there is no such process.
        """
        try:
            owner = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            owner = None
        if user not in (ROOT, owner):
            raise RequestError(f"process {pid} is not user {user}'s; ask as its user, or as root")

    def opened(self, flow: int, user: int) -> None:
        """Note whose flow it is."""
        self.closed(flow)
        self._users[flow] = user
        self._flows[user] += 1

    def check_change(self, flow: int, user: int) -> None:
        """Check that a user may change or close a flow.

        Raises:
            RequestError: it is another user's.
        """
        if user not in (ROOT, self._users.get(flow, user)):
            raise RequestError(f"flow {flow} belongs to another user")

    def closed(self, flow: int) -> None:
        """Forget a flow."""
        user = self._users.pop(flow, None)
        if user is not None:
            self._flows[user] -= 1


def _owner_of_cgroup(cgroup: int | str) -> int | None:
    """Return the owner of the directory of a cgroup; None if there is none, or it is given by number."""
    if not isinstance(cgroup, str):
        return None
    try:
        return os.stat(_CGROUPS / cgroup.lstrip("/")).st_uid
    except OSError:
        return None
