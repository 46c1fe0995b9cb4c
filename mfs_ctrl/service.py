"""The controller as a long-running process: a timer, reconnection, a log, and an orderly end on SIGTERM and SIGINT."""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from mfs_ctrl.controller import Controller, OnPolicy, TickRecord
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.errors import SessionError
from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.p4rt.session import Session as P4RuntimeSession
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.switch import Session
from p4src.artifact import TOFINO, Artifact, load, p4info
from topologies.topology import Topology

P4RUNTIME, BF_RUNTIME = "p4runtime", "bfrt"
"""The services that a switch may have."""
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
    on_policy: OnPolicy | None = None,
    stop: threading.Event | None = None,
    artifact: Artifact | None = None,
    tls: TlsFiles | None = None,
    target: str = P4RUNTIME,
) -> None:
    """Control the switch at ``address`` until SIGTERM or SIGINT arrives; one tick every ``interval_s``.

    The switch is given ``artifact``, by default the committed program for v1model, or that for Tofino where ``target``
    is BF Runtime. Without ``tls`` the connection is plain text. The first connection must succeed. Later, a lost switch
    is retried on every tick. Callers outside the main thread pass ``stop``: the controller then ends when it is set,
    and leaves signals alone.

    Raises:
        SessionError: the switch cannot be reached at the start, or refuses the session or the program.
        ArtifactError: there is no compiled program to give to the switch.
        ValueError: the interval is not positive, or ``stop`` is missing outside the main thread.
    """
    if interval_s <= 0:
        raise ValueError(f"the interval between ticks must be above 0 s, not {interval_s:g}")
    session, program = _session(target, address, device_id, election_id, tls)
    controller = Controller(session, artifact or program, topology, policy, parameters, on_policy)
    with until_signalled() if stop is None else contextlib.nullcontext(stop.wait) as ended:
        try:
            report = controller.start(time.monotonic_ns())
            if report is None:
                _LOG.info("connected to %s as backup: another controller is primary", address)
            else:
                _LOG.info(
                    "connected to %s: policy %s in force, %d entries written", address, policy.name, report.updates
                )
            in_touch = True
            discarding: set[str] = set()
            while not ended(interval_s):
                in_touch = _one_tick(controller, in_touch, discarding)
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


def _one_tick(controller: Controller, in_touch: bool, discarding: set[str]) -> bool:
    """Do one tick, after reconnecting if the switch was lost; return whether the switch is connected.

    Reasons for discards that were logged are added to ``discarding``.
    """
    now_ns = time.monotonic_ns()
    try:
        if not in_touch:
            report = controller.start(now_ns)
            _LOG.info("connected again%s", "" if report is None else f", {report.updates} entries written")
        was_primary = controller.primary
        record = controller.tick(now_ns)
        if controller.primary and not was_primary:
            _LOG.info("primary now, %d entries written", controller.taken_over.updates)
        elif was_primary and not controller.primary:
            _LOG.warning("backup now: another controller is primary")
        for complaint in controller.session.stream_errors():
            _LOG.warning("the switch reports: %s", complaint)
    except SessionError as error:
        _LOG.warning("%s; trying again", error)
        # What is known about the switch may be stale now.
        controller.session.close()
        return False
    if record is not None:
        if record.writes.updates:
            _LOG.info("%s", describe(record))
        for reason, packets in record.discards.items():
            # Once is enough to look for the cause; the counter `discarded` has the totals.
            level = logging.DEBUG if reason in discarding else logging.WARNING
            _LOG.log(level, "the switch discards packets: %s (%d since the last tick)", reason, packets)
            discarding.add(reason)
    return True


def describe(record: TickRecord) -> str:
    """Describe a tick that changed something, in one line."""
    thresholds = "".join(f", {name} {record.thresholds[name]}" for name in record.shares) if record.thresholds else ""
    measured = "".join(f", {share:.1%} for {name}" for name, share in record.shares.items() if share is not None)
    return f"{record.writes.updates} entries written: {record.reason}{thresholds}{measured}"


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
