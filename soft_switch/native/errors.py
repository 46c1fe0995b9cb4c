"""Why a pipeline is not run as machine code."""

from __future__ import annotations

from soft_switch.errors import SwitchError


class NativeError(SwitchError):
    """The pipeline cannot be machine code here; the message is the reason, and the way out where there is one."""


class CannotTranslateError(NativeError):
    """The program uses something that has no translation to C."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the program uses {what}, which is not translated to C")
