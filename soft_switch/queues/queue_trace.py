"""A trace of what happens in the queues of ports, packet by packet."""

from __future__ import annotations

import contextlib
import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from soft_switch.errors import SwitchError
from soft_switch.queues.traffic_manager import Dequeued, NewPort, Port, QueueConfig

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

ENQUEUE = "enqueue"
DEQUEUE = "dequeue"
DROP = "drop"


class QueueTraceError(SwitchError):
    """The file of a trace cannot be written."""


class QueueEvent(NamedTuple):
    """A row of the trace: a packet entered a queue, left it, or was dropped because it was full.

    Attributes:
        time_ns: when.
        port: of the queue.
        queue: its number in the port.
        event: :data:`ENQUEUE`, :data:`DEQUEUE` or :data:`DROP`.
        length: bytes of the packet when it was enqueued.
        queue_packets: packets that wait in the queue after the event.
        queue_bytes: bytes that wait in the queue after the event.
        waited_ns: how long the packet was in the queue; 0 unless it is dequeued.
    """

    time_ns: int
    port: int
    queue: int
    event: str
    length: int
    queue_packets: int
    queue_bytes: int
    waited_ns: int


Record = Callable[[QueueEvent], object]


class TracedPort(Port[T]):
    """A :class:`~soft_switch.queues.traffic_manager.Port` that reports every packet to ``record``."""

    __slots__ = ("_clock", "_number", "_record")

    def __init__(
        self,
        number: int,
        rate_bps: int,
        queues: Sequence[QueueConfig] | None,
        clock: Callable[[], int],
        record: Record,
    ) -> None:
        """Create a port; ``clock`` gives the time in nanoseconds at which a packet is dequeued."""
        super().__init__(rate_bps, queues)
        self._number = number
        self._clock = clock
        self._record = record

    def enqueue(self, item: T, length: int, priority: int, now_ns: int) -> bool:
        """See :meth:`Port.enqueue`."""
        accepted = super().enqueue(item, length, priority, now_ns)
        self._note(now_ns, priority, ENQUEUE if accepted else DROP, length, 0)
        return accepted

    def next(self) -> Dequeued[T] | None:
        """See :meth:`Port.next`."""
        before = [counted.dequeued_bytes for counted in self.counters]
        dequeued = super().next()
        if dequeued is not None:
            now_ns, queue = self._clock(), dequeued.queue
            length = self.counters[queue].dequeued_bytes - before[queue]
            self._note(now_ns, queue, DEQUEUE, length, now_ns - dequeued.enqueued_ns)
        return dequeued

    def _note(self, now_ns: int, queue: int, event: str, length: int, waited_ns: int) -> None:
        counted = self.counters[queue]
        packets = counted.enqueued_packets - counted.dequeued_packets
        held = counted.enqueued_bytes - counted.dequeued_bytes
        self._record(QueueEvent(now_ns, self._number, queue, event, length, packets, held, waited_ns))


def traced(clock: Callable[[], int], record: Record) -> NewPort:
    """Return ``new_port`` for a :class:`~soft_switch.switch.Switch` whose ports report every packet to ``record``."""
    return lambda number, rate_bps, queues: TracedPort(number, rate_bps, queues, clock, record)


@contextlib.contextmanager
def csv_recorder(path: Path) -> Iterator[Record]:
    """Record events in a CSV file with a header line, a row each; the file is complete when the block ends.

    A file that can no longer be written, as on a full disk, ends the trace with a warning: packets go on.

    Raises:
        QueueTraceError: the file cannot be written at the start.
    """
    try:
        recorder = _CsvRecorder(path)
    except OSError as error:
        raise QueueTraceError(f"cannot write the queue trace {path}: {error.strerror or error}") from error
    try:
        yield recorder.record
    finally:
        recorder.close()


class _CsvRecorder:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(QueueEvent._fields)
        self._rows = 0
        self._broken = False

    def record(self, event: QueueEvent) -> None:
        if self._broken:
            return
        try:
            self._writer.writerow(event)
            self._rows += 1
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            if not self._broken:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._broken = True
        _LOG.warning(
            "the queue trace %s ends after about %d events: %s; the switch goes on without it",
            self._path,
            self._rows,
            error.strerror or error,
        )
