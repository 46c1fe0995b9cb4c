"""A pipeline for tests of its surroundings: forwards IPv4 behind a shim by the last byte of its destination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Forwarded:
    egress_port: int
    priority: int
    length: int
    data: bytes


@dataclass
class Forwarding:
    """``level`` chooses the queue; ``cut`` bytes are taken off the end at egress; ``drop`` says what egress drops."""

    level: Callable[[bytes], int] = lambda _: 0
    cut: int = 0
    drop: Callable[[bytes], bool] = lambda _: False
    depths: list[tuple[int, int]] = field(default_factory=list)
    spawned: list[object] = field(default_factory=list)

    def ingress(self, port: int, data: bytes, now_ns: int) -> Forwarded | None:
        del port, now_ns
        return Forwarded(data[57], self.level(data), len(data), data) if data[57] else None

    def egress(self, packet: Forwarded, enqueued_ns: int, dequeued_ns: int, enq: int, deq: int) -> bytes | None:
        assert enqueued_ns <= dequeued_ns
        self.depths.append((enq, deq))
        return None if self.drop(packet.data) else packet.data[: len(packet.data) - self.cut]
