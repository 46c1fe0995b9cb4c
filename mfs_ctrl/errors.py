"""Errors of the controller. Their messages are meant for users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from host_agent.protocol.errors import MfsError


class ControlError(MfsError):
    """Base of all errors of the controller."""


class EntryError(ControlError):
    """An entry does not match the program's P4Info; the message names the entry and what the P4Info has."""


class DesiredStateError(ControlError):
    """Topology, policy and parameters contradict one another or do not fit the switch's tables."""


class ConfigError(ControlError):
    """The file that describes a switch is invalid; the message lists each mistake with its place."""


class PolicyError(ControlError, ValueError):
    """A policy, or the file that describes it, cannot be used; the message names the place in it."""


class TofinoError(ControlError):
    """The files of a Tofino program are invalid, or the switch's BF Runtime service refuses a request."""


class SessionError(ControlError):
    """Base of errors between controller and switch; the message names the switch's address."""


class SwitchUnreachableError(SessionError):
    """Nothing answers at the address, or the connection was lost. Connecting again may help."""


class NotPrimaryError(SessionError):
    """Another controller with a higher election id is primary: this one can read but not write."""


class PipelineError(SessionError):
    """The switch has no program, or refused to load one."""


class ProgramInUseError(PipelineError):
    """The switch runs another program, which is not replaced unasked."""

    def __init__(self, address: str, held: str, wanted: str) -> None:
        super().__init__(
            f"the switch at {address} runs {held}, not {wanted}; check the address, or give --replace to load {wanted} "
            "and delete all entries of the switch (--check shows what that changes)"
        )
        self._arguments = (address, held, wanted)

    def __reduce__(self) -> tuple[type[ProgramInUseError], tuple[str, ...]]:
        """Pickle the arguments instead of the message, so that a worker process can pass the error to its parent."""
        return ProgramInUseError, self._arguments


class RequestRefusedError(SessionError):
    """The switch refused a request for a reason that no other class covers."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused update of a batch: a description of the update, the name of the canonical code, the switch's reason."""

    entity: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.entity}: {self.code}, {self.reason or 'no reason given'}"


class WriteFailedError(SessionError):
    """The switch refused some updates of a batch; those that are not in ``refusals`` have been applied."""

    def __init__(self, address: str, refusals: Sequence[Refusal], total: int) -> None:
        self._arguments = (address, tuple(refusals), total)
        shown = "; ".join(str(refusal) for refusal in refusals[:3])
        more = f"; and {len(refusals) - 3} more" if len(refusals) > 3 else ""
        super().__init__(f"the switch at {address} refused {len(refusals)} of {total} updates: {shown}{more}")
        self.refusals = tuple(refusals)

    def __reduce__(self) -> tuple[type[WriteFailedError], tuple[object, ...]]:
        """Pickle the arguments instead of the message, so that a worker process can pass the error to its parent."""
        return WriteFailedError, self._arguments
