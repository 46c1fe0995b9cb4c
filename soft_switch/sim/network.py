"""A network of hosts, links and switches on the virtual clock: exact and deterministic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from soft_switch.queues.traffic_manager import LinkTimer, QueueConfig
from soft_switch.sim.events import VirtualClock
from soft_switch.switch import Switch

Trace = Callable[[int, str, bytes], None]
"""Called with (time in ns, place, frame) when a frame starts to leave (``host 3 out``, ``port 3 out``) or has arrived
completely (``port 3 in``, ``host 3 in``)."""


@dataclass(frozen=True, slots=True)
class Link:
    """A symmetric link: its rate in bits of wire bytes per second, and the propagation delay in ns."""

    rate_bps: int
    propagation_ns: int


class HostPort(Protocol):
    """A host's network interface, as the network sees it."""

    def pull(self, now_ns: int) -> bytes | None:
        """Return the frame to send now; None if there is none. Called when the link is free."""

    def receive(self, data: bytes, now_ns: int) -> None:
        """Take a frame that has arrived completely."""


class Attachment:
    """A host's end of its link to a switch."""

    __slots__ = ("_busy", "_clock", "_deliver", "_host", "_place", "_propagation_ns", "_timer", "network")

    def __init__(
        self, network: VirtualNetwork, host: HostPort, link: Link, deliver: Callable[[bytes], None], place: str
    ) -> None:
        self.network = network
        self._clock = network.clock
        self._host = host
        self._timer = LinkTimer(link.rate_bps)
        self._propagation_ns = link.propagation_ns
        self._deliver = deliver
        self._place = place
        self._busy = False

    def wake(self) -> None:
        """Note that the host has something to send; if its link is free, it is pulled at once."""
        if not self._busy:
            self._busy = True
            self._send()

    def _send(self) -> None:
        clock = self._clock
        now_ns = clock.now_ns
        frame = self._host.pull(now_ns)
        if frame is None:
            self._busy = False
            self._timer.idle()
            return
        if self.network.trace is not None:
            self.network.trace(now_ns, f"{self._place} out", frame)
        free_ns = now_ns + self._timer.transmission_ns(len(frame))
        clock.call_at(free_ns + self._propagation_ns, self._deliver, frame)
        clock.call_at(free_ns, self._send)

    def receive(self, frame: bytes) -> None:
        """Deliver a frame from the switch to the host."""
        if self.network.trace is not None:
            self.network.trace(self._clock.now_ns, f"{self._place} in", frame)
        self._host.receive(frame, self._clock.now_ns)


class _SwitchPort:
    """A port of a switch and the link behind it."""

    __slots__ = ("_busy", "_clock", "_network", "_number", "_place", "_propagation_ns", "_switch", "deliver")

    def __init__(self, network: VirtualNetwork, switch: Switch, number: int, propagation_ns: int, place: str) -> None:
        self._network = network
        self._clock = network.clock
        self._switch = switch
        self._number = number
        self._propagation_ns = propagation_ns
        self._place = place
        self._busy = False
        self.deliver: Callable[[bytes], None]

    def receive(self, frame: bytes) -> None:
        """Deliver a frame from the link to the switch."""
        now_ns = self._clock.now_ns
        if self._network.trace is not None:
            self._network.trace(now_ns, f"{self._place} in", frame)
        self._switch.receive(self._number, frame, now_ns)

    def wake(self) -> None:
        """Note that a packet was queued."""
        if not self._busy:
            self._busy = True
            self._send()

    def _send(self) -> None:
        clock = self._clock
        now_ns = clock.now_ns
        sent = self._switch.transmit(self._number, now_ns)
        if sent is None:
            self._busy = False
            return
        frame, duration_ns = sent
        if self._network.trace is not None:
            self._network.trace(now_ns, f"{self._place} out", frame)
        free_ns = now_ns + duration_ns
        clock.call_at(free_ns + self._propagation_ns, self.deliver, frame)
        clock.call_at(free_ns, self._send)


class VirtualNetwork:
    """Switches, hosts, and the links between them, on ``clock``.

    Store-and-forward: a frame is delivered when its last bit has arrived, that is, transmission time plus propagation
    delay after it starts to leave. Each hop takes two events.

    Everything happens in the thread that runs the clock. Packet-outs of a controller come from other threads and wait
    for the clock's next event or next run.

    Attributes:
        trace: called with every frame at every hop; None, the default, costs nothing.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.trace: Trace | None = None
        self._ports: dict[Switch, dict[int, _SwitchPort]] = {}

    def attach_host(
        self, switch: Switch, port: int, host: HostPort, link: Link, queues: Sequence[QueueConfig] | None = None
    ) -> Attachment:
        """Attach ``host`` to a new port of ``switch``, which has the link's rate.

        Raises:
            PortError: the port is in use.
        """
        switch_port = self._add_port(switch, port, link, queues)
        attachment = Attachment(self, host, link, switch_port.receive, f"host {port}")
        switch_port.deliver = attachment.receive
        return attachment

    def attach_switches(
        self,
        switch: Switch,
        port: int,
        other: Switch,
        other_port: int,
        link: Link,
        queues: Sequence[QueueConfig] | None = None,
    ) -> None:
        """Connect new ports of two switches by a link.

        Raises:
            PortError: a port is in use.
        """
        near = self._add_port(switch, port, link, queues)
        far = self._add_port(other, other_port, link, queues)
        near.deliver = far.receive
        far.deliver = near.receive

    def _add_port(self, switch: Switch, number: int, link: Link, queues: Sequence[QueueConfig] | None) -> _SwitchPort:
        switch.add_port(number, link.rate_bps, queues)
        ports = self._ports.get(switch)
        if ports is None:
            ports = self._ports[switch] = {}
            switch.on_backlog = lambda backlogged: ports[backlogged].wake()
            switch.on_packet_out = lambda port, data: self.clock.call_soon(self._inject, switch, port, data)
        ports[number] = port = _SwitchPort(self, switch, number, link.propagation_ns, f"port {number}")
        return port

    def _inject(self, switch: Switch, port: int, data: bytes) -> None:
        switch.receive(port, data, self.clock.now_ns)
