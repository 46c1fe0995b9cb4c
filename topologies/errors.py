"""Errors of topologies."""

from __future__ import annotations

from host_agent.protocol.errors import MfsError


class TopologyError(MfsError):
    """A topology cannot be described or set up: unknown name, missing rights, name in use, or refused by the kernel."""
