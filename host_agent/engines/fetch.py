"""Fetches a prefix from a store, layer by layer, while the forward pass waits for each layer (stage 1)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from host_agent.engines.channel import Channel, Pool
from host_agent.engines.errors import ClosedError, TransferError
from host_agent.engines.params import Address
from host_agent.engines.receive import Write
from host_agent.engines.records import Record, Records
from host_agent.engines.wire import Frame, Kind, Layout
from host_agent.protocol.stamp import Stage, clamp_slack_us

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Fetch:
    """One fetch, in a thread of its own.

    Attributes:
        request: id of the request in this engine.
        address: the store, for this rank.
        keys: names of the blocks from the beginning of the prompt.
        first: number of the first block that is written; the ones before it are in the prefix cache.
        block_ids: blocks to write, one for each key from ``first`` on.
        batch: prefill batch of the request.
        deadline_ns: robust effective deadline of the batch, on CLOCK_MONOTONIC.
        failed: why it failed; empty if it did not.
    """

    request: str
    address: Address
    keys: Sequence[str]
    first: int
    block_ids: Sequence[int]
    batch: int
    deadline_ns: int
    layout: Layout
    pool: Pool
    records: Records
    write: Write
    failed: str = ""
    _layers: int = 0
    _opened_ns: int = field(default_factory=time.monotonic_ns)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name=f"mfs-fetch-{self.request}", daemon=True).start()

    def wait(self, layer: int, timeout_s: float) -> bool:
        """Wait until ``layer`` is there, at most ``timeout_s`` without progress. False if the fetch failed."""
        with self._changed:
            while self._layers <= layer and not self.failed:
                before = self._layers
                if not self._changed.wait(timeout_s) and self._layers == before:
                    self.failed = f"no layer within {timeout_s:g} s"
            return not self.failed

    def _run(self) -> None:
        error = ""
        began_ns = 0
        try:
            channel = self._begin()
            began_ns = time.monotonic_ns()
            try:
                self._receive(channel)
            except TransferError:
                channel.close()
                raise
            self.pool.give(self.address, channel)
        except TransferError as caught:
            error = str(caught)
            _LOG.warning("request %s: its prefix did not arrive: %s", self.request, error)
            with self._changed:
                self.failed = error
                self._changed.notify_all()
        self.records.add(
            Record(
                role="fetch",
                request=self.request,
                transfer="",
                stage=Stage.KV_REUSE.name,
                peer=str(self.address),
                batch=self.batch,
                deadline_ns=self.deadline_ns,
                payload_bytes=self._layers * len(self.keys) * self.layout.block_bytes,
                blocks=len(self.keys),
                layers=self.layout.layers,
                stamped=False,
                opened_ns=self._opened_ns,
                began_ns=began_ns,
                ended_ns=time.monotonic_ns(),
                error=error,
            )
        )

    def _begin(self) -> Channel:
        slack_us = clamp_slack_us((self.deadline_ns - time.monotonic_ns()) // 1000)
        frame = Frame(Kind.FETCH, {"keys": list(self.keys), "batch": self.batch, "slack_us": slack_us})
        channel, answer = exchange(self.pool, self.address, frame)
        if (blocks := answer.integer("blocks", 0, len(self.keys))) < len(self.keys):
            channel.close()
            raise TransferError(f"{self.address} has {blocks} of {len(self.keys)} blocks by now")
        return channel

    def _receive(self, channel: Channel) -> None:
        size = self.layout.block_bytes
        for layer in range(self.layout.layers):
            frame = channel.receive(Kind.LAYER)
            frame.integer("layer", layer, layer)
            payload = channel.receive_payload(frame, len(self.keys) * size)
            with self._changed:
                if self.failed:
                    raise TransferError(self.failed)
                self.write(layer, self.block_ids, payload[self.first * size :])
                self._layers = layer + 1
                self._changed.notify_all()
        channel.receive(Kind.END)
        channel.send(Frame(Kind.DONE))


def exchange(pool: Pool, address: Address, frame: Frame) -> tuple[Channel, Frame]:
    """Send a request to a store, and return the connection and the answer.

    Raises:
        TransferError: the store is gone or refuses.
    """
    while True:
        channel = pool.take(address)
        try:
            channel.send(frame)
            return channel, channel.receive(Kind.ACCEPT)
        except ClosedError:
            channel.close()
            if not channel.reused:
                raise
        except TransferError:
            channel.close()
            raise


class Lookups:
    """How much of each request's prompt a store has, asked in threads of their own: the scheduler must not wait."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="mfs-lookup")
        self._asked: dict[str, Future[int]] = {}

    def blocks(self, request: str, address: Address, keys: Sequence[str]) -> int | None:
        """Return how many leading blocks the store has; None until it has answered, 0 if it is gone."""
        if request not in self._asked:
            self._asked[request] = self._threads.submit(self._ask, address, keys)
        answer = self._asked[request]
        return answer.result() if answer.done() else None

    def forget(self, request: str) -> None:
        """Forget a request."""
        self._asked.pop(request, None)

    def close(self) -> None:
        """Stop asking."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, address: Address, keys: Sequence[str]) -> int:
        try:
            channel, answer = exchange(self._pool, address, Frame(Kind.LOOKUP, {"keys": list(keys)}))
            self._pool.give(address, channel)
            return answer.integer("blocks", 0, len(keys))
        except TransferError as error:
            _LOG.warning("%s; the prompt is computed from its beginning", error)
            return 0
