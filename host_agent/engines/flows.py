"""Flows of an engine at the host agent. An engine without an agent goes on, unstamped, and says so once."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from host_agent.client import AgentClient, AgentGoneError, OpenFlow
from host_agent.protocol.errors import AgentError
from host_agent.protocol.flow_spec import LAYER_MAX
from host_agent.protocol.paths import AGENT_SOCKET
from host_agent.protocol.stamp import Stage

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_S = 5.0
"""An agent that does not answer is asked again after this time."""
ANSWER_S = 1.0
"""Longest wait for the agent's answer: data waits for it."""


class Announcer:
    """Opens, advances and closes flows. Thread-safe.

    :meth:`open` and :meth:`close` wait for the agent, and belong into a transfer's own thread. :meth:`advance` only
    queues, and may be called from the engine's step.
    """

    def __init__(self, path: str | None) -> None:
        """Set the agent's socket: None for the default path, "" for no agent."""
        self._path = str(AGENT_SOCKET) if path is None else path
        self._lock = threading.Lock()
        self._client: AgentClient | None = None
        self._retry_at = 0.0
        self._gone = False
        self._progress: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        if self._path:
            threading.Thread(target=self._advance, name="mfs-progress", daemon=True).start()

    def open(
        self,
        connection: socket.socket,
        *,
        batch: int,
        stage: Stage,
        deadline_ns: int,
        total_bytes: int,
        target_layer: int,
        beyond_bytes: int = 0,
        message_bytes: int = 0,
    ) -> OpenFlow | None:
        """Open a flow; a flow that the socket has ends. None if the agent is gone or refuses: send without stamps."""
        return self.ask(
            lambda client: client.open(
                connection,
                batch=batch,
                stage=stage,
                deadline_ns=deadline_ns,
                total_bytes=max(1, total_bytes),
                target_layer=min(target_layer, LAYER_MAX),
                beyond_bytes=beyond_bytes,
                message_bytes=message_bytes,
            )
        )

    def ask(self, call: Callable[[AgentClient], T]) -> T | None:
        """Return what ``call`` returns, which gets the client; None if the agent is gone or refuses. Waits for it."""
        client = self._reached()
        if client is None:
            return None
        try:
            answer = call(client)
        except AgentError as error:
            self._failed(error)
            return None
        self._answered()
        return answer

    def close(self, flow: OpenFlow | None) -> None:
        """Close a flow; None, or a flow that the agent lost, does not matter."""
        if flow is None or self._reached() is None:
            return
        try:
            flow.close()
        except AgentGoneError as error:
            self._failed(error)
        except AgentError as error:
            _LOG.debug("closing a flow: %s", error)

    def advance(self, batch: int, layer: int) -> None:
        """Report that ``batch`` now computes ``layer``. Returns at once."""
        if self._path:
            self._progress.put((batch, min(layer, LAYER_MAX)))

    def stop(self) -> None:
        """End the thread and the connection to the agent, and with it all flows."""
        self._progress.put(None)
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _advance(self) -> None:
        while (progress := self._progress.get()) is not None:
            highest = dict([progress])
            # What has queued up meanwhile is outdated by the last layer of each batch.
            with contextlib.suppress(queue.Empty):
                while (progress := self._progress.get_nowait()) is not None:
                    highest[progress[0]] = max(progress[1], highest.get(progress[0], 0))
            for batch, layer in highest.items():
                client = self._reached()
                if client is not None:
                    try:
                        client.advance(batch, layer)
                    except AgentError as error:
                        self._failed(error)
            if progress is None:
                return

    def _reached(self) -> AgentClient | None:
        """Return the client, or None while the agent is gone."""
        if not self._path:
            return None
        with self._lock:
            if time.monotonic() < self._retry_at:
                return None
            if self._client is None:
                try:
                    self._client = AgentClient(self._path, ANSWER_S)
                except AgentGoneError as error:
                    self._note(error)
            return self._client

    def _failed(self, error: AgentError) -> None:
        with self._lock:
            self._note(error)

    def _note(self, error: AgentError) -> None:
        if isinstance(error, AgentGoneError):
            self._retry_at = time.monotonic() + RETRY_S
        if not self._gone:
            self._gone = True
            _LOG.warning("%s; transfers go on without stamps", error)

    def _answered(self) -> None:
        with self._lock:
            if self._gone:
                self._gone = False
                _LOG.warning("the host agent at %s answers again; transfers are stamped", self._path)
