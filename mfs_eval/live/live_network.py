"""The network of the serving model as real TCP connections between network namespaces, in real time.

Both ends of every connection are in this process, so the receiver knows what to expect, and only payload is sent.
Connections are kept and reused, one flow at a time, as serving engines do.

The model's time runs ``stretch`` times slower than real time, because the embedded switch is far slower than 100 Gb/s.
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
from mfs_eval.live.tcp_counters import TcpCounters, read_tcp_counters

RECEIVE_BUFFER_BYTES = 128 * 1024
"""Bounds the window of a connection: Linux announced 159,000 bytes of window, about 110 packets, for this."""
_ZEROS = bytes(256 * 1024)
_SINK = memoryview(bytearray(256 * 1024))
_CONNECT_S = 10.0
_CONNECTORS = 8


class Stamper(Protocol):
    """Interface that stamps the packets of connections by their flows. Times are on CLOCK_MONOTONIC.

    Every host has its own thread for the calls, because they may wait for the host's agent.
    """

    def open(self, host: int, connection: socket.socket, spec: FlowSpec, number: int, deadline_ns: int) -> None:
        """Note that ``connection``, of ``host``, carries the flow from now on; its previous flow has ended."""
        ...

    def advance(self, host: int, batch: int, layer: int) -> None:
        """Tell ``host`` that ``batch`` now computes ``layer``."""
        ...


class NoStamps:
    """No stamps: for policies that do not use them."""

    def open(self, host: int, connection: socket.socket, spec: FlowSpec, number: int, deadline_ns: int) -> None:
        """Do nothing."""

    def advance(self, host: int, batch: int, layer: int) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Network namespace of a host, and its address there."""

    namespace: str
    address: str


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """A flow that ended.

    Attributes:
        spec: the flow; its batch is that of the model.
        source: host that sent it.
        number: of the flow within its batch, as its agent knows it.
        started_ns, ended_ns: on CLOCK_MONOTONIC.
    """

    spec: FlowSpec
    source: int
    number: int
    started_ns: int
    ended_ns: int


@dataclass(slots=True)
class _Flow:
    spec: FlowSpec
    number: int
    started_ns: int
    unsent: int
    missing: int
    on_complete: Callable[[int], None]


@dataclass(slots=True)
class _Connection:
    """Two sockets, and the flow that they currently carry."""

    source: int
    destination: int
    sender: socket.socket
    receiver: socket.socket
    flow: _Flow | None = None


class LiveNetwork:
    """Hosts in network namespaces, and the event loop between them. A context manager.

    Attributes:
        connections: number of connections made.
        flows: number of flows started.
        history: the flows that ended.
        advances: by batch of the model, when each of its steps ended, and the layers done by then.
        worst_delay_ns: worst delay of a timed call in real time, a measure of how busy the process was.
    """

    def __init__(
        self,
        places: Mapping[int, Place],
        stretch: float = 1.0,
        stamper: Stamper | None = None,
        first_batch: int = 0,
    ) -> None:
        """Open the hosts' listeners. The model's time starts now.

        Args:
            places: by number of the host.
            stretch: real time over the model's time.
            stamper: stamps the packets of connections; None for no stamps.
            first_batch: is added to the model's batches, because switches remember those of an earlier run.

        Raises:
            OSError: a namespace cannot be entered, or an address cannot be bound.
        """
        self.connections = self.flows = 0
        self.history: list[FlowRecord] = []
        self.advances: dict[int, list[tuple[int, int]]] = defaultdict(list)
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
                # A thread stays in its namespace, and so do the sockets that it opens.
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
        """The model's time in nanoseconds."""
        return self.model_ns(time.monotonic_ns())

    def model_ns(self, real_ns: int) -> int:
        """Convert a time on CLOCK_MONOTONIC to the model's time."""
        return round((real_ns - self._start_ns) / self._stretch)

    def model_batch(self, batch: int) -> int:
        """Return the model's number of a batch that a stamp has."""
        return batch - self._first_batch

    def real_ns(self, time_ns: int) -> int:
        """Convert the model's time ``time_ns`` to CLOCK_MONOTONIC."""
        return self._start_ns + round(time_ns * self._stretch)

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``, or as soon as possible after it."""
        heapq.heappush(self._events, (time_ns, next(self._scheduled), function, args))

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send a flow over an idle connection or a new one. A flow within a host completes at once.

        Raises:
            EvaluationError: a host does not exist. If no connection can be made, :meth:`run` raises it.
        """
        if source_host == spec.destination:
            now_ns = self.now_ns
            self.call_at(now_ns, on_complete, now_ns)
            return
        if source_host not in self._places or spec.destination not in self._places:
            raise EvaluationError(
                f"host {source_host} cannot send to {spec.destination}: the hosts are {sorted(self._places)}"
            )
        self.flows += 1
        if idle := self._idle[source_host, spec.destination]:
            # The most recently used one: its window is the widest.
            self._carry(idle.pop(), spec, on_complete)
            return
        # The packets of its handshake are not stamped, and may wait.
        self._connectors.submit(self._connect, source_host, spec.destination).add_done_callback(
            lambda made: self._post(lambda: self._carry(self._register(made.result()), spec, on_complete))
        )

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """Tell the stamper that the hosts learn of progress."""
        self.advances[batch].append((self.now_ns, layer))
        for host in hosts:
            self._tell(host, partial(self._stamper.advance, host, batch + self._first_batch, layer))

    def prune(self, requests: Collection[int]) -> None:
        """Do nothing: no request is given up here."""

    def tcp_counters(self) -> TcpCounters:
        """Return the counters of TCP, summed over the hosts."""
        read = [thread.submit(read_tcp_counters) for thread in self._threads.values()]
        return sum((one.result() for one in read), TcpCounters())

    def warm_up(self, each: int) -> None:
        """Make ``each`` connections from every host to every other, and restart the model's time.

        Raises:
            EvaluationError: no connection can be made.
        """
        for source, destination in itertools.permutations(self._places, 2):
            for _ in range(each):
                self._idle[source, destination].append(self._register(self._connect(source, destination)))
        self._start_ns = time.monotonic_ns()

    def run(self, until: Callable[[], bool]) -> None:
        """Run the event loop until ``until()``, which is evaluated after every event."""
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
            # select, because the timeout of epoll has a resolution of milliseconds.
            if select.select([self._poll], [], [], timeout)[0]:
                self._move()

    def _carry(self, connection: _Connection, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        number = next(self._numbers) & 0xFFFF
        connection.flow = _Flow(spec, number, time.monotonic_ns(), spec.total_bytes, spec.total_bytes, on_complete)
        told = replace(spec, batch=spec.batch + self._first_batch)
        deadline_ns = self.real_ns(spec.deadline_ns)
        self._tell(
            connection.source,
            lambda: self._stamper.open(connection.source, connection.sender, told, number, deadline_ns),
            lambda: self._send(connection),
        )

    def _tell(self, host: int, function: Callable[[], None], then: Callable[[], None] = lambda: None) -> None:
        """Call ``function`` in the host's thread, and then ``then`` in the event loop."""

        def done(future: Future[None]) -> None:
            def proceed() -> None:
                future.result()
                then()

            self._post(proceed)

        self._threads[host].submit(function).add_done_callback(done)

    def _post(self, function: Callable[[], None]) -> None:
        """Make the event loop call ``function``; thread-safe."""
        self._posted.put(function)
        os.eventfd_write(self._wakeup, 1)

    def _run_posted(self) -> None:
        os.eventfd_read(self._wakeup)
        with contextlib.suppress(Empty):
            while True:
                self._posted.get_nowait()()

    def _move(self) -> None:
        for descriptor, events in self._poll.poll(0):
            if descriptor == self._wakeup:
                self._run_posted()
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
                flow.unsent -= connection.sender.send(memoryview(_ZEROS)[: flow.unsent])
        self._poll.modify(connection.sender.fileno(), select.EPOLLOUT if flow.unsent else 0)

    def _receive(self, connection: _Connection) -> None:
        flow = connection.flow
        assert flow is not None
        with contextlib.suppress(BlockingIOError):
            while flow.missing:
                received = connection.receiver.recv_into(_SINK)
                if not received:
                    raise EvaluationError("a connection between two hosts was closed during a flow")
                flow.missing -= received
        if not flow.missing:
            connection.flow = None
            self.history.append(
                FlowRecord(flow.spec, connection.source, flow.number, flow.started_ns, time.monotonic_ns())
            )
            self._idle[connection.source, connection.destination].append(connection)
            flow.on_complete(self.now_ns)

    def _open(self, host: int) -> socket.socket:
        return self._threads[host].submit(socket.socket, socket.AF_INET, socket.SOCK_STREAM).result()

    def _connect(self, source: int, destination: int) -> _Connection:
        """Make a connection, in any thread."""
        listener = self._listeners[destination]
        sender = self._open(source)
        try:
            # One at a time, so that the connection accepted is the one made here.
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
