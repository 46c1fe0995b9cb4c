"""Queue pairs that the kernel knows, as ``rdma resource show qp`` of iproute2 prints them.

Queue pairs that a library makes without the kernel (UCX by DEVX) are not among them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from host_agent.protocol.errors import AgentError

COMMAND = ("rdma", "-j", "resource", "show", "qp")


@dataclass(frozen=True, slots=True)
class KernelQueuePair:
    """A queue pair: ``remote`` is the number in the packets that it sends, None while it is not connected."""

    device: str
    local: int
    remote: int | None
    kind: str
    state: str
    process: int
    command: str


def read() -> list[KernelQueuePair]:
    """Return the queue pairs of this host.

    Raises:
        AgentError: there is no ``rdma`` tool, or the kernel has no RDMA.
    """
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError(f"cannot run {COMMAND[0]} (iproute2): {error}") from None
    if done.returncode:
        reason = done.stderr.strip() or f"exit status {done.returncode}"
        raise AgentError(f"{' '.join(COMMAND)}: {reason}; does this host have an RDMA device?")
    return parse(done.stdout)


def parse(text: str) -> list[KernelQueuePair]:
    """Read what :data:`COMMAND` prints.

    Raises:
        AgentError: it is not JSON.
    """
    try:
        found = json.loads(text or "[]")
    except ValueError as error:
        raise AgentError(f"{' '.join(COMMAND)} does not print JSON: {error}") from None
    return [
        KernelQueuePair(
            str(entry.get("ifname", "")),
            entry["lqpn"],
            entry.get("rqpn") or None,
            str(entry.get("type", "")),
            str(entry.get("state", "")),
            int(entry.get("pid", 0)),
            str(entry.get("comm", "")),
        )
        for entry in _entries(found)
    ]


def describe(pairs: Sequence[KernelQueuePair]) -> str:
    """Return a line for each queue pair."""
    lines = [
        f"{pair.device:12} {pair.local:>10} {'-' if pair.remote is None else pair.remote:>10} {pair.kind:>4} "
        f"{pair.state:>5} {pair.process:>8} {pair.command}"
        for pair in pairs
    ]
    return "\n".join(
        [f"{'device':12} {'local':>10} {'remote':>10} {'type':>4} {'state':>5} {'process':>8} command", *lines]
    )


def _entries(found: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects with a queue pair, which versions of the tool nest differently."""
    if isinstance(found, list):
        for item in found:
            yield from _entries(item)
    elif isinstance(found, dict) and isinstance(found.get("lqpn"), int):
        yield found
