"""A network without contention: each flow has its path for itself. The ceiling that no network scheduler passes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable
from typing import Any

from host_agent.protocol.stamp import Stage
from host_agent.protocol.units import NS_PER_S
from mfs_eval.errors import ServingError
from mfs_eval.serving.network_interface import FlowSpec


class IdealNetwork:
    """Every flow takes the time of its bytes on one link, plus a fixed latency, whatever else is under way.

    Args:
        bits_per_second: rate of a path.
        latency_ns: from the sending of the last bit to its arrival.
        packet_bytes: payload of a packet, if packets are to be reckoned with: each then costs ``header_bytes`` more
            on the wire, and the first one is stored and forwarded once, at a switch. None: bytes are a fluid.
        header_bytes: wire bytes of a packet beyond its payload.
        whole_collectives: a batch's flows of one collective leave a host one after the other, as they must, whoever
            else is there; else each has the host's link for itself, as if it were the only one.
    """

    def __init__(
        self,
        bits_per_second: int,
        latency_ns: int = 0,
        packet_bytes: int | None = None,
        header_bytes: int = 0,
        whole_collectives: bool = False,
    ) -> None:
        if bits_per_second < 1 or latency_ns < 0 or header_bytes < 0 or (packet_bytes is not None and packet_bytes < 1):
            raise ServingError("an ideal network needs a rate and a packet size above 0, and no negative latency")
        self.now_ns = 0
        self.bytes_by_stage: dict[Stage, int] = dict.fromkeys(Stage, 0)
        self.flows_by_stage: dict[Stage, int] = dict.fromkeys(Stage, 0)
        self._bits_per_second = bits_per_second
        self._latency_ns = latency_ns
        self._packet_bytes = packet_bytes
        self._header_bytes = header_bytes
        self._whole_collectives = whole_collectives
        # By host and batch: when the flows of its collective so far are sent.
        self._sent_ns: dict[tuple[int, int], int] = {}
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._scheduled = 0

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``; calls for the same time run in the order they were asked for."""
        if time_ns < self.now_ns:
            raise ServingError(f"cannot schedule for {time_ns} ns, it is {self.now_ns} ns already")
        heapq.heappush(self._events, (time_ns, self._scheduled, function, args))
        self._scheduled += 1

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Complete the flow after :meth:`flow_ns`."""
        self.bytes_by_stage[spec.stage] += spec.total_bytes
        self.flows_by_stage[spec.stage] += 1
        began_ns = self.now_ns
        if self._whole_collectives and spec.stage == Stage.COLLECTIVE:
            key = source_host, spec.batch
            began_ns = max(began_ns, self._sent_ns.get(key, 0))
            self._sent_ns[key] = began_ns + self.flow_ns(spec.total_bytes) - self._latency_ns
        done_ns = began_ns + self.flow_ns(spec.total_bytes)
        self.call_at(done_ns, on_complete, done_ns)

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """Nothing: progress does not matter where nothing is ordered."""

    def prune(self, requests: Collection[int]) -> None:
        """Nothing: nobody has to make way for anybody."""

    def flow_ns(self, total_bytes: int) -> int:
        """Nanoseconds that a flow of ``total_bytes`` takes, rounded up."""
        wire_bytes = total_bytes
        if self._packet_bytes is not None:
            wire_bytes += -(-total_bytes // self._packet_bytes) * self._header_bytes
            wire_bytes += min(total_bytes, self._packet_bytes) + self._header_bytes
        return -(-wire_bytes * 8 * NS_PER_S // self._bits_per_second) + self._latency_ns

    def run(self, until_ns: int | None = None) -> None:
        """Run all events (up to and including ``until_ns``)."""
        while self._events and (until_ns is None or self._events[0][0] <= until_ns):
            self.now_ns, _, function, args = heapq.heappop(self._events)
            function(*args)
        if until_ns is not None:
            self.now_ns = max(self.now_ns, until_ns)
