"""A network of real TCP connections between network namespaces, in real time, as the serving model asks for it.

Both ends of all connections are in this process, so that an end knows what to expect and nothing but payload is sent.
Connections are kept and used again, one flow at a time, as serving engines do.

The model's time runs ``stretch`` times slower than real time: an interpreter that moves packets is no 100 Gb/s switch.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from pyroute2 import netns

from host_agent.protocol.flow_spec import FlowSpec
from mfs_eval.errors import EvaluationError

RECEIVE_BUFFER_BYTES = 128 * 1024
"""Bounds what a connection has under way to about 16 packets, as in the model: a queue of the switch holds ten such."""
_SOMETHING = bytes(256 * 1024)
_ROOM = memoryview(bytearray(256 * 1024))
_CONNECT_S = 10.0
_CONNECTORS = 8


class Stamper(Protocol):
    """Who is told what connections carry, so that their packets are stamped. Times are on CLOCK_MONOTONIC.

    Each host has a thread of its own that calls it, for it may have to wait for the host's agent.
    """

    def open(self, host: int, connection: socket.socket, spec: FlowSpec, number: int, deadline_ns: int) -> None:
        """From now on ``connection``, of ``host``, carries the flow; what it carried before is over."""
        ...

    def advance(self, host: int, batch: int, layer: int) -> None:
        """``host`` learns that ``batch`` computes ``layer``."""
        ...


class NoStamps:
    """Packets without stamps: for policies that do not look at them."""

    def open(self, host: int, connection: socket.socket, spec: FlowSpec, number: int, deadline_ns: int) -> None:
        """Nothing."""

    def advance(self, host: int, batch: int, layer: int) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a host is: its network namespace and its address there."""

    namespace: str
    address: str


@dataclass(slots=True)
class _Flow:
    unsent: int
    missing: int
    on_complete: Callable[[int], None]


@dataclass(slots=True)
class _Connection:
    """Two sockets, and the flow that they carry now."""

    source: int
    destination: int
    sender: socket.socket
    receiver: socket.socket
    flow: _Flow | None = None


class LiveNetwork:
    """Hosts in network namespaces, and the event loop of what happens between them. A context manager.

    Attributes:
        connections, flows: how many were made, and started.
        worst_delay_ns: the greatest delay, in real time, with which a timed call was made: how busy the process was.
    """

    def __init__(
        self,
        places: Mapping[int, Place],
        stretch: float = 1.0,
        stamper: Stamper | None = None,
        first_batch: int = 0,
    ) -> None:
        """``places`` of the hosts by number. The model's time begins now.

        ``first_batch`` is added to the model's batches: switches remember those of an earlier run.
        """
        self.connections = self.flows = 0
        self.worst_delay_ns = 0
        self._places = places
        self._stretch = stretch
        self._stamper: Stamper = stamper or NoStamps()
        self._first_batch = first_batch
        self._start_ns = time.monotonic_ns()
        self._posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._scheduled = itertools.count()
        self._numbers = itertools.count()
        self._idle: dict[tuple[int, int], list[_Connection]] = defaultdict(list)
        self._by_descriptor: dict[int, _Connection] = {}
        self._poll = select.epoll()
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._poll.close)
        self._stack.callback(os.close, self._wakeup)
        self._poll.register(self._wakeup, select.EPOLLIN)
        self._threads: dict[int, ThreadPoolExecutor] = {}
        self._connecting: dict[int, threading.Lock] = {host: threading.Lock() for host in places}
        self._listeners: dict[int, socket.socket] = {}
        try:
            for host, place in places.items():
                # A thread stays in the namespace that it has entered, and so do the sockets that it opens.
                self._threads[host] = self._stack.enter_context(
                    ThreadPoolExecutor(1, initializer=netns.setns, initargs=(place.namespace,))
                )
                self._listeners[host] = self._stack.enter_context(self._open(host))
                self._listeners[host].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
                self._listeners[host].bind((place.address, 0))
                self._listeners[host].listen(1024)
                self._listeners[host].settimeout(_CONNECT_S)
            self._connectors = self._stack.enter_context(ThreadPoolExecutor(_CONNECTORS))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> LiveNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def now_ns(self) -> int:
        """The model's time, nanoseconds."""
        return round((time.monotonic_ns() - self._start_ns) / self._stretch)

    def real_ns(self, time_ns: int) -> int:
        """The model's time ``time_ns`` on CLOCK_MONOTONIC."""
        return self._start_ns + round(time_ns * self._stretch)

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``, or as soon as possible after it."""
        heapq.heappush(self._events, (time_ns, next(self._scheduled), function, args))

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send a flow over a connection that is free, or a new one; within a host it is complete at once.

        Raises:
            EvaluationError: a host that is not there; in :meth:`run`, no connection can be made.
        """
        if source_host == spec.destination:
            now_ns = self.now_ns
            self.call_at(now_ns, on_complete, now_ns)
            return
        if source_host not in self._places or spec.destination not in self._places:
            raise EvaluationError(
                f"no flow from host {source_host} to {spec.destination}: the hosts are {sorted(self._places)}"
            )
        self.flows += 1
        if idle := self._idle[source_host, spec.destination]:
            # The one that was used last: its window is the widest.
            self._carry(idle.pop(), spec, on_complete)
            return
        # Its first packets are not stamped, and may have to wait.
        self._connectors.submit(self._connect, source_host, spec.destination).add_done_callback(
            lambda made: self._post(lambda: self._carry(self._register(made.result()), spec, on_complete))
        )

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """Tell the hosts' stampers."""
        for host in hosts:
            self._tell(host, partial(self._stamper.advance, host, batch + self._first_batch, layer))

    def prune(self, requests: Collection[int]) -> None:
        """Nothing is given up here."""

    def warm_up(self, each: int) -> None:
        """Make ``each`` connections from every host to every other, before the time counts; it begins anew then.

        Raises:
            EvaluationError: no connection can be made.
        """
        for source, destination in itertools.permutations(self._places, 2):
            for _ in range(each):
                self._idle[source, destination].append(self._register(self._connect(source, destination)))
        self._start_ns = time.monotonic_ns()

    def run(self, until: Callable[[], bool]) -> None:
        """Let things happen until ``until()``, which is asked after each of them."""
        while not until():
            now_ns = self.now_ns
            if self._events and self._events[0][0] <= now_ns:
                time_ns, _, function, args = heapq.heappop(self._events)
                self.worst_delay_ns = max(self.worst_delay_ns, round((now_ns - time_ns) * self._stretch))
                function(*args)
                continue
            timeout = 0.1
            if self._events:
                timeout = min(timeout, (self._events[0][0] - now_ns) * self._stretch / 1e9)
            # Select, for epoll itself counts in milliseconds.
            if select.select([self._poll], [], [], timeout)[0]:
                self._move()

    def _carry(self, connection: _Connection, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        connection.flow = _Flow(spec.total_bytes, spec.total_bytes, on_complete)
        told = replace(spec, batch=spec.batch + self._first_batch)
        number = next(self._numbers) & 0xFFFF
        deadline_ns = self.real_ns(spec.deadline_ns)
        self._tell(
            connection.source,
            lambda: self._stamper.open(connection.source, connection.sender, told, number, deadline_ns),
            lambda: self._send(connection),
        )

    def _tell(self, host: int, function: Callable[[], None], then: Callable[[], None] = lambda: None) -> None:
        """Call ``function`` in the host's thread, and ``then``, in the loop, after it."""

        def done(future: Future[None]) -> None:
            def go_on() -> None:
                future.result()
                then()

            self._post(go_on)

        self._threads[host].submit(function).add_done_callback(done)

    def _post(self, function: Callable[[], None]) -> None:
        """Have the loop call ``function``; from any thread."""
        self._posted.put(function)
        os.eventfd_write(self._wakeup, 1)

    def _go_on(self) -> None:
        os.eventfd_read(self._wakeup)
        with contextlib.suppress(Empty):
            while True:
                self._posted.get_nowait()()

    def _move(self) -> None:
        for descriptor, events in self._poll.poll(0):
            if descriptor == self._wakeup:
                self._go_on()
                continue
            connection = self._by_descriptor[descriptor]
            if connection.flow is None:
                continue
            if descriptor == connection.receiver.fileno():
                self._receive(connection)
            elif events & select.EPOLLOUT:
                self._send(connection)

    def _send(self, connection: _Connection) -> None:
        flow = connection.flow
        assert flow is not None
        with contextlib.suppress(BlockingIOError):
            while flow.unsent:
                flow.unsent -= connection.sender.send(memoryview(_SOMETHING)[: flow.unsent])
        self._poll.modify(connection.sender.fileno(), select.EPOLLOUT if flow.unsent else 0)

    def _receive(self, connection: _Connection) -> None:
        flow = connection.flow
        assert flow is not None
        with contextlib.suppress(BlockingIOError):
            while flow.missing:
                received = connection.receiver.recv_into(_ROOM)
                if not received:
                    raise EvaluationError("a connection between two hosts has ended")
                flow.missing -= received
        if not flow.missing:
            connection.flow = None
            self._idle[connection.source, connection.destination].append(connection)
            flow.on_complete(self.now_ns)

    def _open(self, host: int) -> socket.socket:
        return self._threads[host].submit(socket.socket, socket.AF_INET, socket.SOCK_STREAM).result()

    def _connect(self, source: int, destination: int) -> _Connection:
        """A connection, in whatever thread."""
        listener = self._listeners[destination]
        sender = self._open(source)
        try:
            # One after the other, so that the one accepted is the one made.
            with self._connecting[destination]:
                sender.settimeout(_CONNECT_S)
                sender.connect(listener.getsockname())
                receiver, _ = listener.accept()
        except OSError as error:
            sender.close()
            raise EvaluationError(
                f"no connection from {self._places[source].address} to {self._places[destination].address}: {error}"
            ) from error
        return _Connection(source, destination, sender, receiver)

    def _register(self, connection: _Connection) -> _Connection:
        for end, events in ((connection.sender, 0), (connection.receiver, select.EPOLLIN)):
            self._stack.enter_context(end)
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._by_descriptor[end.fileno()] = connection
            self._poll.register(end.fileno(), events)
        self.connections += 1
        return connection
