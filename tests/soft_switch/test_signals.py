"""Covers ending on a signal, in separate processes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, threading
from soft_switch.signals import stop_on_signal

stopped = threading.Event()
with stop_on_signal(stopped.set):
    other = threading.Thread(target=stopped.wait)
    other.start()
    os.kill(os.getpid(), {number})
    assert stopped.wait(10)
    other.join()
print("stopped")
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "the signals are blocked for good"
try:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(10)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_block_and_has_its_usual_effect_afterwards(number: signal.Signals) -> None:
    script = SCRIPT.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\ninterrupted\n", "")


def test_a_block_that_ends_by_itself_leaves_nothing_behind() -> None:
    script = (
        "import threading; from soft_switch.signals import stop_on_signal\n"
        "with stop_on_signal(lambda: print('called')): pass\n"
        "print(threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "1\n"
