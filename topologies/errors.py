"""Why a topology cannot be set up on this machine, in words for a user."""

from __future__ import annotations


class TopologyError(Exception):
    """Missing rights, a name that is taken or too long, or a kernel that refuses something."""
