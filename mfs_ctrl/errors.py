"""Errors of the controller, each a subclass of :class:`ControlError` with a message fit for a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from host_agent.protocol.errors import MfsError


class ControlError(MfsError):
    """Base of every error that the controller raises on purpose."""


class EntryError(ControlError):
    """An entry does not fit the program's P4Info: the message names both and what the P4Info has."""


class DesiredStateError(ControlError):
    """Topology, policy and parameters do not go together, or do not fit the switch's tables."""


class ConfigError(ControlError):
    """A file that describes a switch cannot be used; the message names the place in it."""


class PolicyError(ControlError, ValueError):
    """A policy, or the file that describes it, cannot be used; the message names the place in it."""


class TofinoError(ControlError):
    """A Tofino program's files, or its switch's BF Runtime service, are not what they must be."""


class SessionError(ControlError):
    """Base of what goes wrong between controller and switch; the message names the switch's address."""


class SwitchUnreachableError(SessionError):
    """Nobody answers at the address, or the connection was lost. Connecting again may help."""


class NotPrimaryError(SessionError):
    """Another controller with a higher election id is primary: this one may read, not write."""


class PipelineError(SessionError):
    """The switch has no pipeline, or refused the one that it was given."""


class RequestRefusedError(SessionError):
    """The switch answered a request with an error that no other class stands for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One update of a batch that the switch refused: the entity in words, the canonical code's name, the reason."""

    entity: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.entity}: {self.code}, {self.reason or 'no reason given'}"


class WriteFailedError(SessionError):
    """The switch refused some updates of a batch; those not among ``refusals`` have been applied."""

    def __init__(self, address: str, refusals: Sequence[Refusal], total: int) -> None:
        self._arguments = (address, tuple(refusals), total)
        shown = "; ".join(str(refusal) for refusal in refusals[:3])
        more = f"; and {len(refusals) - 3} more" if len(refusals) > 3 else ""
        super().__init__(f"the switch at {address} refused {len(refusals)} of {total} updates: {shown}{more}")
        self.refusals = tuple(refusals)

    def __reduce__(self) -> tuple[type[WriteFailedError], tuple[object, ...]]:
        """Pickle by the arguments, not by the message, so that the error survives the way out of a worker process."""
        return WriteFailedError, self._arguments
