"""The switch: a loaded pipeline between the traffic managers of its ports. Its driver has the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from soft_switch.errors import SwitchError
from soft_switch.model.replication import Ingressed, Reentry
from soft_switch.queues.traffic_manager import NewPort, Port, QueueConfig

if TYPE_CHECKING:
    from soft_switch.pipeline import Pipeline


def _default_port(_number: int, rate_bps: int, queues: Sequence[QueueConfig] | None) -> Port[Ingressed]:
    return Port(rate_bps, queues)


class PortError(SwitchError):
    """A port number is in use already, or the port does not exist."""


class Switch:
    """A pipeline and the ports around it.

    A driver passes in what links deliver (:meth:`receive`). ``on_backlog(port)`` tells it that a port has something to
    send, which it takes with :meth:`transmit` whenever the port's link is free. ``lock`` is held while a packet is
    processed; other threads must hold it to read or write the pipeline's state.

    Attributes:
        pipeline: the program that runs; without one, packets are dropped.
        ports: the ports by number.
        cpu_port: the port whose packets go to ``on_packet_in`` and come from :meth:`packet_out`; None for none.
        on_packet_in: called with each packet that leaves by the CPU port, while ``lock`` is held.
        on_backlog: called with the number of a port after a packet was queued there.
        on_packet_out: called with (CPU port, packet) of each packet-out, from any thread, to pass it to :meth:`receive`
            later. Without it the packet is processed at once, at the time of the last packet received.
        undeliverable: packets sent to a port that does not exist, or received before a pipeline was installed.
    """

    def __init__(self, cpu_port: int | None = None, new_port: NewPort | None = None) -> None:
        """Create a switch; pass ``new_port`` to use your own traffic manager."""
        self.pipeline: Pipeline | None = None
        self.ports: dict[int, Port[Ingressed]] = {}
        self.cpu_port = cpu_port
        self.on_packet_in: Callable[[bytes], None] | None = None
        self.on_backlog: Callable[[int], None] | None = None
        self.lock = threading.RLock()
        self.on_packet_out: Callable[[int, bytes], None] | None = None
        self.undeliverable = 0
        self._last_ns = 0
        self._new_port = new_port or _default_port

    def add_port(self, number: int, rate_bps: int, queues: Sequence[QueueConfig] | None = None) -> Port[Ingressed]:
        """Add a port; see :class:`~soft_switch.queues.traffic_manager.Port`.

        Raises:
            PortError: the number is in use, possibly as the CPU port.
            PortConfigError: the rate, a limit or a share is invalid.
        """
        if number in self.ports or number == self.cpu_port:
            raise PortError(f"the switch already has a port {number}")
        port = self._new_port(number, rate_bps, queues)
        self.ports[number] = port
        return port

    @property
    def port_rates(self) -> dict[int, int]:
        """Bits per second of each port, by number."""
        return {number: port.rate_bps for number, port in self.ports.items()}

    def install(self, pipeline: Pipeline) -> None:
        """Run ``pipeline`` from the next packet on; packets queued by an earlier one are dropped."""
        with self.lock:
            if self.pipeline is not None:
                for port in self.ports.values():
                    while port.next() is not None:
                        self.undeliverable += 1
            self.pipeline = pipeline

    def receive(self, port: int, data: bytes, now_ns: int) -> None:
        """Process a frame that arrived at ``port``: ingress, then the queue of the port and priority that it chose."""
        with self.lock:
            self._last_ns = now_ns
            pipeline = self.pipeline
            if pipeline is None:
                self.undeliverable += 1
                return
            packet = pipeline.ingress(port, data, now_ns)
            if packet is not None:
                self._admit(pipeline, packet, now_ns)
            if pipeline.spawned:
                self._spread(pipeline, now_ns)

    def _admit(self, pipeline: Pipeline, packet: Ingressed, now_ns: int) -> None:
        number = packet.egress_port
        target = self.ports.get(number)
        if target is not None:
            if target.enqueue(packet, packet.length, packet.priority, now_ns) and self.on_backlog is not None:
                self.on_backlog(number)
        elif number == self.cpu_port and self.on_packet_in is not None:
            frame = pipeline.egress(packet, now_ns, now_ns, 0, 0)
            if frame is not None:
                self.on_packet_in(frame)
        else:
            self.undeliverable += 1

    def _spread(self, pipeline: Pipeline, now_ns: int) -> None:
        """Queue copies and run ingress for packets that re-enter, until no more are made."""
        while pipeline.spawned:
            made = pipeline.spawned.pop(0)
            packet = pipeline.reenter(made, now_ns) if isinstance(made, Reentry) else made
            if packet is not None:
                self._admit(pipeline, packet, now_ns)

    def transmit(self, port: int, now_ns: int) -> tuple[bytes, int] | None:
        """Return the frame that ``port`` sends now, after egress, and its time on the link in ns; None if idle."""
        with self.lock:
            queues = self.ports[port]
            while (dequeued := queues.next()) is not None:
                packet, _, enqueued_ns, enq_qdepth, deq_qdepth = dequeued
                pipeline = self.pipeline
                assert pipeline is not None, "only a pipeline queues packets"
                frame = pipeline.egress(packet, enqueued_ns, now_ns, enq_qdepth, deq_qdepth)
                if pipeline.spawned:
                    self._spread(pipeline, now_ns)
                if frame is not None:
                    return frame, queues.transmission_ns(len(frame))
            return None

    def packet_out(self, data: bytes) -> None:
        """Process a packet from the controller as if it had arrived at the CPU port.

        Raises:
            PortError: the switch has no CPU port.
        """
        if self.cpu_port is None:
            raise PortError("this switch has no CPU port; start it with one to send packets from the controller")
        if self.on_packet_out is not None:
            self.on_packet_out(self.cpu_port, data)
        else:
            self.receive(self.cpu_port, data, self._last_ns)
