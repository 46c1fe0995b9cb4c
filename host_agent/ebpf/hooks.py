"""What the agent changes on an interface, and how it takes all of it back, be it in another process after a crash.

Before the first change, what there was is written to a state file, which is locked as long as the agent lives.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from host_agent.ebpf import offload, order
from host_agent.ebpf.bpf import Program, Programs
from host_agent.ebpf.commands import call, listed, succeeds
from host_agent.ebpf.errors import InterfaceError, KernelError
from host_agent.stamp import STAMP_BYTES

ETHERNET_BYTES = 14
_PREFERENCE = "49000"
"""After the filters of others: those should see packets as the host sends them."""
_XDP_WORDS = {"generic": "xdpgeneric", "native": "xdpdrv"}
_LAZY_UNMOUNT = 2
_ROUTE_FLAGS = {"linkdown", "dead", "offload", "trap", "rt_offload"}

XDP_MODES = ("generic", "native", "off")


@dataclass(frozen=True, slots=True)
class Options:
    """How to use an interface.

    Attributes:
        interface: its name.
        rate_bps: of the link, in bits on the wire per second; None takes the interface's word for it.
        link_mtu: longest payload of an Ethernet frame that the link takes, in bytes, shim included; None: the
            interface's MTU. Where it leaves no room for the shim, routes get a smaller MTU.
        order: whether the eight classes are put on the interface.
        xdp: how stamps are taken off what comes in: one of :data:`XDP_MODES`.
        keep_checksum: leave transmit checksum offload on: for interfaces that find the checksum by its offset.
    """

    interface: str
    rate_bps: int | None = None
    link_mtu: int | None = None
    order: bool = True
    xdp: str = "generic"
    keep_checksum: bool = False


@dataclass(slots=True)
class Before:
    """What the interface was like; everything that :func:`restore` needs."""

    interface: str
    pid: int
    clsact: bool = False
    order: bool = False
    xdp: str = "off"
    gso_max_segs: int = 0
    checksum: bool = False
    routes: list[list[str]] = field(default_factory=list)
    mtu6: int | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """An interface in use: the longest frame that may leave, in bytes, and the rate of the link, in bits per second."""

    max_frame: int
    rate_bps: int


def link(interface: str) -> dict[str, Any]:
    """The interface as ``ip`` describes it.

    Raises:
        InterfaceError: there is none of that name, or it is no Ethernet.
    """
    try:
        found = listed("ip", "-j", "-d", "link", "show", "dev", interface)[0]
    except (InterfaceError, IndexError):
        raise InterfaceError(f"there is no interface {interface!r}; `ip link` lists those that are") from None
    if found.get("link_type") != "ether":
        raise InterfaceError(f"{interface} is not an Ethernet interface but {found.get('link_type')}")
    return found


def link_rate_bps(interface: str) -> int | None:
    """What the interface says its link does, in bits per second; None if it does not."""
    try:
        megabits = int(Path(f"/sys/class/net/{interface}/speed").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return megabits * 1_000_000 if megabits > 0 else None


def state_path(directory: Path, interface: str) -> Path:
    """The state file of an interface; names may come again in another network namespace."""
    return directory / f"{interface}-{os.stat('/proc/self/ns/net').st_ino}.json"


class StateFile:
    """The state file of one interface, held by one process at a time."""

    def __init__(self, directory: Path, interface: str) -> None:
        """Take it.

        Raises:
            InterfaceError: another agent has the interface, or the file cannot be written.
        """
        self.path = state_path(directory, interface)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise InterfaceError(f"cannot keep the state of {interface}: {error}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InterfaceError(f"another agent has {interface}; end that one first") from None

    def read(self) -> Before | None:
        """What an agent left that ended without cleaning up, or None."""
        self._file.seek(0)
        text = self._file.read()
        if not text:
            return None
        try:
            return Before(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise InterfaceError(f"{self.path} is broken ({error}); remove it") from None

    def write(self, before: Before) -> None:
        """Keep ``before``."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(asdict(before)))
        self._file.flush()

    def close(self, remove: bool) -> None:
        """Let go of the file; ``remove`` it when nothing is left to restore."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()


def attach(options: Options, programs: Programs, state: StateFile) -> Attached:
    """Prepare the interface and put the programs on its hooks. What there was is in ``state`` first.

    Raises:
        InterfaceError: it is not there, has a qdisc or an XDP program of somebody else, or refuses something.
        KernelError: the kernel lacks something.
    """
    name = options.interface
    found = link(name)
    mtu = int(found["mtu"])
    link_mtu = options.link_mtu or mtu
    rate_bps = options.rate_bps or link_rate_bps(name)
    if rate_bps is None:
        raise InterfaceError(f"{name} does not say how fast its link is; say it with --rate")
    before = Before(name, os.getpid(), gso_max_segs=int(found["gso_max_segs"]))
    if options.order:
        if kind := order.root_qdisc(name):
            raise InterfaceError(f"{name} has a root qdisc already ({kind}); remove it, or use --no-order")
        before.order = True
    if options.xdp != "off":
        if "xdp" in found:
            raise InterfaceError(f"{name} has an XDP program already; remove it, or use --xdp off")
        before.xdp = options.xdp
    before.clsact = any(qdisc["kind"] == "clsact" for qdisc in listed("tc", "-j", "qdisc", "show", "dev", name))
    before.checksum = not options.keep_checksum and offload.transmit_checksum(name)
    room = link_mtu - STAMP_BYTES
    if mtu > room:
        before.routes = routes_of(name)
        before.mtu6 = _mtu6(name)
    state.write(before)
    if mtu > room:
        for route in before.routes:
            call("ip", "-4", "route", "change", *route_with_mtu(route, room), "dev", name)
        if before.mtu6 is not None:
            _set_mtu6(name, min(before.mtu6, room))
    # A stamp for each segment: the host may hand over only packets that need no cutting.
    call("ip", "link", "set", "dev", name, "gso_max_segs", "1")
    if before.checksum:
        offload.set_transmit_checksum(name, False)
    # Connections that are open already look up their route, and with it these limits, again.
    call("ip", "-4", "route", "flush", "cache")
    if options.order:
        order.install(name, rate_bps)
    if not before.clsact:
        try:
            call("tc", "qdisc", "add", "dev", name, "clsact")
        except InterfaceError as error:
            raise InterfaceError(f"{error}; does the kernel have clsact (CONFIG_NET_SCH_INGRESS)?") from None
    with pinned(programs.egress) as path:
        hook = ("tc", "filter", "add", "dev", name, "egress", "pref", _PREFERENCE, "protocol", "all", "bpf")
        call(*hook, "direct-action", "object-pinned", path)
    if options.xdp != "off":
        with pinned(programs.ingress) as path:
            call("ip", "link", "set", "dev", name, _XDP_WORDS[options.xdp], "pinned", path)
    return Attached(link_mtu + ETHERNET_BYTES, rate_bps)


def restore(before: Before) -> None:
    """Take everything back. What is gone already is no error: the interface itself may be."""
    name = before.interface
    if not succeeds("ip", "link", "show", "dev", name):
        return
    if before.xdp != "off":
        succeeds("ip", "link", "set", "dev", name, _XDP_WORDS[before.xdp], "off")
    succeeds("tc", "filter", "del", "dev", name, "egress", "pref", _PREFERENCE)
    if not before.clsact:
        succeeds("tc", "qdisc", "del", "dev", name, "clsact")
    if before.order:
        order.remove(name)
    succeeds("ip", "link", "set", "dev", name, "gso_max_segs", str(before.gso_max_segs))
    if before.checksum:
        offload.set_transmit_checksum(name, True)
    for route in before.routes:
        succeeds("ip", "-4", "route", "change", *route, "dev", name)
    if before.mtu6 is not None:
        with contextlib.suppress(OSError):
            _set_mtu6(name, before.mtu6)
    succeeds("ip", "-4", "route", "flush", "cache")


def routes_of(interface: str) -> list[list[str]]:
    """The IPv4 routes of the main table that leave by ``interface``, as the words that make them."""
    lines = call("ip", "-4", "route", "show", "dev", interface).splitlines()
    return [[word for word in line.split() if word not in _ROUTE_FLAGS] for line in lines if line.strip()]


def route_with_mtu(route: list[str], mtu: int) -> list[str]:
    """The words of ``route`` with an MTU of at most ``mtu`` bytes."""
    words = list(route)
    if "mtu" in words:
        at = words.index("mtu")
        size = at + 2 if words[at + 1] == "lock" else at + 1
        mtu = min(mtu, int(words[size]))
        del words[at : size + 1]
    return [*words, "mtu", str(mtu)]


def _mtu6_path(interface: str) -> Path:
    return Path("/proc/sys/net/ipv6/conf") / interface / "mtu"


def _mtu6(interface: str) -> int | None:
    try:
        return int(_mtu6_path(interface).read_text("ascii"))
    except (OSError, ValueError):
        return None


def _set_mtu6(interface: str, mtu: int) -> None:
    _mtu6_path(interface).write_text(f"{mtu}\n", "ascii")


@contextlib.contextmanager
def pinned(program: Program) -> Iterator[str]:
    """Within, ``program`` has a path, by which ``tc`` and ``ip`` find it, in a bpf file system that nobody else sees.

    Raises:
        KernelError: it cannot be mounted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(prefix="mfs-agent-") as directory:
        if libc.mount(b"bpf", directory.encode(), b"bpf", 0, None):
            raise KernelError(f"cannot mount a bpf file system: {os.strerror(ctypes.get_errno())}")
        try:
            path = f"{directory}/{program.name}"
            program.pin(path)
            yield path
        finally:
            libc.umount2(directory.encode(), _LAZY_UNMOUNT)
