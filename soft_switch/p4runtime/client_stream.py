"""One client's StreamChannel, seen from the switch: what is to be sent to it, and how it ends."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterator

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.status import RESOURCE_EXHAUSTED, RequestError

# Notifications and errors that a slow client has not taken yet; more are dropped.
MAX_WAITING_NOTIFICATIONS = 10_000
# What tells who is primary is never dropped: a client that takes none of it is given up.
MAX_WAITING = 20_000

_numbers = itertools.count(1)


class ClientStream:
    """A queue of responses that ends once, perhaps with an error. Hashable by identity; thread-safe."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.dropped = 0
        self.error: RequestError | None = None
        self._responses: queue.SimpleQueue[p4runtime_pb2.StreamMessageResponse | None] = queue.SimpleQueue()

    def send(self, response: p4runtime_pb2.StreamMessageResponse) -> None:
        """Send a response that must not be lost; a client that has not taken thousands of them is dropped itself."""
        if self._responses.qsize() >= MAX_WAITING:
            if self.error is None:
                self.close(RequestError(RESOURCE_EXHAUSTED, f"{MAX_WAITING} messages wait to be taken"))
            return
        self._responses.put(response)

    def offer(self, response: p4runtime_pb2.StreamMessageResponse) -> bool:
        """Send a response unless the client is far behind; False, and counted in `dropped`, when it is."""
        if self._responses.qsize() >= MAX_WAITING_NOTIFICATIONS:
            self.dropped += 1
            return False
        self._responses.put(response)
        return True

    def close(self, error: RequestError | None = None) -> None:
        """End the stream after what is queued; `error` becomes its status."""
        if self.error is None:
            self.error = error
        self._responses.put(None)

    def responses(self) -> Iterator[p4runtime_pb2.StreamMessageResponse]:
        """What is to be sent, as it comes, until the stream is closed."""
        while (response := self._responses.get()) is not None:
            yield response
