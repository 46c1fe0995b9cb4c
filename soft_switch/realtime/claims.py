"""Which process has an interface: two switches on one would forward each frame twice."""

from __future__ import annotations

import socket


def claim(interface: str) -> socket.socket | None:
    """Return a socket that claims the interface for this process, or None if another process has it.

    Abstract socket names (unix(7)) belong to a network namespace, as interfaces do, and vanish with their owner.
    """
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claimed.bind(f"\0mfs-switch/{interface}")
    except OSError:
        claimed.close()
        return None
    return claimed
