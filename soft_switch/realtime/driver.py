"""The loop that moves packets between interfaces and a switch, in one thread, on a real clock.

It sleeps until a frame arrives or a port's link is free, and polls only in the last moments before a departure: timers
are not that exact. While a pipeline runs as machine code, so does the loop (:mod:`soft_switch.native.forwarder`), in
turns of half a millisecond between which it looks to the rest.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from soft_switch.errors import ProgramAssertionError
from soft_switch.native.errors import NativeError
from soft_switch.native.forwarder import Forwarder
from soft_switch.pipeline import Pipeline
from soft_switch.realtime.pacer import CATCH_UP_NS, Pacer
from soft_switch.realtime.packet_socket import PacketSocket
from soft_switch.switch import Switch

POLL_NS = 30_000
"""How long before a departure the loop polls instead of sleeping."""
ARRIVALS_PER_TURN = 4
"""Frames taken from one port before departures have their turn: bounds how late they get."""
DEPARTURES_PER_TURN = 16
NATIVE_ARRIVALS = 16
"""The same where a frame takes a microsecond or two."""
NATIVE_POLL_NS = 100_000
"""Longer than where Python polls: it is exact, and no other thread of the process waits for it."""
NATIVE_TURN_NS = 500_000
"""How long machine code moves packets before whoever waits to write to the switch has a turn."""
IDLE_S = 0.5
"""The longest sleep: a signal just before it begins is seen only after it."""


class FrameSocket(Protocol):
    """What the loop needs of a port's socket; :class:`~soft_switch.realtime.packet_socket.PacketSocket` is one."""

    interface: str
    unfinished: int
    oversized: int
    unsent: int

    def fileno(self) -> int:
        """Readable when frames wait."""

    def take(self) -> bytes | None:
        """The next frame; None when none waits."""

    def send(self, frame: bytes) -> bool:
        """Send at once, or drop."""

    def error(self) -> int:
        """A pending error number, or 0."""

    def lost(self) -> int:
        """Frames lost before they could be taken."""


class Driver:
    """Runs ``switch`` on ``sockets``, by port number; the switch has these ports already.

    Attributes:
        pacer: when ports send.
        refused: packets dropped because an ``assert`` of the program did not hold for them.
    """

    def __init__(
        self,
        switch: Switch,
        sockets: Mapping[int, FrameSocket],
        say: Callable[[str], None] = print,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.switch = switch
        self.refused = 0
        self._sockets = dict(sockets)
        self._say = say
        self._clock = clock
        self._said: set[tuple[str, str]] = set()
        self._forwarder: Forwarder | None = None
        self._pipeline: Pipeline | None = None
        self._next_ns: int | None = None
        self._injected: deque[tuple[int, bytes]] = deque()
        self._stopping = False
        self._slipped_ns = 0
        self.pacer = Pacer(clock, switch.transmit, lambda port, frame: self._sockets[port].send(frame))
        switch.on_backlog = self.pacer.wake
        switch.on_packet_out = self._inject
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._wakeup, select.EPOLLIN)
        for socket in self._sockets.values():
            self._poll.register(socket.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Move packets until :meth:`stop` is called."""
        _sharpen_timers()
        sockets = list(self._sockets.items())
        take_in, send_due = self._take_in, self.pacer.send_due
        woken = False
        while not self._stopping:
            if self.switch.pipeline is not self._pipeline:
                self._adopt()
            if self._forwarder is not None:
                woken = self._turn(self._forwarder, woken)
                continue
            moved = 0
            for number, socket in sockets:
                moved += take_in(number, socket)
                moved += send_due(DEPARTURES_PER_TURN)
            while self._injected:
                self._receive(*self._injected.popleft())
                moved += 1
            if not moved:
                self._next_ns = self.pacer.next_ns
                if woken or self._next_ns is None:
                    # Woken by something else than a frame, or about to sleep for long.
                    self._look()
                woken = self._wait()
        self._drop_forwarder()

    def _adopt(self) -> None:
        """Another pipeline was installed: in C, if everything it needs can be had there."""
        with self.switch.lock:
            pipeline = self._pipeline = self.switch.pipeline
            self._drop_forwarder()
            sockets = {number: s for number, s in self._sockets.items() if isinstance(s, PacketSocket)}
            if pipeline is None or pipeline.machine_code is None or len(sockets) < len(self._sockets):
                return
            with contextlib.suppress(NativeError):
                self._forwarder = Forwarder(
                    pipeline.machine_code,
                    self.switch.ports,
                    sockets,
                    CATCH_UP_NS,
                    self.switch.cpu_port,
                    self._packet_in,
                )

    def _packet_in(self, frame: bytes) -> None:
        if self.switch.on_packet_in is not None:
            self.switch.on_packet_in(frame)

    def _drop_forwarder(self) -> None:
        if self._forwarder is not None:
            self._forwarder.account()
            self._slipped_ns += self._forwarder.slipped_ns
            self.switch.undeliverable += self._forwarder.undeliverable + self._forwarder.clear()
            self._forwarder.close()
            self._forwarder = None

    def _turn(self, forwarder: Forwarder, woken: bool) -> bool:
        """A turn of machine code, and sleep if nothing is to be done; whether a frame may have come."""
        try:
            with self.switch.lock:
                if self.switch.pipeline is not self._pipeline:
                    return False
                while self._injected:
                    forwarder.receive(*self._injected.popleft(), self._clock())
                self._next_ns = forwarder.run(NATIVE_ARRIVALS, DEPARTURES_PER_TURN, NATIVE_TURN_NS, NATIVE_POLL_NS)
        except ProgramAssertionError as error:
            self._refuse(error)
            return False
        if self._next_ns == 0:
            return False
        if woken or self._next_ns is None:
            forwarder.account()
            self._look()
        return self._wait()

    def stop(self) -> None:
        """Make :meth:`run` return; from any thread, or a signal handler."""
        self._stopping = True
        os.eventfd_write(self._wakeup, 1)

    def close(self) -> None:
        """Give back what the loop itself holds; the sockets are their owner's to close."""
        self._drop_forwarder()
        self.switch.on_backlog = self.switch.on_packet_out = None
        self._poll.close()
        os.close(self._wakeup)

    def summary(self) -> list[str]:
        """What went wrong while it ran, a line for each kind; empty when nothing did."""
        lines = []
        for number, socket in self._sockets.items():
            counts = {
                "lost before the switch read them": socket.lost(),
                "dropped without checksum": socket.unfinished,
                "dropped as longer than the MTU": socket.oversized,
                "not taken by the interface": socket.unsent,
            }
            told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            if told:
                lines.append(f"port {number} ({socket.interface}), frames: {told}")
        if slipped_ns := self.pacer.slipped_ns + self._slipped_ns:
            lines.append(f"{slipped_ns / 1e6:.1f} ms of link time lost: the process was not run in time")
        if self.refused:
            lines.append(f"{self.refused} packets for which an assertion of the program failed")
        return lines

    def _take_in(self, number: int, socket: FrameSocket) -> int:
        for count in range(ARRIVALS_PER_TURN):
            frame = socket.take()
            if frame is None:
                return count
            self._receive(number, frame)
        return ARRIVALS_PER_TURN

    def _receive(self, number: int, frame: bytes) -> None:
        try:
            self.switch.receive(number, frame, self._clock())
        except ProgramAssertionError as error:
            self._refuse(error)

    def _refuse(self, error: ProgramAssertionError) -> None:
        self.refused += 1
        self._say_once("the program", str(error))

    def _wait(self) -> bool:
        """Until a frame may have come or a port's link is almost free; True for the former."""
        next_ns = self._next_ns
        early_ns = POLL_NS if self._forwarder is None else NATIVE_POLL_NS
        timeout_s = IDLE_S if next_ns is None else max(0, next_ns - self._clock() - early_ns) / 1e9
        # epoll itself counts in milliseconds, select in microseconds.
        ready, _, _ = select.select((self._poll,), (), (), timeout_s)
        return bool(ready)

    def _look(self) -> None:
        """See to what is no frame: errors of interfaces, and calls from other threads."""
        for descriptor, events in self._poll.poll(0):
            if descriptor == self._wakeup:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wakeup)
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                self._interface_error(descriptor)
        for number, socket in self._sockets.items():
            if socket.unfinished:
                self._say_once(
                    socket.interface,
                    f"port {number}: frames come without checksums, and are dropped; turn off at the other end of "
                    f"{socket.interface}: ethtool -K PEER tx off tso off gso off",
                )
            if socket.oversized:
                self._say_once(
                    socket.interface,
                    f"port {number}: frames longer than the MTU of {socket.interface} are dropped; turn off at its "
                    f"other end: ethtool -K PEER tso off gso off gro off",
                )

    def _interface_error(self, descriptor: int) -> None:
        number, socket = next(item for item in self._sockets.items() if item[1].fileno() == descriptor)
        if error := socket.error():
            self._say(f"port {number}, interface {socket.interface}: {os.strerror(error)}")

    def _say_once(self, place: str, message: str) -> None:
        if (place, message) not in self._said:
            self._said.add((place, message))
            self._say(message)

    def _inject(self, port: int, data: bytes) -> None:
        self._injected.append((port, data))
        os.eventfd_write(self._wakeup, 1)


def _sharpen_timers() -> None:
    # By default the kernel lets a thread sleep 50 us longer than asked. Only a process's main thread can do this.
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1")
