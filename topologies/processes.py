"""Processes of ``mfs`` beside this one: started, waited for, and ended with it. Standard library only, for Mininet."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from topologies.errors import TopologyError

ROOT = Path(__file__).resolve().parents[1]
START_S = 30.0
END_S = 10.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Process:
    """A child that was started; :meth:`wait_ready` waits for it. Started by a thread, it ends with that thread."""

    def __init__(self, command: Sequence[str], ready: Callable[[str], bool], namespace: str | None = None) -> None:
        """Run ``command``, in ``namespace`` if one is named; it is ``ready`` by what it has said."""
        self._command = command
        self._ready = ready
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        # Of a session of its own: Ctrl-C at Mininet's prompt is not for the switch.
        self._child = subprocess.Popen(
            [*(("ip", "netns", "exec", namespace) if namespace else ()), *command],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def wait_ready(self) -> Process:
        """This process, once it is ready.

        Raises:
            TopologyError: it ended, or said nothing of the kind in time; with its last words. It is stopped then.
        """
        deadline = time.monotonic() + START_S
        while not self._ready(self.output()):
            if self._child.poll() is not None or time.monotonic() > deadline:
                words = self.output().strip().splitlines() or ["it said nothing"]
                self.stop()
                raise TopologyError(f"{' '.join(self._command[:3])} did not start: {words[-1]}")
            time.sleep(0.02)
        return self

    def output(self) -> str:
        """All that it said."""
        with open(f"/proc/self/fd/{self._log.fileno()}", encoding="utf-8", errors="replace") as log:
            return log.read()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.poll() is None

    def kill(self) -> None:
        """End it as a crash would."""
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        """End it, and forget what it said; a second call does nothing."""
        self._end()
        self._log.close()

    def finish(self) -> str:
        """End it; all that it said."""
        self._end()
        return self.output()

    def _end(self) -> None:
        """SIGTERM, or SIGKILL where that takes too long."""
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
    """The command ``mfs``: of this checkout's environment, of this Python's, or on the PATH.

    Raises:
        TopologyError: there is none.
    """
    for folder in (ROOT / ".venv" / "bin", Path(sys.executable).parent):
        if (folder / "mfs").exists():
            return [str(folder / "mfs")]
    found = shutil.which("mfs")
    if found is None:
        raise TopologyError("there is no command mfs; run make demo once, or pip install 'mfs-switch[net]'")
    return [found]


def free_port() -> int:
    """A TCP port of the loopback interface at which nobody listens yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def free_address() -> str:
    """The same, as an address."""
    return f"127.0.0.1:{free_port()}"


def listening(address: str) -> bool:
    """Whether somebody listens at ``address``, as HOST:PORT: bmv2 does not say when it does."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0


def _end_with_parent() -> None:
    # prctl(2): also when the parent is killed.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
