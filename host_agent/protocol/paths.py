"""Default paths of the host agent on a server."""

from __future__ import annotations

from pathlib import Path

RUN_DIRECTORY = Path("/run/mfs")
"""State of interfaces and the last policies; /run is empty after a reboot, as the interfaces are."""
AGENT_SOCKET = RUN_DIRECTORY / "agent.sock"
"""Unix socket at which the agent serves engines."""
