"""Moving packets between sockets and the switch, in Python or in machine code, behind one interface."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from soft_switch.errors import ProgramAssertionError
from soft_switch.native.engine import MachineCode
from soft_switch.native.forwarder import Forwarder
from soft_switch.pipeline import Pipeline
from soft_switch.realtime.pacer import CATCH_UP_NS, Pacer
from soft_switch.realtime.packet_socket import Condition, PacketSocket
from soft_switch.switch import Switch

ARRIVALS_PER_TURN = 4
"""Frames that Python takes from one port before departures have their turn, which bounds how late these get."""
DEPARTURES_PER_TURN = 16
POLL_NS = 30_000
"""Time before a departure during which the loop polls instead of sleeping."""
NATIVE_ARRIVALS_PER_TURN = 16
"""As :data:`ARRIVALS_PER_TURN`, where a frame takes a microsecond or two."""
NATIVE_POLL_NS = 100_000
"""As :data:`POLL_NS`; longer, since machine code polls without holding up other threads."""
NATIVE_TURN_NS = 500_000
"""Time that machine code moves packets before threads that wait to write to the switch have a turn."""

PacketOuts = deque[tuple[int, bytes]]
"""Packets from the controller that wait for the loop, as (port, frame)."""


class FrameSocket(Protocol):
    """A port's socket, as a mover needs it; :class:`~soft_switch.realtime.packet_socket.PacketSocket` is one."""

    interface: str
    unfinished: int
    oversized: int
    unsent: int

    def fileno(self) -> int:
        """Return a descriptor that is readable when frames wait."""

    def take(self) -> bytes | None:
        """Return the next frame; None when none waits."""

    def send(self, frame: bytes) -> bool:
        """Send at once, or drop."""

    @property
    def condition(self) -> Condition:
        """Condition of the interface."""

    def reopen(self) -> None:
        """Take the interface that replaced the first one."""

    def error(self) -> int:
        """Return a pending error number, or 0."""

    def lost(self) -> int:
        """Return the number of frames lost before they could be taken."""


Refuse = Callable[[ProgramAssertionError], None]
"""Called with the error of each packet for which an assertion of the program failed."""


class PacketMover(Protocol):
    """Interface that moves packets in turns; one thread calls it.

    Attributes:
        poll_ns: how long before a departure the next turn must begin.
    """

    poll_ns: int

    @property
    def slipped_ns(self) -> int:
        """Link time lost because turns came too late."""

    def turn(self, packet_outs: PacketOuts) -> int | None:
        """Move the packets that are there, and take ``packet_outs``.

        Returns:
            The time of the next departure in nanoseconds, 0 if the next turn is due at once, or None if there is
            nothing to do until another frame arrives.
        """

    def detach(self, port: int) -> None:
        """Leave the port's socket alone until :meth:`attach`; what waits in the port's queues stays."""

    def attach(self, port: int) -> None:
        """Use the port's socket again, which may have been opened again."""

    def settle(self) -> None:
        """Bring the counters of sockets and ports up to date."""

    def close(self) -> None:
        """Stop; packets in the mover's own queues are counted as undeliverable."""


class PythonMover:
    """Mover through any pipeline, one packet at a time in Python."""

    poll_ns = POLL_NS

    def __init__(
        self, switch: Switch, sockets: Mapping[int, FrameSocket], clock: Callable[[], int], refuse: Refuse
    ) -> None:
        self.pacer = Pacer(clock, switch.transmit, lambda port, frame: sockets[port].send(frame))
        self._switch = switch
        self._sockets = list(sockets.items())
        self._clock = clock
        self._refuse = refuse

    @property
    def slipped_ns(self) -> int:
        """See :class:`PacketMover`."""
        return self.pacer.slipped_ns

    def turn(self, packet_outs: PacketOuts) -> int | None:
        """See :class:`PacketMover`."""
        moved = 0
        take_in, send_due = self._take_in, self.pacer.send_due
        for number, socket in self._sockets:
            moved += take_in(number, socket)
            moved += send_due(DEPARTURES_PER_TURN)
        while packet_outs:
            self._receive(*packet_outs.popleft())
            moved += 1
        return 0 if moved else self.pacer.next_ns

    def detach(self, port: int) -> None:
        """See :class:`PacketMover`; nothing is kept of the socket."""

    def attach(self, port: int) -> None:
        """See :class:`PacketMover`."""

    def settle(self) -> None:
        """See :class:`PacketMover`; the counters always are."""

    def close(self) -> None:
        """See :class:`PacketMover`; the queues are the switch's."""

    def _take_in(self, number: int, socket: FrameSocket) -> int:
        for count in range(ARRIVALS_PER_TURN):
            frame = socket.take()
            if frame is None:
                return count
            self._receive(number, frame)
        return ARRIVALS_PER_TURN

    def _receive(self, number: int, frame: bytes) -> None:
        try:
            self._switch.receive(number, frame, self._clock())
        except ProgramAssertionError as error:
            self._refuse(error)


class NativeMover:
    """Mover in machine code, through one pipeline that is machine code."""

    poll_ns = NATIVE_POLL_NS

    def __init__(
        self,
        switch: Switch,
        pipeline: Pipeline,
        machine_code: MachineCode,
        sockets: Mapping[int, PacketSocket],
        clock: Callable[[], int],
        refuse: Refuse,
    ) -> None:
        """Take over the ports of ``switch``; the caller holds its lock.

        Raises:
            NativeError: machine code cannot do what the pipeline needs.
        """
        self._switch = switch
        self._pipeline = pipeline
        self._clock = clock
        self._refuse = refuse
        self._forwarder = Forwarder(machine_code, switch.ports, sockets, CATCH_UP_NS, switch.cpu_port, self._packet_in)

    @property
    def slipped_ns(self) -> int:
        """See :class:`PacketMover`."""
        return self._forwarder.slipped_ns

    def turn(self, packet_outs: PacketOuts) -> int | None:
        """See :class:`PacketMover`. After another pipeline was installed it does nothing."""
        forwarder = self._forwarder
        try:
            with self._switch.lock:
                if self._switch.pipeline is not self._pipeline:
                    return 0
                while packet_outs:
                    forwarder.receive(*packet_outs.popleft(), self._clock())
                return forwarder.run(NATIVE_ARRIVALS_PER_TURN, DEPARTURES_PER_TURN, NATIVE_TURN_NS, NATIVE_POLL_NS)
        except ProgramAssertionError as error:
            self._refuse(error)
            return 0

    def detach(self, port: int) -> None:
        """See :class:`PacketMover`."""
        self._forwarder.detach(port)

    def attach(self, port: int) -> None:
        """See :class:`PacketMover`."""
        self._forwarder.attach(port)

    def settle(self) -> None:
        """See :class:`PacketMover`."""
        self._forwarder.account()

    def close(self) -> None:
        """See :class:`PacketMover`."""
        self._forwarder.account()
        self._switch.undeliverable += self._forwarder.undeliverable + self._forwarder.clear()
        self._forwarder.close()

    def _packet_in(self, frame: bytes) -> None:
        if self._switch.on_packet_in is not None:
            self._switch.on_packet_in(frame)
