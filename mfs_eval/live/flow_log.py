"""``flows.jsonl``: the level of each open flow over time, as the host agents report it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict

from host_agent import AgentClient, AgentError

FILE = "flows.jsonl"
EVERY_S = 0.1
_LOG = logging.getLogger(__name__)


class Sighting(BaseModel):
    """A flow at the time at which it was first seen, or seen at another level than before."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    time_ns: int
    """On CLOCK_MONOTONIC; the change is at most :data:`EVERY_S` older."""
    host: int
    """The sender's, from 0; with one NIC per server also its server."""
    flow: int
    """The agent's handle."""
    batch: int
    number: int
    """Of the flow within its batch."""
    stage: str
    total_bytes: int
    sent_bytes: int
    slack_us: int
    layers_to_go: int
    """Layers from the one that is computed to the one that the flow is for; 0 and less: it is waited for."""
    level: int


class FlowLog:
    """Asks the agents every :data:`EVERY_S` while it is open; a context manager.

    Args:
        sockets: of the agents, by host.
        path: the file; lines are appended.
    """

    def __init__(self, sockets: Mapping[int, Path], path: Path) -> None:
        self._sockets = sockets
        self._path = path
        self._levels: dict[tuple[int, int, int], int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> FlowLog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        try:
            agents = {host: AgentClient(socket) for host, socket in self._sockets.items()}
            with self._path.open("a", encoding="utf-8") as file:
                while not self._ended.wait(EVERY_S):
                    for host, agent in agents.items():
                        for line in self._news(host, agent):
                            file.write(line.model_dump_json() + "\n")
                    file.flush()
            for agent in agents.values():
                agent.close()
        except (AgentError, OSError) as error:
            _LOG.warning("the flows' levels are not followed any more: %s", error)

    def _news(self, host: int, agent: AgentClient) -> list[Sighting]:
        found, now_ns = [], time.monotonic_ns()
        for flow in agent.status()["flows"]:
            key = host, flow["flow"], flow["batch"]
            # A flow without a level has sent nothing yet.
            if flow["level"] is None or self._levels.get(key) == flow["level"]:
                continue
            self._levels[key] = flow["level"]
            found.append(
                Sighting(
                    time_ns=now_ns,
                    host=host,
                    flow=flow["flow"],
                    batch=flow["batch"],
                    number=flow["number"],
                    stage=flow["stage"],
                    total_bytes=flow["total_bytes"],
                    sent_bytes=flow["sent_bytes"],
                    slack_us=flow["slack_us"],
                    layers_to_go=flow["target_layer"] - flow["current_layer"],
                    level=flow["level"],
                )
            )
        return found


def read(path: Path) -> list[Sighting]:
    """Read the sightings at ``path``; none if there is no such file.

    Raises:
        pydantic.ValidationError: it holds something else.
        OSError: it cannot be read.
    """
    if not path.exists():
        return []
    return [Sighting.model_validate_json(line) for line in path.read_text("utf-8").splitlines()]
