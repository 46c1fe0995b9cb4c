"""Hosts around one switch or several, as the serving model sees them: flows go in, completions come out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from host_agent.protocol.flow_spec import FLOW_NUMBERS, FlowError, FlowSpec
from host_agent.protocol.level import LevelRule
from mfs_eval.packet_level.hosts.agent import Agent, Flow
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES, Addresses
from mfs_eval.packet_level.hosts.transport import DEFAULT_RTO_NS, DEFAULT_WINDOW
from mfs_eval.packet_level.hosts.virtual_host import VirtualHost
from mfs_eval.packet_level.stranding_meter import StrandingMeter
from soft_switch.queues.traffic_manager import QueueConfig
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import HostPort, Link, VirtualNetwork
from soft_switch.switch import Switch

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
    """Switches with a :class:`~mfs_eval.packet_level.hosts.virtual_host.VirtualHost` on each of their ports, and links
    between them.

    It begins with one switch; see :meth:`add_switch` and :meth:`connect`.

    Attributes:
        switches: in the order in which they were added.
        hosts: by identifier.
        network: for traces and samples of occupancy.
        meter: of what promotions strand and reorder.
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
        agents: Mapping[int, type[Agent]] | None = None,
        interface: Callable[[VirtualHost], HostPort] = lambda host: host,
    ) -> None:
        """``ports``: the port of ``switch`` for each of its hosts, by identifier. ``addresses`` are those of all hosts,
        ``link`` is what joins each to its switch. ``agents``: for hosts that have another than usual.

        ``interface``: what is plugged in for a host. The rest as in :class:`VirtualHost`.
        """
        self.clock = clock
        self.switches: list[Switch] = []
        self.network = VirtualNetwork(clock)
        self.hosts: dict[int, VirtualHost] = {}
        self.meter = StrandingMeter()
        self._waiting: dict[int, OnComplete] = {}
        self._next_number = 0
        self._link = link
        self._queues = queues
        self._agents = agents or {}
        self._interface = interface
        self._new_host = partial(
            VirtualHost,
            clock=clock,
            addresses=addresses,
            rate_bps=link.rate_bps,
            window=window,
            rto_ns=rto_ns,
            stale_progress=stale_progress,
            rerank_interval_ns=rerank_interval_ns,
            meter=self.meter,
        )
        self.add_switch(switch, ports)

    def add_switch(self, switch: Switch, ports: Mapping[int, int]) -> None:
        """A switch with new hosts on its ``ports``.

        Raises:
            PortError: a port is in use.
        """
        self.switches.append(switch)
        for identity, port in ports.items():
            host = self._new_host(identity, agent_type=self._agents.get(identity, Agent))
            interface = self._interface(host)
            host.wake = self.network.attach_host(switch, port, interface, self._link, self._queues).wake
            host.on_complete = self._completed
            self.hosts[identity] = host

    def connect(self, switch: Switch, port: int, other: Switch, other_port: int, link: Link) -> None:
        """A link between new ports of two switches, with queues like those of hosts' ports.

        Raises:
            PortError: a port is in use.
        """
        self.network.attach_switches(switch, port, other, other_port, link, self._queues)

    def set_policy(self, rules: Sequence[LevelRule], hosts: Iterable[int] | None = None) -> None:
        """The policy of the interfaces of ``hosts``, by default of all."""
        for host in self.hosts if hosts is None else hosts:
            self.hosts[host].set_policy(rules)

    def start_flow(
        self,
        source: int,
        spec: FlowSpec,
        on_complete: OnComplete | None = None,
        message_bytes: int | None = None,
        promote_within: bool = False,
    ) -> Flow | None:
        """Send ``spec.total_bytes`` from ``source`` now, as one message or in messages of ``message_bytes``.

        ``promote_within``: each segment is announced as a message's start, so that the flow may rise anywhere.

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
        self.meter.opened(flow.connection, -(-size // SEGMENT_BYTES))
        if promote_within:
            size = SEGMENT_BYTES
        while left:
            flow.write(min(size, left))
            left -= min(size, left)
        return flow

    def advance(self, host: int, batch: int, layer: int) -> None:
        """``host`` learns, not from a stamp, that ``batch`` is at ``layer``."""
        self.hosts[host].advance(batch, layer)

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
            dropped=sum(
                counter.dropped_packets
                for switch in self.switches
                for port in switch.ports.values()
                for counter in port.counters
            ),
            retransmitted=sum(counter.retransmissions for counter in counters),
            reordered=sum(counter.reordered for counter in counters),
            marked=sum(counter.marked for counter in counters),
            timeouts=sum(counter.timeouts for counter in counters),
        )

    def _completed(self, connection: int) -> None:
        on_complete = self._waiting.pop(connection, None)
        if on_complete is not None:
            on_complete(self.clock.now_ns)
