"""The controller as a long-running process: a timer, reconnection, a log, and an orderly end on SIGTERM and SIGINT."""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.controller import Controller
from mfs_ctrl.counters import EXPORTED, PORT_LEVEL, Cells, cells_of_ports
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.endpoint import Listen, serving
from mfs_ctrl.errors import ControlError
from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.reader import Reader
from mfs_ctrl.p4rt.session import Session as P4RuntimeSession
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.switch import Session
from p4src.artifact import TOFINO, Artifact, load, p4info
from topologies.topology import Topology

P4RUNTIME, BF_RUNTIME = "p4runtime", "bfrt"
"""The services that a switch may have."""
SCRAPE_S = 10.0
"""As long as Prometheus waits by default."""
_LOG = logging.getLogger(__name__)

Ended = Callable[[float], bool]
"""Wait for at most this many seconds; return True once the end is requested."""


def run_controller(
    address: str,
    device_id: int,
    topology: Topology,
    policy: Policy,
    interval_s: float = 1.0,
    election_id: int = 1,
    parameters: SwitchParameters | None = None,
    listen: Listen | None = None,
    stop: threading.Event | None = None,
    artifact: Artifact | None = None,
    tls: TlsFiles | None = None,
    target: str = P4RUNTIME,
    replace: bool = False,
) -> None:
    """Control the switch at ``address`` until SIGTERM or SIGINT arrives; one tick every ``interval_s``.

    The switch is given ``artifact``, by default the committed program for v1model, or that for Tofino where ``target``
    is BF Runtime; another program that it runs is kept unless ``replace``. Without ``tls`` the connection is plain
    text. ``listen`` says where to serve policy, status and metrics. The first connection must succeed. Later, a lost
    switch is retried on every tick. Callers outside the main thread pass ``stop``: the controller then ends when it is
    set, and leaves signals alone.

    Raises:
        SessionError: the switch cannot be reached at the start, or refuses the session or the program.
        ArtifactError: there is no compiled program to give to the switch.
        ValueError: the interval is not positive, or ``stop`` is missing outside the main thread.
    """
    if interval_s <= 0:
        raise ValueError(f"the interval between ticks must be above 0 s, not {interval_s:g}")
    session, program = _session(target, address, device_id, election_id, tls)
    controller = Controller(session, artifact or program, topology, policy, parameters, replace=replace)
    loop = ControlLoop(controller, address)
    exported = _exported(target, address, device_id, tls, controller.artifact, topology.ports)
    with (
        serving(listen, loop, exported),
        until_signalled() if stop is None else contextlib.nullcontext(stop.wait) as ended,
    ):
        try:
            loop.start(time.monotonic_ns())
            while not ended(interval_s):
                loop.tick(time.monotonic_ns())
        finally:
            controller.stop()
    _LOG.info("stopped; the switch keeps its entries")


def _session(
    target: str, address: str, device_id: int, election_id: int, tls: TlsFiles | None
) -> tuple[Session, Artifact]:
    """Return a session for ``target``, and the program that it has by default."""
    if target == BF_RUNTIME:
        from mfs_ctrl.tofino.bfrt_session import BfrtSession

        # bf_switchd has loaded the program; both chips have the same tables.
        return BfrtSession(address, device_id, election_id, tls=tls), Artifact(TOFINO, b"", p4info(TOFINO))
    return P4RuntimeSession(address, device_id, election_id, tls=tls), load()


def _exported(
    target: str, address: str, device_id: int, tls: TlsFiles | None, artifact: Artifact, ports: Sequence[int]
) -> Callable[[], Cells | None]:
    """Return what reads the counters that metrics export, over a connection of its own, since other threads call it."""
    lock = threading.Lock()
    readers: list[Reader] = []
    index = P4InfoIndex.from_text(artifact.p4info)
    wanted: dict[str, Sequence[int] | None] = {name: None for name in EXPORTED if name in index.counters.by_name}
    # Most of its cells are of ports that the switch does not have.
    wanted[PORT_LEVEL] = cells_of_ports(ports)

    def read() -> Cells | None:
        if target != P4RUNTIME:
            return None
        with lock:
            try:
                if not readers:
                    readers.append(Reader(address, device_id, tls, timeout_s=SCRAPE_S))
                return readers[0].read_counters(index, wanted)
            except ControlError as error:
                _LOG.debug("no counters for metrics: %s", error)
                for reader in readers:
                    reader.close()
                readers.clear()
                return None

    return read


@contextlib.contextmanager
def until_signalled() -> Iterator[Ended]:
    """Yield a wait that SIGTERM and SIGINT end, even if they arrive before it begins; they do nothing else.

    For the main thread. :func:`soft_switch.signals.stop_on_signal` would not do here: it blocks the signals in threads
    that start within the block, while the policy server's thread runs before.
    """
    # A handler in Python runs between bytecodes only: a signal just before a wait begins would not cut the wait short.
    # The wake-up descriptor is written to at once, and stays readable.
    arrived, wake_up = socket.socketpair()
    wake_up.setblocking(False)
    former = signal.set_wakeup_fd(wake_up.fileno(), warn_on_full_buffer=False)

    def ended(timeout_s: float) -> bool:
        return bool(select.select([arrived], [], [], timeout_s)[0])

    def ignore(_number: int, _frame: FrameType | None) -> None:
        pass

    before = {number: signal.signal(number, ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former)
        arrived.close()
        wake_up.close()
