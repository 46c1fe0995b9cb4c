"""The loop that moves packets between interfaces and a switch, in one thread, on a real clock.

It sleeps until a frame arrives or a port's link is free, and polls only shortly before a departure, since timers are
not precise enough. While a pipeline runs as machine code, so does the moving of packets; see
:mod:`soft_switch.realtime.movers`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from soft_switch.errors import ProgramAssertionError
from soft_switch.native.errors import NativeError
from soft_switch.pipeline import Pipeline
from soft_switch.realtime.errors import InterfaceError
from soft_switch.realtime.movers import FrameSocket, NativeMover, PacketMover, PacketOuts, PythonMover
from soft_switch.realtime.packet_socket import Condition, PacketSocket
from soft_switch.switch import Switch

_LOG = logging.getLogger(__name__)

IDLE_S = 0.5
"""The longest sleep, which bounds how old the counters of an idle switch are."""
LOOK_NS = 1_000_000_000
"""Time between two looks at the interfaces."""


class Driver:
    """Driver of ``switch`` on ``sockets``, by port number; the switch already has these ports.

    Attributes:
        refused: packets dropped because an assertion of the program failed for them.
        conditions: the condition of each port's interface at the last look.
    """

    def __init__(
        self,
        switch: Switch,
        sockets: Mapping[int, FrameSocket],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.switch = switch
        self.refused = 0
        self.conditions: dict[int, Condition] = dict.fromkeys(sockets, "up")
        self._sockets = dict(sockets)
        self._look_ns = 0
        self._clock = clock
        self._warned: set[tuple[str, str]] = set()
        self._python = PythonMover(switch, self._sockets, clock, self._refuse)
        self._mover: PacketMover = self._python
        self._pipeline: Pipeline | None = None
        self._packet_outs: PacketOuts = deque()
        self._stopping = False
        self._slipped_ns = 0
        switch.on_backlog = self._python.pacer.wake
        switch.on_packet_out = self._packet_out
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._wakeup, select.EPOLLIN)
        for socket in self._sockets.values():
            self._poll.register(socket.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Move packets until :meth:`stop` is called."""
        _sharpen_timers()
        woken = False
        while not self._stopping:
            if self._clock() >= self._look_ns:
                self._look()
            if self.switch.pipeline is not self._pipeline:
                self._adopt()
            next_ns = self._mover.turn(self._packet_outs)
            if next_ns == 0:
                woken = False
                continue
            if woken or next_ns is None:
                # Woken by something else than a frame, or about to sleep for long.
                self._mover.settle()
                self._check_interfaces()
            woken = self._wait(next_ns)
        self._use(self._python)

    def stop(self) -> None:
        """Make :meth:`run` return; from any thread."""
        self._stopping = True
        os.eventfd_write(self._wakeup, 1)

    def close(self) -> None:
        """Release what the loop itself holds; the owner of the sockets closes them."""
        self._use(self._python)
        self.switch.on_backlog = self.switch.on_packet_out = None
        self._poll.close()
        os.close(self._wakeup)

    @property
    def interfaces(self) -> dict[int, str]:
        """The interface of each port."""
        return {number: socket.interface for number, socket in self._sockets.items()}

    @property
    def slipped_ns(self) -> int:
        """Link time lost because the process did not run in time."""
        running = self._mover.slipped_ns if self._mover is not self._python else 0
        return self._python.slipped_ns + self._slipped_ns + running

    def losses(self) -> dict[int, dict[str, int]]:
        """Return the frames that each port lost at its interface, by reason."""
        return {
            number: {
                "lost before the switch read them": socket.lost(),
                "dropped without checksum": socket.unfinished,
                "dropped as longer than the MTU": socket.oversized,
                "not accepted by the interface": socket.unsent,
            }
            for number, socket in self._sockets.items()
        }

    def summary(self) -> list[str]:
        """Return what went wrong while the loop ran, a line for each kind; empty if nothing did."""
        lines = []
        for number, counts in self.losses().items():
            told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            if told:
                lines.append(f"port {number} ({self.interfaces[number]}), frames: {told}")
        if slipped_ns := self.slipped_ns:
            lines.append(f"{slipped_ns / 1e6:.1f} ms of link time lost because the process did not run in time")
        if self.refused:
            lines.append(f"{self.refused} packets for which an assertion of the program failed")
        return lines

    def _adopt(self) -> None:
        """Start to use the pipeline that was installed: by machine code, if everything that it needs is possible."""
        with self.switch.lock:
            pipeline = self._pipeline = self.switch.pipeline
            self._use(self._python)
            sockets = {number: s for number, s in self._sockets.items() if isinstance(s, PacketSocket)}
            if pipeline is None or pipeline.machine_code is None or len(sockets) < len(self._sockets):
                return
            with contextlib.suppress(NativeError):
                code = pipeline.machine_code
                self._use(NativeMover(self.switch, pipeline, code, sockets, self._clock, self._refuse))

    def _use(self, mover: PacketMover) -> None:
        if mover is not self._mover:
            if self._mover is not self._python:
                self._slipped_ns += self._mover.slipped_ns
            self._mover.close()
            self._mover = mover

    def _refuse(self, error: ProgramAssertionError) -> None:
        self.refused += 1
        self._warn_once("the program", str(error))

    def _wait(self, next_ns: int | None) -> bool:
        """Wait until a frame may have arrived or a port's link is almost free; return True for the former."""
        timeout_s = IDLE_S if next_ns is None else max(0, next_ns - self._clock() - self._mover.poll_ns) / 1e9
        # epoll itself counts in milliseconds, select in microseconds.
        ready, _, _ = select.select((self._poll,), (), (), timeout_s)
        return bool(ready)

    def _check_interfaces(self) -> None:
        """Handle what is not a frame: errors of interfaces, calls from other threads, frames that were dropped."""
        for descriptor, events in self._poll.poll(0):
            if descriptor == self._wakeup:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wakeup)
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                self._interface_error(descriptor)
        for number, socket in self._sockets.items():
            if socket.unfinished:
                self._warn_once(
                    socket.interface,
                    f"port {number}: frames arrive without checksums and are dropped; at the other end of "
                    f"{socket.interface} turn off: ethtool -K PEER tx off tso off gso off",
                )
            if socket.oversized:
                self._warn_once(
                    socket.interface,
                    f"port {number}: frames longer than the MTU of {socket.interface} are dropped; at its other end "
                    f"turn off: ethtool -K PEER tso off gso off gro off",
                )

    def _interface_error(self, descriptor: int) -> None:
        number, socket = next(item for item in self._sockets.items() if item[1].fileno() == descriptor)
        # The next look tells whether the interface is down or gone.
        if (error := socket.error()) and error != errno.ENETDOWN:
            _LOG.warning("port %d, interface %s: %s", number, socket.interface, os.strerror(error))

    def _look(self) -> None:
        """Log which interfaces went, returned or came up, and take those that were made again."""
        self._look_ns = self._clock() + LOOK_NS
        for number, socket in self._sockets.items():
            before, name = self.conditions[number], socket.interface
            condition = socket.condition
            if condition == "replaced":
                if not self._reopened(number, socket):
                    continue
                _LOG.info("port %d: interface %s was made again and is attached", number, name)
                before, condition = "up", socket.condition
            self.conditions[number] = condition
            if condition == before:
                continue
            if condition == "up":
                _LOG.info("port %d: interface %s is up again", number, name)
            elif condition == "down":
                _LOG.warning("port %d: interface %s is down; run: ip link set %s up", number, name, name)
            else:
                _LOG.warning("port %d: interface %s is gone; it is attached again when it is made again", number, name)

    def _reopened(self, number: int, socket: FrameSocket) -> bool:
        self._poll.unregister(socket.fileno())
        self._mover.detach(number)
        try:
            socket.reopen()
        except InterfaceError as error:
            self._warn_once(socket.interface, f"port {number}: {error}")
            return False
        finally:
            self._mover.attach(number)
            self._poll.register(socket.fileno(), select.EPOLLIN)
        return True

    def _warn_once(self, place: str, message: str) -> None:
        if (place, message) not in self._warned:
            self._warned.add((place, message))
            _LOG.warning("%s", message)

    def _packet_out(self, port: int, data: bytes) -> None:
        self._packet_outs.append((port, data))
        os.eventfd_write(self._wakeup, 1)


def _sharpen_timers() -> None:
    # By default the kernel lets a thread sleep 50 us longer than asked. Only a process's main thread can change this.
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1")
