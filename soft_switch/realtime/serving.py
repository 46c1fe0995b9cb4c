"""The switch on interfaces as a process: ports opened, P4Runtime served beside the packet loop, ended by signals."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soft_switch.backend import Backend
from soft_switch.p4runtime.server import TLS, serve
from soft_switch.ports import HIGHEST_PORT
from soft_switch.queues.queue_trace import csv_recorder, traced
from soft_switch.queues.traffic_manager import QUEUES, NewPort, QueueConfig
from soft_switch.realtime.driver import Driver
from soft_switch.realtime.errors import InterfaceError
from soft_switch.realtime.packet_socket import PacketSocket
from soft_switch.signals import stop_on_signal
from soft_switch.switch import Switch

_LOG = logging.getLogger(__name__)

THREAD_TURN_S = 50e-6
"""Longest wait of the packet loop for another thread of the process. Python's own 5 ms are eight frames at 20 Mb/s."""
NICENESS = -15


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A port on an interface; its rate is in bits per second on the wire (preamble, FCS and gap included)."""

    number: int
    interface: str
    rate_bps: int


def check_ports(ports: Sequence[PortSpec]) -> None:
    """Check that ports and interfaces are distinct and port numbers valid.

    Raises:
        InterfaceError: they are not.
    """
    numbers: set[int] = set()
    interfaces: set[str] = set()
    for port in ports:
        if not 0 <= port.number <= HIGHEST_PORT:
            raise InterfaceError(f"port {port.number} is not in 0..{HIGHEST_PORT}")
        if port.number in numbers:
            raise InterfaceError(f"port {port.number} is given twice")
        if port.interface in interfaces:
            raise InterfaceError(f"interface {port.interface} is given to two ports")
        numbers.add(port.number)
        interfaces.add(port.interface)


@contextlib.contextmanager
def opened(
    ports: Sequence[PortSpec],
    *,
    cpu_port: int | None = None,
    queue_trace: Path | None = None,
    queue: QueueConfig | None = None,
) -> Iterator[Driver]:
    """Open ``ports`` and make a switch with them, ready to run; the interfaces are released at the end.

    ``queue_trace`` is a file for what happens in the queues (:mod:`soft_switch.queues.queue_trace`); ``queue``
    configures every queue.

    Raises:
        InterfaceError: a port or interface is given twice, or an interface cannot be opened.
        PortConfigError: a rate is not positive.
        PortError: the CPU port is one of the ports.
        QueueTraceError: the file cannot be written.
    """
    check_ports(ports)
    with contextlib.ExitStack() as stack:
        new_port: NewPort | None = None
        if queue_trace is not None:
            new_port = traced(time.monotonic_ns, stack.enter_context(csv_recorder(queue_trace)))
        switch = Switch(cpu_port, new_port)
        sockets = {}
        for port in ports:
            switch.add_port(port.number, port.rate_bps, (queue or QueueConfig(),) * QUEUES)
            sockets[port.number] = stack.enter_context(contextlib.closing(PacketSocket(port.interface)))
        yield stack.enter_context(contextlib.closing(Driver(switch, sockets)))


def run_on_interfaces(
    ports: Sequence[PortSpec],
    *,
    address: str,
    device_id: int = 1,
    cpu_port: int | None = None,
    device_config: Path | None = None,
    p4info: Path | None = None,
    queue_trace: Path | None = None,
    queue: QueueConfig | None = None,
    tls: TLS | None = None,
    backend: Backend = "auto",
    beside: Callable[[Driver], contextlib.AbstractContextManager[object]] | None = None,
) -> None:
    """Run the switch on ``ports`` and serve P4Runtime at ``address`` until SIGINT or SIGTERM. For the main thread.

    ``beside`` returns what else is done while the switch runs.

    Raises:
        SwitchError: it cannot start; the message says what to change.
    """
    _raise_priority()
    with opened(ports, cpu_port=cpu_port, queue_trace=queue_trace, queue=queue) as driver:
        with stop_on_signal(driver.stop):
            server = serve(
                driver.switch,
                address=address,
                device_id=device_id,
                device_config=device_config,
                p4info=p4info,
                tls=tls,
                backend=backend,
            )
            _LOG.info("ports: %s", ", ".join(_describe(port) for port in ports))
            try:
                with beside(driver) if beside is not None else contextlib.nullcontext(), _short_pauses():
                    driver.run()
            finally:
                server.stop(0)
        for line in driver.summary():
            _LOG.warning("%s", line)


@contextlib.contextmanager
def _short_pauses() -> Iterator[None]:
    """Shorten what would stop the packet loop: other threads' turns, and garbage collection of what exists now."""
    turn_s = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(THREAD_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(turn_s)
        gc.unfreeze()


def _raise_priority() -> None:
    # A link does not wait for its process. All threads, since one that waits for a core may hold a lock of the loop.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def _describe(port: PortSpec) -> str:
    """Describe a port for people: ``1 on veth1 at 20 Mb/s``."""
    for factor, unit in ((10**9, "Gb/s"), (10**6, "Mb/s"), (10**3, "kb/s"), (1, "b/s")):
        if port.rate_bps >= factor:
            return f"{port.number} on {port.interface} at {port.rate_bps / factor:g} {unit}"
    return f"{port.number} on {port.interface}"
