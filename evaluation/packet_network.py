"""Hosts around one switch, as the serving model sees them: flows go in, completions come out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from evaluation.virtual_host import Addresses, VirtualHost
from host_agent.flow import FLOW_NUMBERS, Flow, FlowError, FlowSpec
from host_agent.level import LevelRule
from host_agent.transport import DEFAULT_RTO_NS, DEFAULT_WINDOW
from soft_switch.events import VirtualClock
from soft_switch.network import Link, VirtualNetwork
from soft_switch.switch import Switch
from soft_switch.traffic_manager import QueueConfig

OnComplete = Callable[[int], None]
"""Called with the time, in ns, at which the receiver has all bytes."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What happened on the network since its start, in packets."""

    sent: int
    received: int
    dropped: int
    retransmitted: int
    reordered: int
    marked: int
    timeouts: int


class PacketNetwork:
    """A switch with a :class:`~evaluation.virtual_host.VirtualHost` on each of its ports.

    Attributes:
        hosts: by identifier.
        network: for traces and samples of occupancy.
    """

    def __init__(
        self,
        clock: VirtualClock,
        switch: Switch,
        ports: Mapping[int, int],
        addresses: Addresses,
        link: Link,
        *,
        queues: Sequence[QueueConfig] | None = None,
        window: int = DEFAULT_WINDOW,
        rto_ns: int = DEFAULT_RTO_NS,
        stale_progress: bool = False,
        rerank_interval_ns: int | None = None,
    ) -> None:
        """``ports``: the switch port of each host, by identifier. The rest as in :class:`VirtualHost`."""
        self.clock = clock
        self.switch = switch
        self.network = VirtualNetwork(clock)
        self.hosts: dict[int, VirtualHost] = {}
        self._waiting: dict[int, OnComplete] = {}
        self._next_number = 0
        for identity, port in ports.items():
            host = VirtualHost(
                identity, clock, addresses, link.rate_bps, window, rto_ns, stale_progress, rerank_interval_ns
            )
            host.wake = self.network.attach_host(switch, port, host, link, queues).wake
            host.on_complete = self._completed
            self.hosts[identity] = host

    def set_policy(self, rules: Sequence[LevelRule]) -> None:
        """The policy of all hosts' interfaces."""
        for host in self.hosts.values():
            host.set_policy(rules)

    def start_flow(
        self, source: int, spec: FlowSpec, on_complete: OnComplete | None = None, message_bytes: int | None = None
    ) -> Flow | None:
        """Send ``spec.total_bytes`` from ``source`` now, as one message or in messages of ``message_bytes``.

        ``on_complete`` is called once, when the receiver has all. Data for the very same host cross no network: they
        are complete at once, and there is no flow.

        Raises:
            FlowError: a host that is not there.
        """
        if source not in self.hosts or spec.destination not in self.hosts:
            raise FlowError(f"no flow from host {source} to {spec.destination}: the hosts are {sorted(self.hosts)}")
        if source == spec.destination:
            if on_complete is not None:
                self.clock.call_after(0, lambda: on_complete(self.clock.now_ns))
            return None
        number = self._next_number
        self._next_number = (number + 1) % FLOW_NUMBERS
        flow = self.hosts[source].agent.open(spec, number)
        if on_complete is not None:
            self._waiting[flow.connection] = on_complete
        left = spec.total_bytes
        size = message_bytes or left
        while left:
            flow.write(min(size, left))
            left -= min(size, left)
        return flow

    def advance(self, host: int, batch: int, layer: int) -> None:
        """``host`` learns from its own compute that ``batch`` is at ``layer``."""
        self.hosts[host].agent.advance(batch, layer)

    def prune(self, requests: Collection[int]) -> None:
        """All hosts give up these requests and no others."""
        for host in self.hosts.values():
            host.prune(requests)

    def totals(self) -> Totals:
        """The counts so far."""
        hosts = self.hosts.values()
        counters = [host.agent.counters for host in hosts]
        return Totals(
            sent=sum(host.sent_packets for host in hosts),
            received=sum(host.received_packets for host in hosts),
            dropped=sum(c.dropped_packets for port in self.switch.ports.values() for c in port.counters),
            retransmitted=sum(counter.retransmissions for counter in counters),
            reordered=sum(counter.reordered for counter in counters),
            marked=sum(counter.marked for counter in counters),
            timeouts=sum(counter.timeouts for counter in counters),
        )

    def _completed(self, connection: int) -> None:
        on_complete = self._waiting.pop(connection, None)
        if on_complete is not None:
            on_complete(self.clock.now_ns)
