"""The results of reads: ReadResponse messages of bounded size, filled in place.

Entities are made inside their response, because copying messages costs more than everything else.
"""

from __future__ import annotations

from p4.v1 import p4runtime_pb2

ENTITIES_PER_RESPONSE = 256


class ReadResponses:
    """The responses of one read request, in order."""

    def __init__(self) -> None:
        self.messages: list[p4runtime_pb2.ReadResponse] = []
        self._room = 0

    def add(self) -> p4runtime_pb2.Entity:
        """Add an entity to the last response, for the caller to fill in."""
        if self._room == 0:
            self.messages.append(p4runtime_pb2.ReadResponse())
            self._room = ENTITIES_PER_RESPONSE
        self._room -= 1
        return self.messages[-1].entities.add()

    def mark(self) -> tuple[int, int]:
        """Return the present end, for :meth:`back_to`."""
        return len(self.messages), self._room

    def back_to(self, mark: tuple[int, int]) -> None:
        """Remove what was added since ``mark``."""
        count, self._room = mark
        del self.messages[count:]
        if self.messages:
            del self.messages[-1].entities[ENTITIES_PER_RESPONSE - self._room :]
