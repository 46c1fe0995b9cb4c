"""Switches that run the MFS program behind the same interface: the embedded switch, bmv2, and the model of Tofino.

Entries are those of the controller. Frames go in and out one at a time, so that each test says what one packet does.
Levels are read from the DSCP, which the program writes on all ports.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mfs_ctrl import policies
from mfs_ctrl.controller import Controller
from mfs_ctrl.counters import DISCARDED
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.session import Session as P4RuntimeSession
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.switch import Session
from mfs_ctrl.tofino.bfrt_session import BfrtSession
from p4src import artifact
from soft_switch.backend import backend_of_environment
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch
from tests.support import tofino_model
from topologies import bmv2
from topologies.processes import Process, free_port, listening
from topologies.topology import Topology

EMBEDDED, BMV2, TOFINO, TOFINO_2 = "embedded", "bmv2", artifact.TOFINO, artifact.TOFINO_2
TARGETS = (EMBEDDED, BMV2, TOFINO, TOFINO_2)
ARRIVES_S = 5.0
"""A frame that is to leave has left after this long; the model takes milliseconds."""
SILENT_S = 0.15
"""A frame that has not left after this long is taken to be dropped, where that is expected."""
_ANY_PROTOCOL = socket.htons(3)
_OUTGOING = 4
SHORTEST_FRAME = 60
QUEUED_NS = 50_000
"""Time that a packet is in the embedded switch; the others have one of their own."""


@dataclass(frozen=True)
class Sent:
    """A frame that left, and by which port."""

    port: int
    frame: bytes


class Target(Protocol):
    """A switch with entries."""

    name: str
    index: P4InfoIndex
    session: Session

    def send(self, port: int, frame: bytes, leaves: bool = True) -> Sent | None:
        """Send ``frame`` into ``port``; return what left. ``leaves`` says whether something is expected to."""


def missing(name: str) -> str:
    """Why the target ``name`` cannot run here; empty if it can."""
    if name == EMBEDDED:
        return ""
    if name == BMV2:
        if shutil.which(bmv2.PROGRAM) is None:
            return "bmv2 is not installed"
        return "" if os.geteuid() == 0 else "bmv2 needs root here: interfaces"
    return tofino_model.missing(name)


@contextlib.contextmanager
def running(name: str, topology: Topology, log: Path | None = None) -> Iterator[_Started]:
    """The switch ``name`` with the ports of ``topology``, without entries; ``log`` is a folder for Tofino's model."""
    if name == EMBEDDED:
        switch = Switch()
        for port in topology.ports:
            switch.add_port(port, topology.rates[port])
        server = P4RuntimeServer(switch, backend=backend_of_environment())
        server.start()
        try:
            yield _Started(name, topology, P4RuntimeSession(server.address, timeout_s=60), _InProcess(switch))
        finally:
            server.stop(0)
        return
    with _wires(topology) as wires:
        inside = {port: wire.inside for port, wire in wires.items()}
        if name == BMV2:
            address = f"127.0.0.1:{free_port()}"
            process = Process(bmv2.command(address, inside, 1, free_port()), lambda _: listening(address))
            try:
                process.wait_ready()
                yield _Started(name, topology, P4RuntimeSession(address, timeout_s=60), _OnWires(wires))
            finally:
                process.stop()
        else:
            with tofino_model.running(name, inside, log) as address:
                yield _Started(name, topology, BfrtSession(address, timeout_s=60), _OnWires(wires))


class Frames(Protocol):
    """How frames reach a switch."""

    def send(self, port: int, frame: bytes, leaves: bool, /) -> Sent | None:
        """See :class:`Target`."""

    def wait(self, seconds: float, /) -> None:
        """Let time go by."""


class _Started:
    """A switch that runs; :meth:`program` writes the controller's entries."""

    def __init__(self, name: str, topology: Topology, session: Session, frames: Frames) -> None:
        self.name = name
        self.topology = topology
        self.session = session
        self.frames = frames
        program = artifact.V1MODEL if name in (EMBEDDED, BMV2) else name
        self.index = P4InfoIndex.from_text(artifact.p4info(program))

    @property
    def tofino(self) -> bool:
        """Whether it is a model of Tofino."""
        return self.name in (TOFINO, TOFINO_2)

    @property
    def artifact(self) -> artifact.Artifact:
        """The program that the controller expects."""
        if self.name in (EMBEDDED, BMV2):
            return artifact.load()
        return artifact.Artifact(self.name, b"", artifact.p4info(self.name))

    def program(self, parameters: SwitchParameters, policy: Policy | None = None) -> Controller:
        """Write the entries of ``policy``, by default mfs, and the level into each packet; leave the session open."""
        parameters = replace(parameters, dscp_ports=frozenset(self.topology.ports))
        controller = Controller(
            self.session,
            self.artifact,
            self.topology,
            policy or policies.mfs(),
            parameters,
            tune_thresholds=False,
            tune_bias=False,
        )
        assert controller.start() is not None
        return controller

    def send(self, port: int, frame: bytes, leaves: bool = True) -> Sent | None:
        """See :class:`Target`."""
        return self.frames.send(port, frame, leaves)

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.frames.wait(seconds)

    def discarded(self) -> dict[int, int]:
        """Packets discarded so far, by reason."""
        cells = self.session.read_counters(self.index, {DISCARDED: range(3)})[DISCARDED]
        return {cell: count.packets for cell, count in cells.items()}


class _InProcess:
    """The embedded switch, whose time is a number."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._now_ns = 0

    def send(self, port: int, frame: bytes, _leaves: bool) -> Sent | None:
        # A frame each 250 us, so that time goes by as on the others, where one waits for the other.
        self._now_ns += 250_000
        self._switch.receive(port, frame, self._now_ns)
        for out in self._switch.ports:
            if (sent := self._switch.transmit(out, self._now_ns + QUEUED_NS)) is not None:
                return Sent(out, sent[0])
        return None

    def wait(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1e9)


@dataclass(frozen=True)
class _Wire:
    """A pair of interfaces: one is the switch's port, the other a socket here."""

    inside: str
    outside: socket.socket


class _OnWires:
    """A switch behind interfaces."""

    def __init__(self, wires: Mapping[int, _Wire]) -> None:
        self._wires = wires

    def send(self, port: int, frame: bytes, leaves: bool) -> Sent | None:
        self._drain()
        self._wires[port].outside.send(frame)
        deadline = time.monotonic() + (ARRIVES_S if leaves else SILENT_S)
        sockets = {wire.outside: number for number, wire in self._wires.items()}
        while (left := deadline - time.monotonic()) > 0:
            for ready in select.select(list(sockets), [], [], left)[0]:
                data, sender = ready.recvfrom(9999)
                if sender[2] != _OUTGOING:
                    return Sent(sockets[ready], data)
        return None

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def _drain(self) -> None:
        for wire in self._wires.values():
            with contextlib.suppress(BlockingIOError):
                while True:
                    wire.outside.recvfrom(9999)


@contextlib.contextmanager
def _wires(topology: Topology) -> Iterator[dict[int, _Wire]]:
    prefix = f"mt{os.getpid() % 100_000}"
    wires: dict[int, _Wire] = {}
    try:
        for port in topology.ports:
            inside, outside = f"{prefix}i{port}", f"{prefix}o{port}"
            _ip("link", "add", inside, "type", "veth", "peer", "name", outside)
            for interface in (inside, outside):
                # No router solicitations between the frames of a test.
                Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").write_text("1")
                _ip("link", "set", interface, "mtu", "9100", "up")
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _ANY_PROTOCOL)
            raw.bind((outside, 0))
            raw.setblocking(False)
            wires[port] = _Wire(inside, raw)
        yield wires
    finally:
        for wire in wires.values():
            wire.outside.close()
            subprocess.run(["ip", "link", "delete", wire.inside], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
