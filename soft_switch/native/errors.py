"""Errors of machine code."""

from __future__ import annotations

from soft_switch.errors import SwitchError


class NativeError(SwitchError):
    """The pipeline cannot run as machine code here; the message gives the reason and the way out, if there is one."""


class CannotTranslateError(NativeError):
    """The program uses a construct that has no translation to C."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the program uses {what}, which is not translated to C")
