"""Ending a process on SIGINT or SIGTERM, without a Python signal handler: the thread that forwards packets is busy."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_ENDING = frozenset((signal.SIGINT, signal.SIGTERM))


@contextlib.contextmanager
def stop_on_signal(stop: Callable[[], object]) -> Iterator[None]:
    """Call ``stop`` when SIGINT or SIGTERM arrives, instead of what the signal would do otherwise.

    ``stop`` runs in a separate thread. This thread and those started within the block never see the signals,
    so that none is lost between a check and a wait, and no system call is interrupted.
    """
    ended = threading.Event()

    def watch() -> None:
        while True:
            signal.sigwait(_ENDING)
            if ended.is_set():
                return
            stop()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        assert watcher.ident is not None
        signal.pthread_kill(watcher.ident, signal.SIGTERM)
        watcher.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
