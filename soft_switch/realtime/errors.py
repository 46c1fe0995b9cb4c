"""Why the switch cannot run on an interface, in words for a user."""

from __future__ import annotations

from soft_switch.errors import SwitchError


class InterfaceError(SwitchError):
    """An interface that does not exist, is used twice, or that this process may not open."""
