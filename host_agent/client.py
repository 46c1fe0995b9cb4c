"""The agent on a server, for a serving engine: flows are opened, updated and closed through its Unix socket.

::

    with AgentClient("/run/mfs/agent.sock") as agent:
        flow = agent.open(connection, batch=7, stage=Stage.P2D, slack_us=200_000, total_bytes=1 << 28)
        connection.sendall(...)
        agent.advance(batch=7, layer=3)
        flow.close()

Flows end with the connection to the agent, unless opened with ``keep``. Safe to use from several threads.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Any

from host_agent.protocol.errors import MfsError
from host_agent.protocol.stamp import Stage

DEFAULT_SOCKET = "/run/mfs/agent.sock"
TIMEOUT_S = 5.0
_SO_COOKIE = 57
"""``asm-generic/socket.h``; Linux 4.12 or later."""


class AgentError(MfsError):
    """The agent refuses a request; the message says why."""


class AgentGoneError(AgentError):
    """No agent answers at the socket."""


def cookie_of(connection: socket.socket) -> int:
    """What the kernel knows a socket by."""
    return int(struct.unpack("<Q", connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0])


def _absolute(fields: dict[str, Any]) -> dict[str, Any]:
    """``fields`` with the deadline on CLOCK_MONOTONIC: resumed later, it is still the same."""
    changed = dict(fields)
    if "slack_us" in changed:
        changed["deadline_ns"] = max(0, time.monotonic_ns() + changed.pop("slack_us") * 1000)
    return changed


class OpenFlow:
    """One open flow. Made by :meth:`AgentClient.open`.

    Attributes:
        number: of the flow within its batch, as it is stamped.
    """

    def __init__(self, client: AgentClient, request: dict[str, Any]) -> None:
        self._client = client
        self._request = request
        self._flow = -1
        self.number = -1

    def update(self, **fields: Any) -> None:
        """Change ``slack_us`` (from now) or ``deadline_ns`` (CLOCK_MONOTONIC), ``beyond_bytes``, or ``pruned``.

        Raises:
            AgentError: no such field or value, or the agent is gone.
        """
        changed = _absolute(fields)
        self._client.ask("update", flow=lambda: self._flow, **changed)
        self._request |= changed

    def close(self) -> None:
        """End it: its packets are stamped no more.

        Raises:
            AgentError: the agent is gone.
        """
        self._client.forget(self)
        self._client.ask("close", flow=lambda: self._flow)

    def resume(self, answer: dict[str, Any]) -> None:
        """The agent's answer to opening it."""
        self._flow, self.number = answer["flow"], answer["number"]

    @property
    def request(self) -> dict[str, Any]:
        """What opens it again at an agent that was started anew."""
        return {**self._request, "number": self.number, "resume": True}


class AgentClient:
    """A connection to the agent. If that was started anew, the next call connects again and resumes the open flows."""

    def __init__(self, path: str = DEFAULT_SOCKET, timeout_s: float = TIMEOUT_S) -> None:
        """Connect.

        Raises:
            AgentGoneError: no agent answers at ``path``, or its file permissions do not let us.
        """
        self._path = path
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._flows: list[OpenFlow] = []
        self._connect()

    def open(
        self,
        match: socket.socket | dict[str, Any],
        *,
        batch: int,
        stage: Stage,
        total_bytes: int,
        **fields: Any,
    ) -> OpenFlow:
        """Stamp what ``match`` sends from now on.

        Args:
            match: a socket; ``{"cgroup": path or id}`` for all that its processes send; or ``{"addresses": {"protocol",
                "source", "source_port", "destination", "destination_port"}}``.
            batch: identity that shares progress.
            stage: what it carries.
            total_bytes: what will be sent in all.
            fields: ``slack_us`` from now, or ``deadline_ns`` on CLOCK_MONOTONIC; ``target_layer``; ``beyond_bytes`` of
                the same request that come after this flow; ``message_bytes``: messages are of this size, and the level
                may rise where one starts; ``number`` within the batch; ``pruned``: stamped as late; ``keep``: the flow
                stays when this connection ends.

        Raises:
            AgentError: the agent refuses it, or is gone.
        """
        known = {"cookie": cookie_of(match)} if isinstance(match, socket.socket) else match
        request = {"match": known, "batch": batch, "stage": int(stage), "total_bytes": total_bytes, **_absolute(fields)}
        flow = OpenFlow(self, request)
        with self._lock:
            flow.resume(self.ask("open", **request))
            self._flows.append(flow)
        return flow

    def advance(self, batch: int, layer: int) -> None:
        """``batch`` now computes ``layer``; of stage 3's view, the number of layers when it is over.

        Raises:
            AgentError: no such batch or layer, or the agent is gone.
        """
        self.ask("advance", batch=batch, layer=layer)

    def progress(self, batch: int) -> int:
        """The highest layer of ``batch`` that this host has heard of, also from stamps that came in.

        Raises:
            AgentError: the agent is gone.
        """
        return int(self.ask("progress", batch=batch)["layer"])

    def status(self) -> dict[str, Any]:
        """Policy, counters and flows of the agent.

        Raises:
            AgentError: the agent is gone.
        """
        return self.ask("status")

    def forget(self, flow: OpenFlow) -> None:
        """``flow`` is not to be resumed any more."""
        with self._lock, contextlib.suppress(ValueError):
            self._flows.remove(flow)

    def ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        """Send a request and give the answer; fields that are functions are called when it is sent.

        Raises:
            AgentError: the agent refuses it, or is gone.
        """
        with self._lock:
            try:
                return self._exchange(operation, fields)
            except AgentGoneError:
                self._connect()
                for flow in self._flows:
                    flow.resume(self._exchange("open", flow.request))
                return self._exchange(operation, fields)

    def close(self) -> None:
        """End the connection, and with it the flows that are not kept."""
        with self._lock:
            self._stream.close()
            self._socket.close()

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(self._timeout_s)
        try:
            self._socket.connect(self._path)
        except OSError as error:
            self._socket.close()
            raise AgentGoneError(f"no agent answers at {self._path}: {error.strerror or error}") from None
        self._stream = self._socket.makefile("rb")

    def _exchange(self, operation: str, fields: dict[str, Any]) -> dict[str, Any]:
        request = {"op": operation, **{name: value() if callable(value) else value for name, value in fields.items()}}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._stream.readline()
        except OSError as error:
            raise AgentGoneError(f"the agent at {self._path} is gone: {error.strerror or error}") from None
        if not line:
            raise AgentGoneError(f"the agent at {self._path} has ended the connection")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise AgentError(answer["error"])
        return answer

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
