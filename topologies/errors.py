"""Why a topology cannot be set up on this machine, in words for a user."""

from __future__ import annotations

from host_agent.protocol.errors import MfsError


class TopologyError(MfsError):
    """Missing rights, a name that is taken or too long, or a kernel that refuses something."""
