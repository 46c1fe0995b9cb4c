"""The controller as a long-running process: a timer, reconnection, and an orderly end on SIGTERM and SIGINT."""

from __future__ import annotations

import contextlib
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
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.policy.tuner import TunerSettings
from p4src.artifact import Artifact, load
from topologies.topology import Topology

Say = Callable[[str], None]
Ended = Callable[[float], bool]
"""Waits for so many seconds at most; True once the end is asked for."""


def run_controller(
    address: str,
    device_id: int,
    topology: Topology,
    policy: Policy,
    interval_s: float = 1.0,
    election_id: int = 1,
    parameters: SwitchParameters | None = None,
    settings: TunerSettings | None = None,
    on_policy: OnPolicy | None = None,
    say: Say = print,
    stop: threading.Event | None = None,
    artifact: Artifact | None = None,
) -> None:
    """Control the switch at ``address`` until SIGTERM or SIGINT arrives; a tick each ``interval_s``.

    The switch is given ``artifact``, by default the committed program for v1model. With ``stop``, it ends when that is
    set, and signals are left alone: for callers outside the main thread. The first connection must succeed. After that
    a lost switch is tried again on every tick.

    Raises:
        SessionError: the switch cannot be reached at the start, or refuses the session or the program.
        ArtifactError: there is no compiled program to give to the switch.
        ValueError: the interval is not positive, or ``stop`` is missing outside the main thread.
    """
    if interval_s <= 0:
        raise ValueError(f"the interval between ticks must be above 0 s, not {interval_s:g}")
    session = Session(address, device_id, election_id)
    controller = Controller(session, artifact or load(), topology, policy, parameters, settings, on_policy)
    with _signalled() if stop is None else contextlib.nullcontext(stop.wait) as ended:
        try:
            report = controller.start(time.monotonic_ns())
            if report is None:
                say(f"connected to {address} as backup: another controller is primary")
            else:
                say(f"connected to {address}: policy {policy.name} in force, {report.updates} entries written")
            in_touch = True
            while not ended(interval_s):
                in_touch = _one_tick(controller, in_touch, say)
        finally:
            controller.stop()
    say("stopped; the switch keeps its entries")


def _one_tick(controller: Controller, in_touch: bool, say: Say) -> bool:
    """One tick, after connecting again if the switch was lost; returns whether it is in touch."""
    now_ns = time.monotonic_ns()
    try:
        if not in_touch:
            report = controller.start(now_ns)
            say(f"connected again{'' if report is None else f', {report.updates} entries written'}")
        was_primary = controller.primary
        record = controller.tick(now_ns)
        if controller.primary and not was_primary:
            say(f"primary now, {controller.taken_over.updates} entries written")
        elif was_primary and not controller.primary:
            say("backup now: another controller is primary")
        for complaint in controller.session.stream_errors():
            say(f"the switch complains: {complaint}")
    except SessionError as error:
        say(f"{error}; trying again")
        # Whatever is known of the switch may be stale now.
        controller.session.close()
        return False
    if record is not None and record.writes.updates:
        say(in_words(record))
    return True


def in_words(record: TickRecord) -> str:
    """One line on a tick that changed something."""
    thresholds = "" if record.thresholds is None else f", MLU threshold {record.thresholds.mlu}"
    late = "" if record.late_share is None else f", {record.late_share:.1%} of the last stage late"
    return f"{record.writes.updates} entries written: {record.reason}{thresholds}{late}"


@contextlib.contextmanager
def _signalled() -> Iterator[Ended]:
    """Within, SIGTERM and SIGINT do nothing but end the wait that this gives, be it under way or yet to begin."""
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
