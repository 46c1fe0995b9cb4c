"""``mfs`` in separate processes: shared by the tests of its commands."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

COMMAND = [sys.executable, "-c", "from mfs_ctrl.cli import main; main()"]
SECONDS = 60


class Process:
    """A running ``mfs``. Output and log are read line by line, for no longer than ``SECONDS`` in all."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        self._watchdog = threading.Timer(SECONDS, self.process.kill)
        self._watchdog.start()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def log_line(self) -> str:
        """The message of the next line of the log, which is on stderr."""
        assert self.process.stderr is not None
        return message(self.process.stderr.readline())

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; exit status, and what was left on stdout and stderr."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.send_signal(number)
        # Not by communicate(), which would lose what readline() has read ahead.
        out, errors = self.process.stdout.read(), self.process.stderr.read()
        return self.process.wait(), out, errors

    def close(self) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[Process]:
    process = Process(*arguments)
    try:
        yield process
    finally:
        process.close()


def finished(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)


def message(line: str) -> str:
    """The message of a log line, without time, level and logger."""
    return line.rstrip("\n").partition(": ")[2]


def messages(log: str) -> list[str]:
    """The message of each line of a log."""
    return [message(line) for line in log.splitlines()]


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]
