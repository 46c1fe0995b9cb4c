"""Runs what must wait for a GPU, in order, without making the engine's step wait."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

_LOG = logging.getLogger(__name__)

POLL_S = 50e-6


class Event(Protocol):
    """As ``torch.cuda.Event``."""

    def query(self) -> bool:
        """Return whether everything recorded before the event is done."""
        ...


class Gate:
    """Calls in the order in which they were submitted, each after its event. One thread polls the events."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Event, Callable[[], None]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="mfs-gate", daemon=True).start()

    def submit(self, event: Event, call: Callable[[], None]) -> None:
        """Call ``call`` after ``event`` and after all earlier calls. Returns at once."""
        self._calls.put((event, call))

    def close(self) -> None:
        """End the thread after the calls that are submitted."""
        self._calls.put(None)

    def _run(self) -> None:
        while (entry := self._calls.get()) is not None:
            event, call = entry
            while not event.query():
                time.sleep(POLL_S)
            try:
                call()
            except Exception:
                # One transfer must not stop the others; its receiver notices that nothing comes.
                _LOG.exception("a layer's KV could not be handed on")
