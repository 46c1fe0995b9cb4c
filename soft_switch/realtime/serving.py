"""The switch on interfaces as a process: ports opened, P4Runtime served beside the packet loop, an end on signals."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soft_switch.p4runtime.server import DEFAULT_ADDRESS, P4RuntimeServer, serve
from soft_switch.queues.queue_trace import csv_recorder, traced
from soft_switch.realtime.driver import Driver
from soft_switch.realtime.errors import InterfaceError
from soft_switch.realtime.packet_socket import PacketSocket
from soft_switch.switch import NewPort, Switch

THREAD_TURN_S = 50e-6
"""How long the packet loop waits for another thread of the process: Python's own 5 ms are eight frames at 20 Mb/s."""
NICENESS = -15
HIGHEST_PORT = 510
"""Port 511 is where v1model's programs drop."""


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A port on an interface, its rate in bits per second of wire bytes (preamble, FCS and gap included)."""

    number: int
    interface: str
    rate_bps: int


def check_ports(ports: Sequence[PortSpec]) -> None:
    """Raise InterfaceError where a port or an interface is given twice, or a port number cannot be."""
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
    say: Callable[[str], None] = print,
    *,
    cpu_port: int | None = None,
    queue_trace: Path | None = None,
) -> Iterator[Driver]:
    """A switch with these ports, ready to run; interfaces are given back at the end.

    ``queue_trace``: a file for what happens in the queues (:mod:`soft_switch.queues.queue_trace`).

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
            switch.add_port(port.number, port.rate_bps)
            sockets[port.number] = stack.enter_context(contextlib.closing(PacketSocket(port.interface)))
            if not sockets[port.number].up:
                say(f"port {port.number}: interface {port.interface} is down; ip link set {port.interface} up")
        yield stack.enter_context(contextlib.closing(Driver(switch, sockets, say)))


def run_on_interfaces(
    ports: Sequence[PortSpec],
    *,
    cpu_port: int | None = None,
    queue_trace: Path | None = None,
    device_config: Path | None = None,
    p4info: Path | None = None,
    device_id: int = 1,
    address: str = DEFAULT_ADDRESS,
    say: Callable[[str], None] = print,
) -> None:
    """Run the switch on ``ports`` and serve P4Runtime at ``address`` until SIGINT or SIGTERM. For the main thread.

    Raises:
        SwitchError: with what to mend, before anything runs.
    """
    ending = {signal.SIGINT, signal.SIGTERM}
    _take_precedence()
    with opened(ports, say, cpu_port=cpu_port, queue_trace=queue_trace) as driver:
        before = {number: signal.signal(number, lambda _number, _frame: driver.stop()) for number in ending}
        # The server's threads inherit this: signals are for this thread, and end its sleep.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
        turn_s = sys.getswitchinterval()
        server: P4RuntimeServer | None = None
        try:
            server = serve(
                driver.switch,
                device_config=device_config,
                p4info=p4info,
                device_id=device_id,
                address=address,
                announce=say,
            )
            say(
                "ports: "
                + ", ".join(f"{port.number} on {port.interface} at {in_words(port.rate_bps)}" for port in ports)
            )
            # What exists now stays; looking through it again and again would stop packets for milliseconds.
            gc.collect()
            gc.freeze()
            sys.setswitchinterval(THREAD_TURN_S)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
            driver.run()
        finally:
            if server is not None:
                server.stop(0)
            sys.setswitchinterval(turn_s)
            gc.unfreeze()
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for line in driver.summary():
            say(line)


def _take_precedence() -> None:
    # A link does not wait for its turn. All threads: one that waits for a core may hold what the packet loop needs.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def in_words(rate_bps: int) -> str:
    """A rate for people: ``20 Mb/s``."""
    for factor, unit in ((10**9, "Gb/s"), (10**6, "Mb/s"), (10**3, "kb/s")):
        if rate_bps >= factor:
            return f"{rate_bps / factor:g} {unit}"
    return f"{rate_bps} b/s"
