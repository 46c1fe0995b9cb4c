"""Messages that the switch sends to clients unasked: packet-ins, digests and idle timeouts of the running program."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import packet_io, table_reads
from soft_switch.p4runtime.client_stream import ClientStream
from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.sessions import Sessions

_LOG = logging.getLogger(__name__)


class Notifications:
    """Notifications of ``program`` to the primaries of all roles in whose scope they are.

    Attributes:
        program: the program that runs; None before the first.
    """

    def __init__(
        self,
        sessions: Sessions,
        lock: threading.RLock,
        clock: Callable[[], int],
        epoch_clock: Callable[[], int],
        on_waiting: Callable[[], None],
    ) -> None:
        """Share the switch's ``lock``; call ``on_waiting`` when :meth:`send_due` may be due earlier than it said."""
        self.program: LoadedProgram | None = None
        self._sessions = sessions
        self._lock = lock
        self._clock = clock
        self._epoch_clock = epoch_clock
        self._on_waiting = on_waiting

    def packet_in(self, data: bytes) -> None:
        """Send a packet that left by the CPU port."""
        with self._lock:
            if self.program is None:
                return
            roles = self.program.roles
            receivers = [
                stream for role, stream in self._sessions.primaries() if roles.has_packet_io(role, "packet_in")
            ]
            if not receivers:
                return
            try:
                packet = packet_io.unpack_packet_in(self.program.info.packet_in, data)
            except packet_io.ShortPacketError as error:
                _LOG.warning("dropped: %s", error)
                return
            for stream in receivers:
                stream.offer(p4runtime_pb2.StreamMessageResponse(packet=packet))

    def digest(self, name: str, values: tuple[int, ...]) -> None:
        """Take a digest message of the data plane; send its list now if that is due."""
        with self._lock:
            if self.program is None:
                return
            if self.program.digests.offer(name, values, self._clock()):
                self.send_due()
            else:
                self._on_waiting()

    def send_due(self) -> int | None:
        """Send digests and idle timeouts that are due; return nanoseconds until the next, None if none waits."""
        with self._lock:
            program = self.program
            if program is None:
                return None
            now_ns = self._clock()
            self._send_idle_timeouts(program, now_ns)
            for message in program.digests.take_due(now_ns, self._epoch_clock()):
                receivers = self._receivers(program, message.digest_id)
                for stream in receivers:
                    stream.offer(p4runtime_pb2.StreamMessageResponse(digest=message))
                if not receivers:
                    program.digests.forget(message)
            due = (program.digests.next_due_ns(), program.idle.next_ns())
            return min((max(0, time_ns - now_ns) for time_ns in due if time_ns is not None), default=None)

    def _send_idle_timeouts(self, program: LoadedProgram, now_ns: int) -> None:
        for name, entries in program.idle.take(now_ns).items():
            table = program.info.tables.by_name.get(name)
            if table is None:
                continue
            response = p4runtime_pb2.StreamMessageResponse()
            notification = response.idle_timeout_notification
            notification.timestamp = self._epoch_clock()
            for entry in entries:
                table_reads.idle_entry(program, table, entry, notification.table_entry.add())
            for stream in self._receivers(program, table.id):
                stream.offer(response)

    def _receivers(self, program: LoadedProgram, object_id: int) -> list[ClientStream]:
        """Return the primaries of all roles in whose scope the object is."""
        return [stream for role, stream in self._sessions.primaries() if program.roles.owns(role, object_id)]
