"""Client of the host agent, for serving engines: opens, updates and closes flows through the agent's Unix socket.

::

    with AgentClient() as agent:
        flow = agent.open(connection, batch=7, stage=Stage.P2D, slack_us=200_000, total_bytes=1 << 28)
        connection.sendall(...)
        agent.advance(batch=7, layer=3)
        flow.close()

Flows end with the connection to the agent, unless opened with ``keep``. A client may be used from several threads. It
needs only the standard library.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from host_agent.protocol.errors import AgentError, RequestError
from host_agent.protocol.flow_request import (
    LINE_MAX,
    Connection,
    FlowRequest,
    FlowUpdate,
    Match,
    check_integer,
    check_progress,
    deadline,
)
from host_agent.protocol.paths import AGENT_SOCKET
from host_agent.protocol.stamp import Stage

TIMEOUT_S = 5.0
_CLOSED = -1
"""Handle of a flow that is not open."""
Answer = dict[str, Any]


class AgentGoneError(AgentError):
    """No agent answers at the socket."""


class OpenFlow:
    """An open flow. Made by :meth:`AgentClient.open`.

    Attributes:
        request: the flow as opened and updated.
        number: of the flow within its batch, as stamped in the field ``flow``.
    """

    def __init__(self, client: AgentClient, request: FlowRequest) -> None:
        self._client = client
        self._handle = _CLOSED
        self.request = request
        self.number = -1

    def update(
        self,
        *,
        slack_us: int | None = None,
        deadline_ns: int | None = None,
        beyond_bytes: int | None = None,
        pruned: bool | None = None,
    ) -> None:
        """Change the flow; values that are not given stay unchanged.

        Args:
            slack_us: new deadline, in microseconds from now; or
            deadline_ns: new deadline, in nanoseconds on CLOCK_MONOTONIC (:func:`time.monotonic_ns`).
            beyond_bytes: bytes of the same request that follow this flow.
            pruned: whether the flow is stamped as late.

        Raises:
            RequestError: a value has the wrong type or is out of range, or the flow is closed.
            AgentGoneError: the agent does not answer.
        """
        update = FlowUpdate(deadline(slack_us, deadline_ns, time.monotonic_ns()), beyond_bytes, pruned)
        changed = update.applied_to(self.request)
        self._client._ask(lambda: {"op": "update", "flow": self._handle, **update.to_json()})
        self.request = changed

    def submit(self, size: int) -> int:
        """Ask to send a message of ``size`` bytes, and return its number; :meth:`AgentClient.permitted` permits it.

        Raises:
            RequestError: the size is not in 1..2^62, or the flow is closed.
            AgentGoneError: the agent does not answer.
        """
        check_integer("bytes", size)
        return int(self._client._ask(lambda: {"op": "submit", "flow": self._handle, "bytes": size})["message"])

    def close(self) -> None:
        """End the flow: its packets are no longer stamped.

        Raises:
            AgentError: the flow is closed already, or the agent does not answer.
        """
        self._client._forget(self)
        self._client._ask(lambda: {"op": "close", "flow": self._handle})
        self._handle = _CLOSED

    @property
    def _key(self) -> object:
        """What only one open flow has. A queue pair may have several, told by batch and number."""
        match = self.request.match
        return match if match.rdma is None else (match, self.request.batch, self.number)

    def _opened(self, answer: Answer) -> None:
        self._handle, self.number = answer["flow"], answer["number"]

    def _resumption(self) -> dict[str, Any]:
        """Return the request that reopens the flow at a restarted agent."""
        return {"op": "open", **self.request.to_json(), "number": self.number, "resume": True}


class AgentClient:
    """A connection to the agent. If the agent was restarted, the next call reconnects and resumes the open flows."""

    def __init__(self, path: str | os.PathLike[str] = AGENT_SOCKET, timeout_s: float = TIMEOUT_S) -> None:
        """Connect.

        Args:
            path: Unix socket of the agent.
            timeout_s: longest wait for an answer, in seconds.

        Raises:
            AgentGoneError: no agent answers at ``path``, or its file permissions forbid it.
        """
        self._path = os.fspath(path)
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._flows: dict[object, OpenFlow] = {}
        self._connect()

    def open(
        self,
        match: socket.socket | Match,
        *,
        batch: int,
        stage: Stage,
        total_bytes: int,
        slack_us: int | None = None,
        deadline_ns: int | None = None,
        target_layer: int = 0,
        beyond_bytes: int = 0,
        message_bytes: int = 0,
        number: int | None = None,
        pruned: bool = False,
        keep: bool = False,
    ) -> OpenFlow:
        """Stamp the packets of ``match`` from now on; it replaces an open flow with the same match.

        One of ``slack_us`` and ``deadline_ns`` is needed.

        Args:
            match: a socket, or other packets (:class:`Match`): ``Match(cgroup="system.slice/engine.service")``,
                ``Match(addresses=FiveTuple("tcp", "10.0.1.1", 7000, "10.0.2.1", 7001))``,
                ``Match(rdma=QueuePair("10.0.1.1", "10.0.2.1", 0x1a2b))``.
            batch: batch whose progress the flow shares, 0 to 2^32 - 1; 0 for none. Begin at a random one: switches
                remember the progress of recent batches.
            stage: stage of the flow.
            total_bytes: payload bytes that the flow will send in total.
            slack_us: deadline in microseconds from now; or
            deadline_ns: deadline in nanoseconds on CLOCK_MONOTONIC (:func:`time.monotonic_ns`).
            target_layer: layer that consumes the data, 0 to 255; for stage 3 the number of layers.
            beyond_bytes: bytes of the same request that follow this flow; they count as remaining.
            message_bytes: size of a message, for instance of a layer; the level may rise where a message starts. 0: the
                flow is one message.
            number: of the flow within its batch, 0 to 65535; by default the agent chooses.
            pruned: stamp the flow as late, so that it is served when nothing else waits.
            keep: leave the flow open when this connection ends.

        Raises:
            RequestError: a value has the wrong type or is out of range, or the agent has no room for another flow.
            AgentGoneError: the agent does not answer.
        """
        due_ns = deadline(slack_us, deadline_ns, time.monotonic_ns())
        if due_ns is None:
            raise RequestError("a flow needs its deadline: slack_us from now, or deadline_ns on CLOCK_MONOTONIC")
        if not isinstance(match, socket.socket | Match):
            raise RequestError(f"match {match!r} is neither a socket nor a Match")
        request = FlowRequest(
            match=match if isinstance(match, Match) else Match.of_socket(match),
            batch=batch,
            stage=stage,
            deadline_ns=due_ns,
            total_bytes=total_bytes,
            target_layer=target_layer,
            beyond_bytes=beyond_bytes,
            message_bytes=message_bytes,
            number=number,
            pruned=pruned,
            keep=keep,
            connection=None if isinstance(match, Match) else Connection.of_socket(match),
        )
        try:
            return self._open(request)
        except RequestError as error:
            # An agent of version 0.2 does not know this hint.
            if request.connection is None or "does not take connection;" not in str(error):
                raise
            return self._open(replace(request, connection=None))

    def _open(self, request: FlowRequest) -> OpenFlow:
        flow = OpenFlow(self, request)
        with self._lock:
            self._note(flow, self._ask(lambda: {"op": "open", **request.to_json()}))
        return flow

    def connections(
        self, destination: str, destination_port: int | None = None, *, pid: int | None = None
    ) -> list[Match]:
        """Return a match for each TCP connection of a process to a peer, found by the agent in its network namespace.

        Args:
            destination: address of the peer.
            destination_port: of the peer; None for all.
            pid: of the process, as the agent sees it; None for the one that has connected this client.

        Raises:
            RequestError: a value is invalid, there is no such process, or the agent may not see its files.
            AgentGoneError: the agent does not answer.
        """
        answer = self.ask("connections", destination=destination, destination_port=destination_port, pid=pid)
        return [Match(cookie=each["cookie"]) for each in answer["connections"]]

    def open_all(self, requests: Sequence[FlowRequest]) -> list[OpenFlow]:
        """Open flows, all in one request to the agent; either all are open afterwards, or none of them.

        Raises:
            RequestError: the agent refuses one of them, or they are too many for one request.
            AgentGoneError: the agent does not answer.
        """
        flows = [OpenFlow(self, request) for request in requests]
        with self._lock:
            answers = self._ask_all(lambda: [{"op": "open", **flow.request.to_json()} for flow in flows])
            opened = [flow for flow, answer in zip(flows, answers, strict=True) if answer["ok"]]
            for flow, answer in zip(flows, answers, strict=True):
                if answer["ok"]:
                    self._note(flow, answer)
        if len(opened) < len(flows):
            self.close_all(opened)
            _check(answers)
        return flows

    def update_all(
        self,
        flows: Sequence[OpenFlow],
        *,
        slack_us: int | None = None,
        deadline_ns: int | None = None,
        beyond_bytes: int | None = None,
        pruned: bool | None = None,
    ) -> None:
        """Change flows alike, all in one request to the agent; fields as of :meth:`OpenFlow.update`.

        Raises:
            RequestError: a value has the wrong type or is out of range, or a flow is closed; the others are changed.
            AgentGoneError: the agent does not answer.
        """
        update = FlowUpdate(deadline(slack_us, deadline_ns, time.monotonic_ns()), beyond_bytes, pruned)
        changed = [update.applied_to(flow.request) for flow in flows]
        answers = self._ask_all(lambda: [{"op": "update", "flow": flow._handle, **update.to_json()} for flow in flows])
        for flow, request, answer in zip(flows, changed, answers, strict=True):
            if answer["ok"]:
                flow.request = request
        _check(answers)

    def close_all(self, flows: Sequence[OpenFlow]) -> None:
        """End flows, all in one request to the agent.

        Raises:
            AgentError: one of them is closed already, or the agent does not answer; the others are closed.
        """
        for flow in flows:
            self._forget(flow)
        answers = self._ask_all(lambda: [{"op": "close", "flow": flow._handle} for flow in flows])
        for flow in flows:
            flow._handle = _CLOSED
        _check(answers)

    def advance(self, batch: int, layer: int) -> None:
        """Report that ``batch`` now computes ``layer``; once all layers are computed, their number.

        A layer that is not above the known one changes nothing.

        Raises:
            RequestError: the batch is not in 1..2^32 - 1, or the layer not in 0..255.
            AgentGoneError: the agent does not answer.
        """
        check_progress(batch, layer)
        self.ask("advance", batch=batch, layer=layer)

    def progress(self, batch: int) -> int:
        """Return the highest layer of ``batch`` known to this host, including layers learned from received stamps.

        Raises:
            RequestError: the batch is not in 0..2^32 - 1.
            AgentGoneError: the agent does not answer.
        """
        return int(self.ask("progress", batch=check_integer("batch", batch))["layer"])

    def permitted(self, wait_us: int = 0) -> list[int]:
        """Return the submitted messages that may be sent since the last call; wait up to ``wait_us`` if there are none.

        Messages do not survive a restart of the agent: submit again what was not complete.

        Raises:
            RequestError: ``wait_us`` is not in 0..1,000,000.
            AgentGoneError: the agent does not answer.
        """
        return list(self.ask("permit", wait_us=check_integer("wait_us", wait_us))["permitted"])

    def complete(self, message: int) -> None:
        """Report that the receiver has a permitted message.

        Raises:
            RequestError: no such message of this client is in flight.
            AgentGoneError: the agent does not answer.
        """
        self.ask("complete", message=check_integer("message", message))

    def status(self) -> Answer:
        """Return policy, counters and flows of the agent, as ``mfs agent status --json`` prints them.

        Raises:
            AgentGoneError: the agent does not answer.
        """
        return self.ask("status")

    def ask(self, operation: str, **fields: object) -> Answer:
        """Send a request of the socket protocol (``docs/reference/host-agent.md``) and return the answer.

        Raises:
            RequestError: the agent refuses the request.
            AgentGoneError: the agent does not answer.
        """
        return self._ask(lambda: {"op": operation, **fields})

    def close(self) -> None:
        """End the connection, and with it the flows that were not opened with ``keep``."""
        with self._lock:
            self._stream.close()
            self._socket.close()

    def _ask(self, request: Callable[[], dict[str, Any]]) -> Answer:
        """Exchange ``request()``; it is called again after a restart of the agent, which changes the flows' handles."""
        with self._lock:
            try:
                return self._exchange(request())
            except AgentGoneError:
                self._connect()
                for flow in self._flows.values():
                    flow._opened(self._exchange(flow._resumption()))
                return self._exchange(request())

    def _ask_all(self, requests: Callable[[], list[dict[str, Any]]]) -> list[Answer]:
        """Exchange ``requests()`` as one batch, and return an answer for each."""
        answers: list[Answer] = self._ask(lambda: {"op": "batch", "requests": requests()})["answers"]
        return answers

    def _note(self, flow: OpenFlow, answer: Answer) -> None:
        """Note an open flow, and that it has replaced another."""
        flow._opened(answer)
        if (replaced := self._flows.get(flow._key)) is not None:
            replaced._handle = _CLOSED
        self._flows[flow._key] = flow

    def _forget(self, flow: OpenFlow) -> None:
        """Stop resuming ``flow`` after a restart of the agent."""
        with self._lock:
            if self._flows.get(flow._key) is flow:
                del self._flows[flow._key]

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(self._timeout_s)
        try:
            self._socket.connect(self._path)
        except OSError as error:
            self._socket.close()
            raise AgentGoneError(f"no agent answers at {self._path}: {error.strerror or error}") from None
        self._stream = self._socket.makefile("rb")

    def _exchange(self, request: dict[str, Any]) -> Answer:
        text = json.dumps(request).encode() + b"\n"
        if len(text) > LINE_MAX:
            raise RequestError(f"a request of {len(text)} bytes; the agent takes {LINE_MAX}, so use several")
        try:
            self._socket.sendall(text)
            line = self._stream.readline()
        except OSError as error:
            raise AgentGoneError(f"the agent at {self._path} does not answer: {error.strerror or error}") from None
        if not line:
            raise AgentGoneError(f"the agent at {self._path} has closed the connection")
        answer: Answer = json.loads(line)
        if not answer.pop("ok"):
            raise RequestError(answer["error"])
        return answer

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check(answers: Sequence[Answer]) -> None:
    """Raise the first error of ``answers``."""
    for answer in answers:
        if not answer["ok"]:
            raise RequestError(answer["error"])
