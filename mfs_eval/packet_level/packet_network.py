"""Hosts around one or several switches, as the serving model uses them: flows go in, completions come out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from host_agent.protocol.flow_spec import FLOW_NUMBERS, FlowError, FlowSpec
from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import Stage
from mfs_eval.packet_level.hosts.agent import Agent, Flow
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES, Addresses
from mfs_eval.packet_level.hosts.rocev2.host import RdmaHost
from mfs_eval.packet_level.hosts.tcp.host import TcpHost
from mfs_eval.packet_level.hosts.transport import DEFAULT_RTO_NS, DEFAULT_WINDOW
from mfs_eval.packet_level.hosts.virtual_host import VirtualHost
from mfs_eval.packet_level.stranding_meter import StrandingMeter
from mfs_eval.setup.run_settings import RdmaSettings, TcpSettings
from soft_switch.queues.traffic_manager import QueueConfig
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import HostPort, Link, VirtualNetwork
from soft_switch.switch import Switch

OnComplete = Callable[[int], None]
"""Called with the time in nanoseconds at which the receiver has all bytes."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Packet counts of the network since its start."""

    sent: int
    received: int
    dropped: int
    retransmitted: int
    reordered: int
    marked: int
    timeouts: int
    go_backs: int


def _host_type(tcp: TcpSettings | None, rdma: RdmaSettings | None) -> Callable[..., VirtualHost]:
    if rdma is not None:
        return partial(RdmaHost, rdma=rdma)
    return VirtualHost if tcp is None else partial(TcpHost, tcp=tcp)


class PacketNetwork:
    """Switches, links between them, and virtual hosts on the other ports.

    A network starts with one switch. :meth:`add_switch` adds others and :meth:`connect` joins them.

    Attributes:
        switches: in the order in which they were added.
        hosts: by identifier.
        network: the underlying network, for traces and samples of occupancy.
        meter: measures what promotions strand and reorder.
        on_open: called with the sending host's identifier and the flow when a flow has been opened.
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
        tcp: TcpSettings | None = None,
        rdma: RdmaSettings | None = None,
        agents: Mapping[int, type[Agent]] | None = None,
        interface: Callable[[VirtualHost], HostPort] = lambda host: host,
    ) -> None:
        """Create a network of one switch.

        Args:
            clock: the virtual clock.
            switch: the first switch.
            ports: the port of ``switch`` for each of its hosts, by identifier.
            addresses: MAC and IPv4 addresses of all hosts.
            link: the link between a host and its switch.
            queues: queues of each switch port.
            tcp: makes the hosts' transport a TCP like Linux's; None for the windowed transport.
            rdma: makes the hosts' transport RoCEv2.
            agents: classes of agents for hosts that do not have the usual one.
            interface: returns what is attached to the network for a host.
            window, rto_ns, stale_progress, rerank_interval_ns: see
                :class:`~mfs_eval.packet_level.hosts.virtual_host.VirtualHost`.
        """
        self.clock = clock
        self.switches: list[Switch] = []
        self.network = VirtualNetwork(clock)
        self.hosts: dict[int, VirtualHost] = {}
        self.meter = StrandingMeter()
        self.on_open: Callable[[int, Flow], None] | None = None
        self._waiting: dict[int, OnComplete] = {}
        self._next_number = 0
        self._link = link
        self._queues = queues
        self._agents = agents or {}
        self._interface = interface
        self._new_host = partial(
            _host_type(tcp, rdma),
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
        """Add a switch with new hosts on its ``ports``.

        Raises:
            PortError: a port is in use.
        """
        self.switches.append(switch)
        for identity, port in ports.items():
            host = self._new_host(identity, agent_type=self._agents.get(identity, Agent))
            interface = self._interface(host)
            host.wake = self.network.attach_host(switch, port, interface, self._link, self._queues).wake
            host.inject = partial(self._inject, switch, port)
            host.on_complete = self._completed
            self.hosts[identity] = host

    def connect(self, switch: Switch, port: int, other: Switch, other_port: int, link: Link) -> None:
        """Join two switches by a link between new ports, with queues like those of the hosts' ports.

        Raises:
            PortError: a port is in use.
        """
        self.network.attach_switches(switch, port, other, other_port, link, self._queues)

    def set_policy(self, rules: Sequence[LevelRule], hosts: Iterable[int] | None = None) -> None:
        """Set the policy of ``hosts``, by default of all."""
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

        With ``promote_within``, each segment counts as the start of a message, so that the flow may be promoted at any
        segment. ``on_complete`` is called once, when the receiver has all bytes. Data for the same host cross no
        network: they are complete at once, and there is no flow.

        Raises:
            FlowError: a host does not exist.
        """
        if source not in self.hosts or spec.destination not in self.hosts:
            raise FlowError(f"cannot send from host {source} to {spec.destination}; the hosts are {sorted(self.hosts)}")
        if source == spec.destination:
            if on_complete is not None:
                self.clock.call_after(0, lambda: on_complete(self.clock.now_ns))
            return None
        number = self._next_number
        self._next_number = (number + 1) % FLOW_NUMBERS
        flow = self.hosts[source].agent.open(spec, number)
        if self.on_open is not None:
            self.on_open(source, flow)
        if spec.stage is Stage.KV_REUSE and spec.batch:
            self.hosts[spec.destination].feeds(spec.batch, source)
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
        """Tell ``host``, other than by a stamp, that ``batch`` is at ``layer``."""
        self.hosts[host].advance(batch, layer)

    def prune(self, requests: Collection[int]) -> None:
        """Tell all hosts to give up ``requests`` and no others."""
        for host in self.hosts.values():
            host.prune(requests)

    def totals(self) -> Totals:
        """Return the counts so far."""
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
            go_backs=sum(counter.go_backs for counter in counters),
        )

    def _inject(self, switch: Switch, port: int, frame: bytes) -> None:
        delay_ns = self._link.propagation_ns
        self.clock.call_after(delay_ns, lambda: switch.receive(port, frame, self.clock.now_ns))

    def _completed(self, connection: int) -> None:
        on_complete = self._waiting.pop(connection, None)
        if on_complete is not None:
            on_complete(self.clock.now_ns)
