"""What the controller needs of a session with a switch. P4Runtime and BF Runtime are the two ways to have one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mfs_ctrl.counters import Count
from mfs_ctrl.p4rt.entries import Entity
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.updates import Update
from p4src.artifact import Artifact


class Switch(Protocol):
    """The part of a session that the writer uses."""

    def read_state(self, index: P4InfoIndex) -> Iterable[Entity]:
        """Return the entities that are set."""

    def write(self, updates: Sequence[Update], index: P4InfoIndex) -> int:
        """Apply independent updates; return the number of requests."""

    def holds(self, present: Entity, wanted: Entity) -> bool:
        """Return whether ``present``, as read, is what the switch makes of ``wanted``; some round rates."""


class Session(Switch, Protocol):
    """A session with one switch, of which several clients may have one; one of them is primary and may write."""

    device_id: int

    @property
    def primary(self) -> bool:
        """Whether this client may write."""

    def connect(self) -> bool:
        """Open the session, or reopen it; return whether this client is primary.

        Raises:
            SessionError: the switch cannot be reached, or refuses the session.
        """

    def claim(self) -> bool:
        """Become primary if the switch has none; return whether this client is primary.

        Raises:
            SessionError: the switch does not answer, or refuses.
        """

    def close(self) -> None:
        """End the session, if there is one."""

    def ensure_pipeline(self, artifact: Artifact, replace: bool = False) -> tuple[P4InfoIndex, str]:
        """Make the switch run the program; return the program's index, and as text what was loaded, if anything.

        Raises:
            PipelineError: the switch does not run the program, and cannot be made to, or not without ``replace``.
        """

    def port_rates(self) -> Mapping[int, int]:
        """Return the rate of each port in bits per second, from switches that tell it; else nothing."""

    def read_counters(
        self, index: P4InfoIndex, wanted: Mapping[str, Iterable[int] | None]
    ) -> dict[str, dict[int, Count]]:
        """Return counter cells by counter name and index: those that ``wanted`` names, or all where it has None."""

    def stream_errors(self) -> list[str]:
        """Return the errors that the switch has reported since the last call.

        Raises:
            SessionError: the session has ended.
        """
