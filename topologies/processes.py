"""Child processes of ``mfs``: started, awaited, and ended with this process. Standard library only, for Mininet."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from topologies.errors import TopologyError

ROOT = Path(__file__).resolve().parents[1]
START_S = 30.0
END_S = 10.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Process:
    """A child process. It ends with the thread that started it; :meth:`wait_ready` waits until it is ready."""

    def __init__(
        self,
        command: Sequence[str],
        ready: Callable[[str], bool],
        namespace: str | None = None,
        log: Path | None = None,
    ) -> None:
        """Run ``command``.

        Args:
            command: program and arguments.
            ready: judges by its output whether it is ready.
            namespace: network namespace to run it in; None for this one.
            log: file for its output; None for a temporary one.
        """
        self._command = command
        self._ready = ready
        self._log: IO[str] = tempfile.TemporaryFile("w+") if log is None else log.open("w+")  # noqa: SIM115
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        # In a separate session: Ctrl-C at Mininet's prompt must not reach the switch.
        self._child = subprocess.Popen(
            [*(("ip", "netns", "exec", namespace) if namespace else ()), *command],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def wait_ready(self) -> Process:
        """Wait until the process is ready, and return it.

        Raises:
            TopologyError: the process ended, or is not ready within 30 seconds; the message has the last line of its
                output. The process is stopped.
        """
        deadline = time.monotonic() + START_S
        while not self._ready(self.output()):
            if self._child.poll() is not None or time.monotonic() > deadline:
                words = self.output().strip().splitlines() or ["no output"]
                self.stop()
                raise TopologyError(f"{' '.join(self._command[:3])} did not start: {words[-1]}")
            time.sleep(0.02)
        return self

    def output(self) -> str:
        """Return the output so far, stdout and stderr."""
        with open(f"/proc/self/fd/{self._log.fileno()}", encoding="utf-8", errors="replace") as log:
            return log.read()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._child.poll() is None

    def kill(self) -> None:
        """Kill the process."""
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        """End the process and discard its output; a second call does nothing."""
        self._end()
        self._log.close()

    def finish(self) -> str:
        """End the process and return its output."""
        self._end()
        return self.output()

    def _end(self) -> None:
        """Send SIGTERM, and SIGKILL if the process does not end in time."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(END_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    def __enter__(self) -> Process:
        return self.wait_ready()

    def __exit__(self, *_: object) -> None:
        self.stop()


def mfs() -> list[str]:
    """Return the command ``mfs``: from this checkout's environment, from this Python's, or from the PATH.

    Raises:
        TopologyError: there is no such command.
    """
    for folder in (ROOT / ".venv" / "bin", Path(sys.executable).parent):
        if (folder / "mfs").exists():
            return [str(folder / "mfs")]
    found = shutil.which("mfs")
    if found is None:
        raise TopologyError("the command mfs is not installed; run make demo once, or pip install '.[net]'")
    return [found]


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def free_address() -> str:
    """Return a free address of the loopback interface, as HOST:PORT."""
    return f"127.0.0.1:{free_port()}"


def listening(address: str) -> bool:
    """Return whether a server listens at ``address``, HOST:PORT. Needed for bmv2, which does not report it."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0


def _end_with_parent() -> None:
    # prctl(2); this also works when the parent is killed.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Make SIGTERM raise SystemExit, so that context managers clean up. Outside the main thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
