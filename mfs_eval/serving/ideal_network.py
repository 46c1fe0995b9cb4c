"""A network without contention, where each flow has its path to itself: an upper bound for network schedulers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from host_agent.protocol.units import NS_PER_S
from mfs_eval.errors import ServingError
from soft_switch.sim.events import VirtualClock


class IdealNetwork:
    """A network in which a flow takes the time of its bytes on one link plus a fixed latency, whatever else is sent.

    Args:
        bits_per_second: rate of a path.
        latency_ns: time from sending the last bit to its arrival.
        packet_bytes: payload of a packet; None if bytes flow like a fluid. A packet costs ``header_bytes`` more on the
            wire, and the first one is stored and forwarded once, at a switch.
        header_bytes: wire bytes of a packet beyond its payload.
        whole_collectives: whether a batch's flows of one collective leave a host one after the other, as they must in
            any network. Otherwise each has the host's link to itself.

    Raises:
        ServingError: a rate or size is not above 0, or a latency is negative.
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
            raise ServingError("an ideal network needs a rate and a packet size above 0 and no negative latency")
        self._clock = VirtualClock()
        self.bytes_by_stage: dict[Stage, int] = dict.fromkeys(Stage, 0)
        self.flows_by_stage: dict[Stage, int] = dict.fromkeys(Stage, 0)
        self._bits_per_second = bits_per_second
        self._latency_ns = latency_ns
        self._packet_bytes = packet_bytes
        self._header_bytes = header_bytes
        self._whole_collectives = whole_collectives
        # By host and batch: when the collective's flows up to now have been sent.
        self._sent_ns: dict[tuple[int, int], int] = {}

    @property
    def now_ns(self) -> int:
        """The time in nanoseconds."""
        return self._clock.now_ns

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``; calls for the same time run in the order of scheduling.

        Raises:
            ClockError: ``time_ns`` is in the past.
        """
        self._clock.call_at(time_ns, function, *args)

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
        """Do nothing: progress does not matter without contention."""

    def prune(self, requests: Collection[int]) -> None:
        """Do nothing: no flow has to make way for another."""

    def flow_ns(self, total_bytes: int) -> int:
        """Return the nanoseconds that a flow of ``total_bytes`` takes, rounded up."""
        wire_bytes = total_bytes
        if self._packet_bytes is not None:
            wire_bytes += -(-total_bytes // self._packet_bytes) * self._header_bytes
            wire_bytes += min(total_bytes, self._packet_bytes) + self._header_bytes
        return -(-wire_bytes * 8 * NS_PER_S // self._bits_per_second) + self._latency_ns

    def run(self, until_ns: int | None = None) -> None:
        """Run all events (up to and including ``until_ns``)."""
        self._clock.run(until_ns)
