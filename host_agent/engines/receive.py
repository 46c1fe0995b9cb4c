"""Receives pushes into the blocks that a decode engine has allocated.

A push waits, unsent, until its request has blocks: the receiver accepts it only then. So nothing is buffered here, and
the sender sends no block that the prefix cache already has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from host_agent.engines.channel import Channel, Server
from host_agent.engines.coverage import ReceivedBlocks
from host_agent.engines.errors import RefusedError, TransferError
from host_agent.engines.params import Address
from host_agent.engines.records import Record, Records
from host_agent.engines.wire import Frame, Kind, Layout
from host_agent.protocol.stamp import Stage

_LOG = logging.getLogger(__name__)

Write = Callable[[int, Sequence[int], memoryview], None]
"""Writes a payload into a layer's blocks: layer, block ids, bytes of the blocks one after the other."""
_REMEMBERED = 4096


@dataclass(slots=True)
class _Expected:
    """A request that waits for its KV."""

    request: str
    transfer: str
    block_ids: Sequence[int]
    arrived: ReceivedBlocks
    until: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    claimed: bool = False
    closed: bool = False
    payload_bytes: int = 0
    opened_ns: int = field(default_factory=time.monotonic_ns)
    began_ns: int = 0


class Receiver:
    """The receiving end of pushes. Thread-safe.

    :meth:`expect`, :meth:`cancel` and :meth:`results` are called from the engine's step. After a request is in the
    results, nothing is written into its blocks.
    """

    def __init__(
        self,
        address: Address,
        layout: Layout,
        secret: bytes,
        write: Write,
        records: Records,
        timeout_s: float,
        receive_timeout_s: float,
    ) -> None:
        """Listen at ``address``.

        Raises:
            TransferError: the address cannot be bound.
        """
        self._layout = layout
        self._write = write
        self._records = records
        self._timeout_s = timeout_s
        self._receive_timeout_s = receive_timeout_s
        self._changed = threading.Condition()
        self._by_transfer: dict[str, _Expected] = {}
        self._over: OrderedDict[str, None] = OrderedDict()
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._server = Server(address, secret, timeout_s, self._serve, Kind.BEGIN)

    @property
    def port(self) -> int:
        """TCP port."""
        return self._server.port

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return self._server.connections

    def expect(self, request: str, transfer: str, block_ids: Sequence[int], first: int) -> None:
        """Wait for a push.

        Args:
            request: id of the request in this engine.
            transfer: name of the push.
            block_ids: blocks of the whole prompt, in order.
            first: number of the first one that is needed.
        """
        until = time.monotonic() + self._receive_timeout_s
        arrived = ReceivedBlocks(self._layout.layers, first, len(block_ids))
        with self._changed:
            if transfer in self._by_transfer or transfer in self._over:
                _LOG.warning("request %s: the transfer %r is used already; computing the prompt", request, transfer)
                self._failed.add(request)
                return
            self._by_transfer[transfer] = _Expected(request, transfer, block_ids, arrived, until)
            self._changed.notify_all()

    def cancel(self, request: str) -> None:
        """Give up the push of a request that was aborted; nothing happens if there is none."""
        with self._changed:
            found = [each for each in self._by_transfer.values() if each.request == request]
        for expected in found:
            self._end(expected, "the request was aborted")

    def results(self) -> tuple[set[str], set[str]]:
        """Return the requests whose pushes ended since the last call: the complete ones, and the failed ones."""
        now = time.monotonic()
        with self._changed:
            late = [each for each in self._by_transfer.values() if now > each.until]
        for expected in late:
            self._end(expected, f"the KV did not arrive within {self._receive_timeout_s:g} s")
        with self._changed:
            done, failed = self._done, self._failed
            self._done, self._failed = set(), set()
        return done, failed

    def close(self) -> None:
        """Close the listener and all connections."""
        self._server.close()

    def _serve(self, channel: Channel, begin: Frame) -> None:
        transfer = begin.text("transfer")
        expected = self._claim(transfer)
        try:
            self._receive(channel, begin, expected)
        except TransferError as error:
            self._end(expected, str(error), channel.peer)
            raise
        self._end(expected, "", channel.peer)
        channel.send(Frame(Kind.DONE))

    def _claim(self, transfer: str) -> _Expected:
        """Wait for the request of a push to have blocks.

        Raises:
            RefusedError: it does not get any in time, or the push came before.
        """

        def known() -> bool:
            return transfer in self._by_transfer or transfer in self._over

        with self._changed:
            self._changed.wait_for(known, self._timeout_s)
            expected = self._by_transfer.get(transfer)
            if transfer in self._over or (expected is not None and expected.claimed):
                raise RefusedError(f"the transfer {transfer!r} is over, or another connection carries it")
            if expected is None:
                raise RefusedError(f"no request waits for the transfer {transfer!r}")
            expected.claimed = True
            return expected

    def _receive(self, channel: Channel, begin: Frame, expected: _Expected) -> None:
        if mismatch := self._layout.mismatch(begin.fields.get("layout")):
            raise RefusedError(mismatch)
        arrived = expected.arrived
        if (blocks := begin.integer("blocks", 1, 1 << 32)) != arrived.total:
            raise RefusedError(f"the push has {blocks} blocks, the request {arrived.total}: the prompts differ")
        expected.began_ns = time.monotonic_ns()
        channel.send(Frame(Kind.ACCEPT, {"first": arrived.first}))
        while (frame := channel.receive(Kind.LAYER, Kind.END)).kind is Kind.LAYER:
            layer = frame.integer("layer", 0, self._layout.layers - 1)
            first, blocks = frame.integer("first", 0, 1 << 32), frame.integer("blocks", 1, 1 << 32)
            arrived.check(layer, first, blocks)
            payload = channel.receive_payload(frame, blocks * self._layout.block_bytes)
            with expected.lock:
                if expected.closed:
                    raise TransferError(f"the transfer {expected.transfer!r} was given up")
                self._write(layer, expected.block_ids[first : first + blocks], payload)
                arrived.add(layer, first, blocks)
                expected.payload_bytes += len(payload)
        if arrived.missing:
            raise TransferError(f"the push ended with {arrived.missing} blocks missing")

    def _end(self, expected: _Expected, error: str, peer: str = "") -> None:
        """Put a request into the results, once."""
        with expected.lock:
            if expected.closed:
                return
            expected.closed = True
        with self._changed:
            del self._by_transfer[expected.transfer]
            self._over[expected.transfer] = None
            while len(self._over) > _REMEMBERED:
                self._over.popitem(last=False)
            (self._failed if error else self._done).add(expected.request)
            self._changed.notify_all()
        if error:
            _LOG.warning("request %s: its KV did not arrive: %s", expected.request, error)
        arrived = expected.arrived
        self._records.add(
            Record(
                role="receive",
                request=expected.request,
                transfer=expected.transfer,
                stage=Stage.P2D.name,
                peer=peer,
                batch=0,
                deadline_ns=0,
                payload_bytes=expected.payload_bytes,
                blocks=arrived.total - arrived.first,
                layers=self._layout.layers,
                stamped=False,
                opened_ns=expected.opened_ns,
                began_ns=expected.began_ns,
                ended_ns=time.monotonic_ns(),
                error=error,
            )
        )
