"""A fabric: one controller for each of its switches, in one process. They share the policy server, nothing else."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.counters import Cells
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.turns import Turns
from topologies.topology import Topology

P4RUNTIME, BF_RUNTIME = "p4runtime", "bfrt"
"""The services that a switch may have."""
RETRY_S = 5.0
"""Longest pause between attempts to reach a switch."""
_LOG = logging.getLogger(__name__)

ReadCounters = Callable[[], Cells | None]
"""Returns the switch's counters that are exported; None if it does not tell them."""


@dataclass(frozen=True, slots=True)
class SwitchSpec:
    """A switch, and what is wanted of it.

    Attributes:
        name: for the log, metrics and status; empty for a switch that is alone.
        address: of its service, HOST:PORT.
        device_id: its number there.
        topology: ports, hosts and routes.
        parameters: the operator's other choices.
        policy: the policy to start with.
        tls: files for the connection, which is plain text without.
        target: its service.
    """

    name: str
    address: str
    device_id: int
    topology: Topology
    parameters: SwitchParameters
    policy: Policy
    tls: TlsFiles | None = None
    target: str = P4RUNTIME

    @property
    def connection(self) -> tuple[object, ...]:
        """What a session depends on."""
        return self.address, self.device_id, self.tls, self.target


@dataclass(frozen=True, slots=True)
class Controlled:
    """A loop around a controller, and what reads the counters that metrics export, from any thread."""

    loop: ControlLoop
    read_counters: ReadCounters


Build = Callable[[SwitchSpec, Callable[[], None]], Controlled]
"""Makes the controller of a switch, not yet connected; it calls the function when the switch tells who is primary."""


class Fabric:
    """The controllers of several switches. Each has a thread, so that no switch waits for another.

    Only when it is elected by several switches at once, it takes them over a few at a time, after all elections.

    One thread calls the methods that change it; others may read :attr:`controlled`.

    Args:
        build: makes the controller of a switch.
        interval_s: seconds between ticks.

    Attributes:
        conditions: what is wrong with the description of the fabric, as in :class:`ControlLoop`.
    """

    def __init__(self, build: Build, interval_s: float) -> None:
        self.conditions: dict[str, str] = {}
        self._build = build
        self._interval_s = interval_s
        self._members: dict[str, _Member] = {}
        self._switch_of: dict[str, str] = {}
        self._turns = Turns()

    @property
    def controlled(self) -> list[Controlled]:
        """The controllers, in the order in which the switches are named."""
        return [member.controlled for member in self._members.values()]

    def apply(self, specs: Sequence[SwitchSpec], must_connect: bool = False) -> None:
        """Control these switches from now on, and no others; those that stay as they are are not touched.

        A switch that is no longer named keeps its entries. With ``must_connect`` the first connection to a new one is
        made at once.

        Raises:
            ControlError: with ``must_connect``, a switch cannot be reached, or refuses something.
        """
        wanted = {spec.name: spec for spec in specs}
        for name, member in self._members.items():
            spec = wanted.get(name)
            if spec is None or spec.connection != member.spec.connection:
                member.leave()
            elif spec != member.spec:
                member.change(spec)
        # Another dictionary, since other threads may be reading.
        members: dict[str, _Member] = {}
        for name, spec in wanted.items():
            held = self._members.get(name)
            if held is not None and not held.leaving:
                members[name] = held
                continue
            if held is not None:
                held.join()
            members[name] = _Member(spec, self._build, self._interval_s, self._turns)
        for name in self._members.keys() - wanted.keys():
            self._members[name].join()
            _LOG.info("%s: no longer controlled; it keeps its entries", name)
        # Before the new ones start: a first connection may take long, and is shown meanwhile.
        new = [member for name, member in members.items() if member is not self._members.get(name)]
        self._members = members
        self._switch_of = {host.mac.hex(":"): spec.name for spec in specs for host in spec.topology.hosts}
        for member in new:
            member.start(must_connect)

    def switch_of(self, mac: str) -> str:
        """Return the name of the switch that a host is connected to, given its MAC address; "" if there is none."""
        return self._switch_of.get(mac, "")

    def close(self) -> None:
        """End all controllers. The switches keep what they hold."""
        for member in self._members.values():
            member.leave()
        for member in self._members.values():
            member.join()


class _Member:
    """A switch of the fabric: its controller, and the thread that runs it."""

    def __init__(self, spec: SwitchSpec, build: Build, interval_s: float, turns: Turns) -> None:
        self.spec = spec
        self.leaving = False
        self._interval_s = interval_s
        self._changes: list[tuple[SwitchSpec, SwitchSpec]] = []
        """What the thread has not taken note of: former and new description."""
        self._wake = threading.Event()
        self._turns = turns
        self.controlled = build(spec, self._told)
        self._thread = threading.Thread(target=self._run, name=f"control-{spec.name}", daemon=True)

    def start(self, must_connect: bool) -> None:
        """Start the thread, once there is a connection if there must be one.

        Raises:
            ControlError: there must, and the switch cannot be reached or refuses something.
        """
        if must_connect:
            try:
                self.controlled.loop.start(time.monotonic_ns())
            except BaseException:
                self.controlled.loop.controller.stop()
                raise
        self._thread.start()

    def change(self, spec: SwitchSpec) -> None:
        """Want ``spec`` from now on, with the same connection."""
        self._changes.append((self.spec, spec))
        self.spec = spec
        self._wake.set()

    def leave(self) -> None:
        """Ask the thread to end."""
        self.leaving = True
        self._wake.set()

    def join(self) -> None:
        """Wait until the thread has ended, if it has started."""
        if self._thread.ident is not None:
            self._thread.join()

    def _told(self) -> None:
        """Note that the switch has told who is primary."""
        self._turns.news()
        self._wake.set()

    def _run(self) -> None:
        loop = self.controlled.loop
        pause_s = self._interval_s
        # A switch that was connected to before the thread began has just been read.
        due_s = time.monotonic() + (pause_s if loop.connected else 0.0)
        while not self.leaving:
            woken = self._wake.wait(max(0.0, due_s - time.monotonic()))
            self._wake.clear()
            began_s = time.monotonic()
            try:
                self._take_changes()
                # A backup looks at once whether it is needed; the ticks of a primary have their interval.
                if woken and (self.leaving or not loop.connected or loop.controller.primary):
                    continue
                elected = loop.connected and loop.controller.session.primary and not loop.controller.primary
                with self._turns.taken(lambda: self.leaving) if elected else contextlib.nullcontext():
                    loop.tick(time.monotonic_ns())
            except Exception as error:
                # It must not end the control of this switch.
                _LOG.exception("%s: unexpected error", loop.name)
                loop.lose(f"unexpected error: {error!r}")
            pause_s = self._interval_s if loop.connected else min(2 * pause_s, max(RETRY_S, self._interval_s))
            due_s = began_s + pause_s
        loop.controller.stop()

    def _take_changes(self) -> None:
        while self._changes:
            before, after = self._changes.pop(0)
            policy = None if before.policy == after.policy else after.policy
            self.controlled.loop.change(after.topology, after.parameters, policy, time.monotonic_ns())
