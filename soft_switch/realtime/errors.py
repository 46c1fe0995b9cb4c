"""Errors of the switch on interfaces."""

from __future__ import annotations

from soft_switch.errors import SwitchError


class InterfaceError(SwitchError):
    """An interface does not exist, is used twice, or this process may not open it."""
