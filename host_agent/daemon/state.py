"""What an interface was like before the agent, in a file that one process holds at a time."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from host_agent.ebpf.errors import InterfaceError

DIRECTORY = Path("/run/mfs")


@dataclass(slots=True)
class Before:
    """What the interface was like, what was done to it, and which programs are on it: all that :func:`restore` needs.

    Attributes:
        options: those that the agent was started with.
        egress, ingress: ids of the programs; 0 for one that is not there.
        clsact: whether the qdisc was there already.
        hook: the one of the ingress program: ``xdp``, ``filter`` or, without one, ``off``.
        order: whether the classes are put on the interface.
        gso_max_segs: of the interface; None: left alone.
        features: offloads that were turned off.
        routes, mtu6: as they were; None: left alone.
    """

    interface: str
    options: dict[str, Any]
    egress: int = 0
    ingress: int = 0
    clsact: bool = False
    hook: str = "off"
    order: bool = False
    gso_max_segs: int | None = None
    features: list[str] = field(default_factory=list)
    routes: list[dict[str, Any]] = field(default_factory=list)
    mtu6: int | None = None


def interfaces(directory: Path) -> list[str]:
    """The interfaces of this network namespace that have a state file in ``directory``."""
    return sorted(path.name.removesuffix(_ending()) for path in directory.glob(f"*{_ending()}"))


def _ending() -> str:
    """Of the file names of this network namespace: an interface's name may come again in another one."""
    return f"-{os.stat('/proc/thread-self/ns/net').st_ino}.json"


class StateFile:
    """The state file of one interface."""

    def __init__(self, directory: Path, interface: str) -> None:
        """Take it.

        Raises:
            InterfaceError: another agent has the interface, or the file cannot be written.
        """
        self._path = directory / f"{interface.replace(os.sep, '_')}{_ending()}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115
        except PermissionError:
            raise InterfaceError(
                f"cannot keep the state of {interface} in {directory}: not permitted; run as root"
            ) from None
        except OSError as error:
            raise InterfaceError(f"cannot keep the state of {interface}: {error}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InterfaceError(f"an agent is running on {interface}; end it first (SIGTERM)") from None

    def read(self) -> Before | None:
        """What an agent left that ended without cleaning up, or None.

        Raises:
            InterfaceError: the file is broken.
        """
        self._file.seek(0)
        text = self._file.read()
        if not text:
            return None
        try:
            return Before(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise InterfaceError(f"{self._path} is broken ({error}); remove it, then `mfs agent detach`") from None

    def write(self, before: Before) -> None:
        """Keep ``before``."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(asdict(before)))
        self._file.flush()

    def remove(self) -> None:
        """Nothing is left to restore."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        if not self._file.closed:
            if os.fstat(self._file.fileno()).st_size == 0:
                self.remove()
            self._file.close()
