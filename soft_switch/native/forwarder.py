"""The packet loop in C: from packet sockets through a pipeline in machine code and out at the rates of ports."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from soft_switch.native import library
from soft_switch.native.engine import MachineCode
from soft_switch.native.errors import NativeError
from soft_switch.queues.traffic_manager import QUEUES, Port

SOURCE = Path(__file__).with_name("forwarder.c")
LONGEST_FRAME_BYTES = 65536
DECLARATIONS = """
struct queue {
    void *head, *tail;
    uint64_t packets, bytes, limit, numerator, denominator, due;
    uint64_t enqueued_packets, enqueued_bytes, dequeued_packets, dequeued_bytes, dropped_packets, dropped_bytes;
};
struct port {
    uint64_t number;
    int fd;
    uint8_t *ring;
    uint64_t slot_bytes, slots, at, longest;
    struct queue queues[8];
    uint64_t busy, sent, next_due;
    int64_t next_queue;
    uint64_t rate_bps, excess;
    uint64_t is_sending, free_ns;
    uint64_t sent_packets, sent_bytes, unfinished, oversized, unsent;
};
struct forwarder {
    uintptr_t pipeline, ingress, egress, state, frame;
    uint64_t state_bytes;
    struct port *ports;
    uint64_t port_count;
    struct port *by_number[512];
    int64_t cpu_port;
    void (*packet_in)(const uint8_t *, uint64_t);
    uint64_t catch_up_ns, slipped_ns, worst_ns, undeliverable, faults;
};
int64_t forwarder_receive(struct forwarder *f, uint64_t port, const uint8_t *data, uint64_t n, uint64_t now_ns);
int64_t forwarder_run(struct forwarder *f, uint64_t arrivals, uint64_t departures, uint64_t most_ns, uint64_t poll_ns,
                      uint64_t *next_ns);
uint64_t forwarder_clear(struct forwarder *f);
int forwarder_enqueue(struct forwarder *f, uint64_t port, uint64_t priority, const uint8_t *data, uint64_t n,
                      uint64_t now_ns);
int64_t forwarder_next(struct forwarder *f, uint64_t port, uint64_t *out);
uint64_t forwarder_transmission_ns(struct forwarder *f, uint64_t port, uint64_t length);
"""
"""The structs and functions of ``forwarder.c``, in which cffi sets pointers to other libraries as numbers."""
_NEVER = 1 << 62
_NOTHING_DUE = (1 << 64) - 1
_FAILED = -4
_COUNTERS = ("enqueued", "dequeued", "dropped")


@functools.cache
def interface() -> Any:
    """Return the foreign function interface.

    Raises:
        NativeError: cffi is not installed.
    """
    return library.declared(DECLARATIONS)


class RingSocket(Protocol):
    """A packet socket as C needs it, such as :class:`~soft_switch.realtime.packet_socket.PacketSocket`."""

    unfinished: int
    oversized: int
    unsent: int
    position: int

    @property
    def ring(self) -> tuple[Any, int, int, int]:
        """(memory, bytes of a slot, slots, bytes of the longest frame)."""

    def fileno(self) -> int:
        """Return the file descriptor."""


class Forwarder:
    """Packet loop between ``sockets`` through ``machine_code``; ``ports`` give rates, shares and limits.

    :meth:`account` adds its counters to those of sockets and ports.
    """

    def __init__(
        self,
        machine_code: MachineCode,
        ports: Mapping[int, Port[Any]],
        sockets: Mapping[int, RingSocket],
        catch_up_ns: int,
        cpu_port: int | None = None,
        packet_in: Callable[[bytes], object] | None = None,
    ) -> None:
        """Create a forwarder; ``packet_in`` takes the frames that leave at ``cpu_port``. Tests may omit sockets.

        Raises:
            NativeError: no compiler or cffi is installed, or this program or these ports need Python.
        """
        if machine_code.makes_copies:
            raise NativeError("packets that are copied or re-enter go through Python")
        if any(type(port) is not Port for port in ports.values()):
            raise NativeError("ports with a queue trace go through Python")
        ffi = self._ffi = interface()
        self._library = library.load(ffi, SOURCE.read_text())
        self._machine_code = machine_code
        self._ports = dict(ports)
        self._sockets = dict(sockets)
        self._next_ns = ffi.new("uint64_t *")
        forwarder = self._forwarder = ffi.new("struct forwarder *")
        handles = machine_code.handles(LONGEST_FRAME_BYTES)
        forwarder.pipeline, forwarder.ingress, forwarder.egress = handles.pipeline, handles.ingress, handles.egress
        forwarder.state, forwarder.frame, forwarder.state_bytes = handles.state, handles.frame, handles.state_bytes
        forwarder.catch_up_ns = catch_up_ns
        forwarder.cpu_port = -1
        if cpu_port is not None and packet_in is not None:
            forwarder.cpu_port = cpu_port
            self._packet_in = ffi.callback(
                "void(const uint8_t *, uint64_t)", lambda frame, length: packet_in(bytes(ffi.buffer(frame, length)))
            )
            forwarder.packet_in = self._packet_in
        self._made = ffi.new("struct port[]", max(len(ports), 1))
        forwarder.ports, forwarder.port_count = self._made, len(ports)
        self._views: dict[int, Any] = {}
        for made, (number, port) in zip(self._made, ports.items(), strict=False):
            forwarder.by_number[number] = ffi.addressof(made)
            self._describe(made, number, port)
        for number in self._sockets:
            self.attach(number)
        self._accounted: dict[tuple[int, str], int] = {}

    @staticmethod
    def _describe(made: Any, number: int, port: Port[Any]) -> None:
        made.number, made.fd, made.rate_bps = number, -1, port.rate_bps
        made.next_due, made.next_queue = _NEVER, -1
        for queue, config in zip(made.queues, port.configs, strict=True):
            share = Fraction(config.guaranteed_share).limit_denominator(1 << 20)
            queue.numerator, queue.denominator = share.numerator, share.denominator
            queue.limit, queue.due = config.limit_bytes, _NEVER

    def attach(self, port: int) -> None:
        """Use the port's socket, which may have another ring than before."""
        made, socket = self._forwarder.by_number[port], self._sockets[port]
        memory, made.slot_bytes, made.slots, made.longest = socket.ring
        view = self._views[port] = self._ffi.from_buffer("uint8_t[]", memory)
        made.ring, made.fd, made.at = view, socket.fileno(), socket.position

    def detach(self, port: int) -> None:
        """Leave the port's socket alone until :meth:`attach`; its queues stay, and what is sent there is lost."""
        made = self._forwarder.by_number[port]
        self._sockets[port].position = int(made.at)
        made.ring, made.fd = self._ffi.NULL, -1
        self._ffi.release(self._views.pop(port))

    def run(self, arrivals: int, departures: int, most_ns: int, poll_ns: int) -> int | None:
        """Move packets for at most ``most_ns``: in turn ``arrivals`` of each port, then ``departures``.

        Returns:
            When the next link with a waiting packet is free, in ns of the monotonic clock; 0 if there is more to do at
            once, None if nothing waits.

        Raises:
            ProgramAssertionError: an assertion of the program does not hold.
        """
        self._machine_code.refresh()
        if self._library.forwarder_run(self._forwarder, arrivals, departures, most_ns, poll_ns, self._next_ns):
            self._machine_code.raise_failure()
        next_ns = int(self._next_ns[0])
        return None if next_ns == _NOTHING_DUE else next_ns

    def receive(self, port: int, data: bytes, now_ns: int) -> None:
        """Take a frame that did not arrive at a socket.

        Raises:
            ProgramAssertionError: an assertion of the program does not hold.
        """
        self._machine_code.refresh()
        if self._library.forwarder_receive(self._forwarder, port, data, len(data), now_ns):
            self._machine_code.raise_failure()

    @property
    def slipped_ns(self) -> int:
        """See :class:`~soft_switch.realtime.pacer.Pacer`."""
        return int(self._forwarder.slipped_ns)

    @property
    def undeliverable(self) -> int:
        """Packets sent to a port that does not exist."""
        return int(self._forwarder.undeliverable)

    def account(self) -> None:
        """Add what was counted since the last call to the counters of ports and sockets."""
        for made, (number, port) in zip(self._made, self._ports.items(), strict=False):
            port.sent_packets += self._more(number, "sent_packets", made.sent_packets)
            port.sent_bytes += self._more(number, "sent_bytes", made.sent_bytes)
            for index, (queue, counters) in enumerate(zip(made.queues, port.counters, strict=True)):
                for word in (f"{what}_{unit}" for what in _COUNTERS for unit in ("packets", "bytes")):
                    more = self._more(number, f"{index} {word}", getattr(queue, word))
                    setattr(counters, word, getattr(counters, word) + more)
            socket = self._sockets.get(number)
            if socket is not None:
                socket.position = int(made.at)
                for word in ("unfinished", "oversized", "unsent"):
                    setattr(socket, word, getattr(socket, word) + self._more(number, word, getattr(made, word)))

    def _more(self, number: int, what: str, now: int) -> int:
        before = self._accounted.get((number, what), 0)
        self._accounted[number, what] = int(now)
        return int(now) - before

    def clear(self) -> int:
        """Drop all queued packets; return how many there were."""
        return int(self._library.forwarder_clear(self._forwarder))

    def close(self) -> None:
        """Release all memory. The object cannot be used afterwards."""
        self.account()
        self.clear()
        for view in self._views.values():
            self._ffi.release(view)
        self._views = {}

    # For tests of the queues.

    def enqueue(self, port: int, data: bytes, priority: int, now_ns: int) -> bool:
        """See :meth:`soft_switch.queues.traffic_manager.Port.enqueue`."""
        return bool(self._library.forwarder_enqueue(self._forwarder, port, priority, data, len(data), now_ns))

    def next(self, port: int) -> tuple[int, int, int, int] | None:
        """Take a packet out of a port: (queue, length, depth when it was queued, depth left); None if it is empty."""
        out = self._ffi.new("uint64_t[3]")
        queue = int(self._library.forwarder_next(self._forwarder, port, out))
        return None if queue < 0 else (queue, int(out[0]), int(out[1]), int(out[2]))

    def transmission_ns(self, port: int, length: int) -> int:
        """See :meth:`soft_switch.queues.traffic_manager.Port.transmission_ns`."""
        return int(self._library.forwarder_transmission_ns(self._forwarder, port, length))


assert QUEUES == 8, "forwarder.c has the same number"
