"""Backup of an interface's settings, in a state file that one process locks at a time."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from host_agent.ebpf.errors import InterfaceError


@dataclass(slots=True)
class InterfaceBackup:
    """Settings of an interface before the agent changed them, and its programs: everything that a restore needs.

    Attributes:
        interface: name of the interface.
        options: options that the agent was started with.
        egress, ingress: ids of the programs; 0 for none.
        clsact: whether the interface had this qdisc before.
        hook: hook of the ingress program: ``xdp``, ``filter`` (for all packets), ``strip`` (for those with a shim), or
            ``off`` without one.
        order: whether the interface has the traffic classes.
        gso_max_segs: earlier value; None: not changed.
        features: offloads that were turned off.
        routes: earlier routes that were changed.
        mtu6: earlier MTU for IPv6 in bytes; None: not changed.
        sock_ops: id of the program for sockets; 0 for none.
        cgroup: directory of the cgroup that has it; None for the root.
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
    sock_ops: int = 0
    cgroup: str | None = None


def interfaces(directory: Path) -> list[str]:
    """Return the interfaces of this network namespace that have a state file in ``directory``."""
    return sorted(path.name.removesuffix(_suffix()) for path in directory.glob(f"*{_suffix()}"))


def _suffix() -> str:
    """Return the suffix of this network namespace's state files; another may have an interface of the same name."""
    return f"-{os.stat('/proc/thread-self/ns/net').st_ino}.json"


class StateFile:
    """The state file of one interface."""

    def __init__(self, directory: Path, interface: str) -> None:
        """Create the file if needed, and lock it.

        Raises:
            InterfaceError: another agent has the interface, or the file cannot be written.
        """
        self._path = directory / f"{interface.replace(os.sep, '_')}{_suffix()}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115
        except PermissionError:
            raise InterfaceError(
                f"cannot write the state of {interface} to {directory}: not permitted; run as root"
            ) from None
        except OSError as error:
            raise InterfaceError(
                f"cannot write the state of {interface}: {error}; choose another --state-dir"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InterfaceError(f"an agent is running on {interface}; stop it first (SIGTERM)") from None

    def read(self) -> InterfaceBackup | None:
        """Return the backup of an agent that ended without restoring the interface, or None.

        Raises:
            InterfaceError: the file is broken.
        """
        self._file.seek(0)
        text = self._file.read()
        if not text:
            return None
        try:
            return InterfaceBackup(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise InterfaceError(f"{self._path} is broken ({error}); remove it, then `mfs agent detach`") from None

    def write(self, backup: InterfaceBackup) -> None:
        """Store ``backup``."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(asdict(backup)))
        self._file.flush()

    def put(self, backup: InterfaceBackup | None) -> None:
        """Store ``backup``; None says that there is nothing to restore."""
        if backup is None:
            self.remove()
        else:
            self.write(backup)

    def remove(self) -> None:
        """Delete the file: there is nothing to restore."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock the file; an empty one is deleted."""
        if not self._file.closed:
            if os.fstat(self._file.fileno()).st_size == 0:
                self.remove()
            self._file.close()
