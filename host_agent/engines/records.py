"""A line of JSON for each transfer that ends: what was sent, when, and whether it was stamped."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Record:
    """One transfer, as one of its ends saw it. Times are on CLOCK_MONOTONIC in nanoseconds, 0 if not reached.

    Attributes:
        role: ``push``, ``receive``, ``fetch`` or ``serve`` (a store answers a fetch).
        request: id of the request in the engine.
        transfer: name of the push; empty for stores.
        stage: of the flow: ``P2D`` or ``KV_REUSE``.
        peer: the other end.
        batch: as stamped.
        deadline_ns: as given to the agent.
        payload_bytes: KV moved.
        blocks, layers: of the transfer; blocks that the receiver already had are not counted.
        stamped: whether the agent had the flow.
        opened_ns: the request's first layer was queued, or the receiver began to wait.
        began_ns: the peer accepted.
        ended_ns: the receiver had everything, or the transfer failed.
        error: why it failed; empty if it did not.
    """

    role: str
    request: str
    transfer: str
    stage: str
    peer: str
    batch: int
    deadline_ns: int
    payload_bytes: int
    blocks: int
    layers: int
    stamped: bool
    opened_ns: int
    began_ns: int
    ended_ns: int
    error: str = ""


class Records:
    """Appends records to a file. Thread-safe."""

    def __init__(self, path: str | None) -> None:
        """Set the file; None for none."""
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        """Append a record."""
        if self._path is not None:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record)) + "\n")
