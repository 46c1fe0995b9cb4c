"""Pushes of KV, layer by layer, each in a thread of its own over a connection of its own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from host_agent.client import OpenFlow
from host_agent.engines.channel import Channel, Pool, layer_frame
from host_agent.engines.errors import ClosedError, TransferError
from host_agent.engines.flows import Announcer
from host_agent.engines.params import Address
from host_agent.engines.records import Record, Records
from host_agent.engines.wire import Frame, Kind, Layout
from host_agent.protocol.stamp import Stage

_LOG = logging.getLogger(__name__)


class Staging:
    """Room in host memory for KV that is computed but not sent. Thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._free = threading.Condition()
        self.used = 0

    def reserve(self, count: int, timeout_s: float) -> bool:
        """Wait for room for ``count`` bytes, at most ``timeout_s``. More than the limit passes when nothing waits."""
        with self._free:
            if not self._free.wait_for(lambda: self.used == 0 or self.used + count <= self._limit, timeout_s):
                return False
            self.used += count
            return True

    def release(self, count: int) -> None:
        """Return the room of ``count`` bytes."""
        with self._free:
            self.used -= count
            self._free.notify_all()


@dataclass(frozen=True, slots=True)
class PushTarget:
    """What one push sends, and to whom.

    Attributes:
        request: id of the request in this engine.
        address: the receiver, for tensor-parallel rank 0.
        transfer: name of the push; empty for a store.
        keys: of the blocks, for a store.
        blocks: number of blocks.
        batch: prefill batch, whose progress the flow shares.
        deadline_ns: on CLOCK_MONOTONIC.
    """

    request: str
    address: Address
    transfer: str
    blocks: int
    batch: int
    deadline_ns: int
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Means:
    """What all pushes of an engine share."""

    layout: Layout
    pool: Pool
    announcer: Announcer
    staging: Staging
    records: Records
    timeout_s: float


@dataclass(slots=True)
class _Part:
    layer: int
    first: int
    blocks: int
    payload: memoryview


@dataclass(slots=True)
class Push:
    """One push. :meth:`add`, :meth:`finish` and :meth:`abort` are called from the engine's step.

    Attributes:
        failed: whether it failed, so that more data is useless.
    """

    target: PushTarget
    means: Means
    ended: Callable[[Push], None] = lambda _: None
    failed: bool = False
    _parts: queue.SimpleQueue[_Part | str | None] = field(default_factory=queue.SimpleQueue)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sent: int = 0
    _first: int = 0
    _opened_ns: int = field(default_factory=time.monotonic_ns)
    _began_ns: int = 0
    _stamped: bool = False

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name=f"mfs-push-{self.target.request}", daemon=True).start()

    def add(self, layer: int, first: int, blocks: int, payload: memoryview) -> None:
        """Queue blocks of a layer. Waits while the staging memory is full; that slows the engine down.

        A push that finds no room within the timeout fails, and its receiver computes the prompt itself.
        """
        if self.failed:
            return
        if not self.means.staging.reserve(len(payload), self.means.timeout_s):
            self.abort(f"no room in the staging memory within {self.means.timeout_s:g} s")
            return
        with self._lock:
            # A push that failed meanwhile has emptied its queue, and will not do so again.
            if self.failed:
                self.means.staging.release(len(payload))
                return
            self._parts.put(_Part(layer, first, blocks, payload))

    def finish(self) -> None:
        """Say that everything is queued."""
        self._parts.put(None)

    def abort(self, reason: str) -> None:
        """Give up; the receiver notices at once."""
        self._parts.put(reason)

    def _run(self) -> None:
        channel: Channel | None = None
        flow: OpenFlow | None = None
        error = ""
        try:
            channel = self._begin()
            flow = self._open(channel)
            self._send_parts(channel)
            channel.send(Frame(Kind.END))
            channel.receive(Kind.DONE)
        except TransferError as caught:
            error = str(caught)
            _LOG.warning("request %s: its KV did not reach the receiver: %s", self.target.request, error)
        finally:
            self._discard()
            self.means.announcer.close(flow)
        if channel is not None:
            if error:
                channel.close()
            else:
                self.means.pool.give(self.target.address, channel)
        self._record(error)
        self.ended(self)

    def _begin(self) -> Channel:
        """Return a connection whose peer has accepted the push."""
        target = self.target
        fields = {"blocks": target.blocks, "layout": self.means.layout.to_json()}
        fields |= {"keys": list(target.keys)} if target.keys else {"transfer": target.transfer}
        broken = 0
        while True:
            channel = self.means.pool.take(target.address)
            try:
                channel.send(Frame(Kind.BEGIN, fields))
                self._first = channel.receive(Kind.ACCEPT).integer("first", 0, target.blocks)
            except ClosedError:
                channel.close()
                # A peer that was restarted has closed idle connections. A new connection gets a second try.
                broken += not channel.reused
                if broken > 1:
                    raise
                continue
            except TransferError:
                channel.close()
                raise
            self._began_ns = time.monotonic_ns()
            return channel

    def _open(self, channel: Channel) -> OpenFlow | None:
        layout, count = self.means.layout, self.target.blocks - self._first
        if not count:
            return None
        flow = self.means.announcer.open(
            channel.socket,
            batch=self.target.batch,
            stage=Stage.P2D,
            deadline_ns=self.target.deadline_ns,
            total_bytes=count * layout.block_bytes * layout.layers,
            target_layer=layout.layers,
            message_bytes=count * layout.block_bytes,
        )
        self._stamped = flow is not None
        return flow

    def _send_parts(self, channel: Channel) -> None:
        block_bytes = self.means.layout.block_bytes
        while (part := self._parts.get()) is not None:
            if isinstance(part, str):
                raise TransferError(part)
            try:
                skipped = min(max(0, self._first - part.first), part.blocks)
                rest = part.payload[skipped * block_bytes :]
                if len(rest):
                    blocks = part.blocks - skipped
                    channel.send(layer_frame(part.layer, part.first + skipped, blocks, len(rest)), [rest])
                    self._sent += len(rest)
            finally:
                self.means.staging.release(len(part.payload))

    def _discard(self) -> None:
        """Free the room of what will not be sent."""
        with self._lock:
            self.failed = True
            while not self._parts.empty():
                part = self._parts.get()
                if isinstance(part, _Part):
                    self.means.staging.release(len(part.payload))

    def _record(self, error: str) -> None:
        target = self.target
        self.means.records.add(
            Record(
                role="push",
                request=target.request,
                transfer=target.transfer,
                stage=Stage.P2D.name,
                peer=str(target.address),
                batch=target.batch,
                deadline_ns=target.deadline_ns,
                payload_bytes=self._sent,
                blocks=target.blocks - self._first,
                layers=self.means.layout.layers,
                stamped=self._stamped,
                opened_ns=self._opened_ns,
                began_ns=self._began_ns,
                ended_ns=time.monotonic_ns(),
                error=error,
            )
        )
