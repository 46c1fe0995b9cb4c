"""The controller as a long-running process: its switches, reload on SIGHUP, an orderly end on SIGTERM and SIGINT."""

from __future__ import annotations

import contextlib
import functools
import logging
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from host_agent.http_endpoint import Listen
from host_agent.protocol.errors import MfsError
from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.controller import Controller
from mfs_ctrl.counters import EXPORTED, PORT_LEVEL, Cells, cells_of_ports
from mfs_ctrl.endpoint import serving, show
from mfs_ctrl.errors import ControlError
from mfs_ctrl.fabric import BF_RUNTIME, P4RUNTIME, Build, Controlled, Fabric, ReadCounters, SwitchSpec
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.reader import Reader
from mfs_ctrl.p4rt.session import Session as P4RuntimeSession
from mfs_ctrl.policy_server import PolicyServer
from mfs_ctrl.switch import Session
from p4src.artifact import TOFINO, Artifact, load, p4info

SCRAPE_S = 5.0
"""Prometheus waits for 10 s by default, and a switch that is connected to may still not answer."""
WATCH_S = 1.0
"""Seconds between looks at the file that describes the switches."""
_ENDS = (signal.SIGTERM, signal.SIGINT)
_LOG = logging.getLogger(__name__)

Wait = Callable[[float], Sequence[int]]
"""Wait for at most this many seconds; return the signals that have arrived, of which the last says to end."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same for all switches of a process.

    Attributes:
        interval_s: seconds between ticks.
        election_id: that of this controller, at each switch.
        listen: where to serve policy, status and metrics.
        artifact: the program for the switches, by default the committed one for v1model, or that for Tofino where the
            target is BF Runtime.
        replace: load it over another program that a switch runs.
    """

    interval_s: float = 1.0
    election_id: int = 1
    listen: Listen | None = None
    artifact: Artifact | None = None
    replace: bool = False


class Described:
    """The switches that ``read`` describes, and the file that it reads them from, if they are in one."""

    def __init__(self, read: Callable[[], Sequence[SwitchSpec]], path: Path | None = None) -> None:
        self.read = read
        self.path = path
        self._seen = self._state()

    def changed(self) -> bool:
        """Return whether the file has changed since the last call; one that is missing has not."""
        state = self._state()
        if state in (None, self._seen):
            return False
        self._seen = state
        return True

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat() if self.path is not None else None
        except OSError:
            return None
        return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)


def run(
    described: Described, settings: Settings, must_connect: bool = False, stop: threading.Event | None = None
) -> None:
    """Control the switches that are described until SIGTERM or SIGINT arrives.

    On SIGHUP, and when the file changes, they are read again. A lost switch is retried, without delay to the others.
    With ``must_connect`` the first connection to a switch that is alone must succeed. Callers outside the main thread
    pass ``stop``: the controllers then end when it is set, and signals are left alone.

    Raises:
        SessionError: with ``must_connect``, a switch cannot be reached, or refuses the session or the program.
        MfsError: the description cannot be read, or there is no compiled program to give to a switch.
        ValueError: the interval is not positive, or ``stop`` is missing outside the main thread.
    """
    if settings.interval_s <= 0:
        raise ValueError(f"the interval between ticks must be above 0 s, not {settings.interval_s:g}")
    specs = described.read()
    with serving(settings.listen) as server, signals() if stop is None else _until(stop) as wait:
        fabric = Fabric(_build(settings, server), settings.interval_s)
        if server is not None:
            show(fabric, server)
        try:
            fabric.apply(specs, must_connect and len(specs) == 1)
            while not set(_ENDS) & set(arrived := wait(WATCH_S)):
                if arrived or described.changed():
                    _reload(fabric, described)
        finally:
            fabric.close()
    _LOG.info("stopped; the switch%s", " keeps its entries" if len(specs) == 1 else "es keep their entries")


def _reload(fabric: Fabric, described: Described) -> None:
    """Read the description again; with mistakes in it, go on as before and say so once."""
    try:
        fabric.apply(described.read())
    except MfsError as error:
        if fabric.conditions.get("file") != str(error):
            _LOG.error("%s; everything stays as it was before", error)
        fabric.conditions["file"] = str(error)
    else:
        fabric.conditions.pop("file", None)
        _LOG.info("read %s again", described.path or "the options")


def _build(settings: Settings, server: PolicyServer | None) -> Build:
    """Return what makes the controller of a switch. All of them have the same program in memory."""
    program = functools.cache(_program)

    def build(spec: SwitchSpec, on_arbitration: Callable[[], None]) -> Controlled:
        controller = Controller(
            _session(spec, settings.election_id, on_arbitration),
            settings.artifact or program(spec.target),
            spec.topology,
            spec.policy,
            spec.parameters,
            replace=settings.replace,
        )
        loop = ControlLoop(controller, spec.address, spec.name)
        if server is not None:
            loop.agents = server.agents
            controller.on_policy = functools.partial(server.publish, switch=spec.name)
        return Controlled(loop, _exported(spec, loop))

    return build


def _program(target: str) -> Artifact:
    """Return the program that switches of this target have by default; bf_switchd has loaded it by itself."""
    # Both chips have the same tables.
    return Artifact(TOFINO, b"", p4info(TOFINO)) if target == BF_RUNTIME else load()


def _session(spec: SwitchSpec, election_id: int, on_arbitration: Callable[[], None]) -> Session:
    if spec.target == BF_RUNTIME:
        from mfs_ctrl.tofino.bfrt_session import BfrtSession

        return BfrtSession(spec.address, spec.device_id, election_id, tls=spec.tls)
    return P4RuntimeSession(spec.address, spec.device_id, election_id, tls=spec.tls, on_arbitration=on_arbitration)


def _exported(spec: SwitchSpec, loop: ControlLoop) -> ReadCounters:
    """Return what reads the counters that metrics export, over a connection of its own, since other threads call it."""
    lock = threading.Lock()
    readers: list[Reader] = []
    index = P4InfoIndex.from_text(loop.controller.artifact.p4info)
    wanted: dict[str, Sequence[int] | None] = {name: None for name in EXPORTED if name in index.counters.by_name}

    def read() -> Cells | None:
        if spec.target != P4RUNTIME or not loop.connected:
            return None
        # Most of its cells are of ports that the switch does not have.
        wanted[PORT_LEVEL] = cells_of_ports(loop.controller.topology.ports)
        with lock:
            try:
                if not readers:
                    readers.append(Reader(spec.address, spec.device_id, spec.tls, SCRAPE_S, SCRAPE_S))
                return readers[0].read_counters(index, wanted)
            except ControlError as error:
                _LOG.debug("%s: no counters for metrics: %s", loop.name, error)
                for reader in readers:
                    reader.close()
                readers.clear()
                return None

    return read


@contextlib.contextmanager
def _until(stop: threading.Event) -> Iterator[Wait]:
    """Yield a wait for ``stop``."""
    yield lambda timeout_s: _ENDS if stop.wait(timeout_s) else ()


@contextlib.contextmanager
def signals() -> Iterator[Wait]:
    """Yield a wait that SIGTERM, SIGINT and SIGHUP end, even if they arrive before it begins; they do nothing else.

    For the main thread. :func:`soft_switch.signals.stop_on_signal` would not do here: it blocks the signals in threads
    that start within the block, while the policy server's thread runs before.
    """
    # A handler in Python runs between bytecodes only: a signal just before a wait begins would not cut the wait short.
    # The wake-up descriptor is written to at once, and stays readable until it is read.
    arrived, wake_up = socket.socketpair()
    wake_up.setblocking(False)
    former = signal.set_wakeup_fd(wake_up.fileno(), warn_on_full_buffer=False)

    def wait(timeout_s: float) -> Sequence[int]:
        return arrived.recv(64) if select.select([arrived], [], [], timeout_s)[0] else ()

    def ignore(_number: int, _frame: FrameType | None) -> None:
        pass

    before = {number: signal.signal(number, ignore) for number in (*_ENDS, signal.SIGHUP)}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former)
        arrived.close()
        wake_up.close()
