"""Settings of the kernel's TCP, of this network namespace, that decide what a promotion does to a flow."""

from __future__ import annotations

from pathlib import Path

TIME_STAMPS = Path("/proc/sys/net/ipv4/tcp_timestamps")


def time_stamps() -> bool:
    """Return whether new TCP connections use time stamps (RFC 7323).

    With them a receiver drops a packet that is older than the last one in order (PAWS, "protection against wrapped
    sequences"). When a flow is promoted, what waits at its old level arrives after what was sent later, and is dropped.
    """
    try:
        return TIME_STAMPS.read_text("ascii").strip() != "0"
    except OSError:
        return False
