"""The program for sockets, which makes room for stamps in TCP's options: attached to a version-2 cgroup."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import netns

from host_agent.ebpf.bpf import SOCK_OPS, Map, Program, attach_to_cgroup, attached_to_cgroup, detach_from_cgroup
from host_agent.ebpf.errors import InterfaceError, KernelError
from host_agent.ebpf.layout import CONFIG, INDEX, decode_config

_MOUNTS = Path("/proc/self/mounts")
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
"""System calls of ``asm-generic/unistd.h``; Linux 5.2 or later."""
_CMD_CREATE = 6
_libc = ctypes.CDLL(None, use_errno=True)
_NO_NAMESPACE = (errno.ENOENT, errno.ESRCH, errno.EINVAL)
"""Entering fails so where a process ended meanwhile, or a name has no namespace; anything else hides one that lives."""
_SO_NETNS_COOKIE = 71
"""``asm-generic/socket.h``; Linux 5.14 or later."""


@contextlib.contextmanager
def opened(cgroup: str | None) -> Iterator[int]:
    """Provide a descriptor of a cgroup: that of a directory, or the root of the version-2 cgroups for None.

    Raises:
        InterfaceError: there is no such cgroup, or no version-2 cgroups.
    """
    try:
        if cgroup is not None or (cgroup := cgroup_root()) is not None:
            descriptor = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        else:
            descriptor = _unmounted()
    except OSError as error:
        what = "version-2 cgroups" if cgroup is None else f"the cgroup {cgroup}"
        raise InterfaceError(f"cannot use {what}: {error.strerror}; choose --cgroup, or use --carrier shim") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def cgroup_root() -> str | None:
    """Return the directory where version-2 cgroups are mounted, their root; None if they are not."""
    for line in _MOUNTS.read_text("utf-8").splitlines():
        _, directory, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            # The table escapes space, tab, line feed and backslash.
            return directory.encode().decode("unicode_escape")
    return None


def _unmounted() -> int:
    """Return a descriptor of the root where no directory shows it: ``ip netns exec`` hides what is below ``/sys``."""

    def call(number: int, *arguments: object) -> int:
        done = int(_libc.syscall(number, *arguments))
        if done < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return done

    context = call(_FSOPEN, b"cgroup2", 0)
    try:
        call(_FSCONFIG, context, _CMD_CREATE, None, None, 0)
        mount = call(_FSMOUNT, context, 0, 0)
    finally:
        os.close(context)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mount)
    finally:
        os.close(mount)


def namespace_cookie() -> int:
    """Return the kernel's number of this network namespace; 0 where it does not tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return 0


def attach(program: Program, cgroup: str | None) -> None:
    """Run ``program`` for the sockets of ``cgroup``.

    Raises:
        InterfaceError: there is no such cgroup.
        KernelError: the kernel refuses.
    """
    with opened(cgroup) as descriptor:
        attach_to_cgroup(program, descriptor)


def is_attached(program: int, cgroup: str | None) -> bool:
    """Return whether the program with this id is attached to ``cgroup``."""
    try:
        with opened(cgroup) as descriptor:
            return program in attached_to_cgroup(descriptor)
    except InterfaceError:
        return False


def detach(number: int, cgroup: str | None) -> None:
    """Detach the program with this id; does nothing where it or the cgroup no longer exists."""
    with contextlib.suppress(InterfaceError, KernelError), opened(cgroup) as descriptor:
        program = Program.of_id(number)
        try:
            detach_from_cgroup(program, descriptor)
        finally:
            program.close()


def left_behind(interface: int) -> int:
    """Return the id of an agent's program at the root, for the interface with this index; 0 for none."""
    home = namespace_cookie()
    with contextlib.suppress(InterfaceError, KernelError), opened(None) as descriptor:
        for number in attached_to_cgroup(descriptor):
            program = Program.of_id(number)
            try:
                if program.info().name == SOCK_OPS and _place(program) == (home, interface):
                    return number
            finally:
                program.close()
    return 0


def clean() -> list[str]:
    """Detach the agents' programs at the root whose network namespace no longer exists.

    An agent that is killed leaves its program there, and nothing else removes it: it makes room for stamps that nobody
    writes.

    Returns:
        What was detached, by program id.
    """
    removed = []
    with contextlib.suppress(InterfaceError, KernelError), opened(None) as descriptor:
        # Before the namespaces, so that the program of an agent that starts meanwhile is not among them.
        attached = attached_to_cgroup(descriptor)
        living = _living_namespaces()
        for number in attached if living is not None else ():
            with contextlib.suppress(KernelError), contextlib.closing(Program.of_id(number)) as program:
                home, _ = _place(program) if program.info().name == SOCK_OPS else (0, 0)
                if home and living is not None and home not in living:
                    detach_from_cgroup(program, descriptor)
                    removed.append(f"socket program {number}")
    return removed


def _living_namespaces() -> set[int] | None:
    """Return the cookies of all network namespaces that a process is in or a name refers to; None if that is not known.

    Only a process that may enter all of them knows.
    """
    cookies: set[int] = set()
    refused: list[OSError] = []

    def collect() -> None:
        for path in {_inode(path): path for path in _namespace_files()}.values():
            try:
                with path.open("rb") as file:
                    netns.setns(file.fileno())
            except OSError as error:
                if error.errno in _NO_NAMESPACE:
                    continue
                refused.append(error)
                return
            cookies.add(namespace_cookie())

    # A namespace is a thread's, and this one ends in another than it began in.
    entering = threading.Thread(target=collect)
    entering.start()
    entering.join()
    return None if refused or 0 in cookies else cookies


def _namespace_files() -> Iterator[Path]:
    yield from Path("/proc").glob("[0-9]*/ns/net")
    yield from Path("/run/netns").glob("*")


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _place(program: Program) -> tuple[int, int]:
    """Return the network namespace and the interface that a program's configuration names."""
    for number in program.info().maps:
        with contextlib.closing(Map.of_id(number)) as held:
            # Another version's may be laid out in another way.
            if (held.spec.name, held.spec.value_bytes) == ("configs", CONFIG.size):
                config = decode_config(held.get(INDEX.pack(0)) or bytes(CONFIG.size))
                return config.namespace, config.interface
    return 0, 0
