"""The StreamChannel of a client, from the switch's side: what is to be sent, and how it ends."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterator

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.status import RESOURCE_EXHAUSTED, RequestError

# Most notifications and errors that wait for a slow client; more are dropped.
MAX_WAITING_NOTIFICATIONS = 10_000
# Arbitration messages are never dropped; a client that lets this many messages wait is disconnected.
MAX_WAITING = 20_000

_numbers = itertools.count(1)


class ClientStream:
    """A queue of responses that ends once, possibly with an error. Thread-safe; hashable by identity."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.dropped = 0
        self.error: RequestError | None = None
        self._responses: queue.SimpleQueue[p4runtime_pb2.StreamMessageResponse | None] = queue.SimpleQueue()

    def send(self, response: p4runtime_pb2.StreamMessageResponse) -> None:
        """Send a response that must not be lost; disconnect the client if MAX_WAITING wait already."""
        if self._responses.qsize() >= MAX_WAITING:
            if self.error is None:
                self.close(RequestError(RESOURCE_EXHAUSTED, f"the client left {MAX_WAITING} messages unread"))
            return
        self._responses.put(response)

    def offer(self, response: p4runtime_pb2.StreamMessageResponse) -> bool:
        """Send a response, or count it in ``dropped`` and return False if the client is too far behind."""
        if self._responses.qsize() >= MAX_WAITING_NOTIFICATIONS:
            self.dropped += 1
            return False
        self._responses.put(response)
        return True

    def close(self, error: RequestError | None = None) -> None:
        """End the stream after the queued responses; ``error`` becomes its status."""
        if self.error is None:
            self.error = error
        self._responses.put(None)

    def responses(self) -> Iterator[p4runtime_pb2.StreamMessageResponse]:
        """Yield the responses to send, as they come, until the stream is closed."""
        while (response := self._responses.get()) is not None:
            yield response
