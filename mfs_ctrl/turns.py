"""Turns at the work that follows an election: after the elections of all switches, and a few switches at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

AT_ONCE = 2
"""Switches that are read at a time. The work is nearly all Python's, so that more would take as long, and keep the
threads waiting that answer switches."""
QUIET_S = 0.1
"""Seconds without news of an election after which all are taken to be over."""
QUIET_MAX_S = 1.0
"""Longest wait for that: a switch whose clients come and go all the time delays no other."""
PATIENCE_S = 10.0
"""Longest wait for a turn: longer than a switch has for an answer, so that one that does not answer delays no other."""
_STEP_S = 0.05


class Turns:
    """Turns of several threads. All methods may be called from any thread.

    Args:
        clock: seconds from any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._news_s = 0.0

    def news(self) -> None:
        """Note that a switch has told who is primary."""
        self._news_s = self._clock()

    @contextlib.contextmanager
    def taken(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait for a turn, which lasts as long as the block; do not wait any longer once ``cancelled`` returns True."""
        began_s = self._clock()

        def waits(limit_s: float) -> bool:
            return not cancelled() and self._clock() < began_s + limit_s

        while waits(QUIET_MAX_S) and self._clock() < self._news_s + QUIET_S:
            time.sleep(_STEP_S)
        held = False
        while not held and waits(PATIENCE_S):
            held = self._free.acquire(timeout=_STEP_S)
        try:
            yield
        finally:
            if held:
                self._free.release()
