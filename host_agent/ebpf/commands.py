"""``ip`` and ``tc`` of iproute2, which speak netlink for the agent, and what they answer."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from host_agent.ebpf.errors import InterfaceError, KernelError

TIMEOUT_S = 20


def call(*words: str) -> str:
    """Run ``words``, the first being ``ip`` or ``tc``, and give what it prints.

    Raises:
        KernelError: the command is not installed.
        InterfaceError: it failed; the message is the command's own.
    """
    # Daemons of systemd may have no sbin on their PATH.
    command = shutil.which(words[0]) or shutil.which(words[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    if command is None:
        raise KernelError(f"there is no {words[0]!r} on the PATH; install iproute2")
    try:
        done = subprocess.run([command, *words[1:]], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise InterfaceError(f"`{' '.join(words)}` did not end within {TIMEOUT_S} s") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise InterfaceError(f"`{' '.join(words)}` failed: {said or f'exit status {done.returncode}'}")
    return done.stdout


def succeeds(*words: str) -> bool:
    """Run ``words``; whether it worked."""
    try:
        call(*words)
    except InterfaceError:
        return False
    return True


def listed(*words: str) -> list[dict[str, Any]]:
    """Run ``words``, which print JSON, and give the list that they print.

    Raises:
        KernelError, InterfaceError: as for :func:`call`.
    """
    text = call(*words).strip()
    found: list[dict[str, Any]] = json.loads(text) if text else []
    return [item for item in found if item]
