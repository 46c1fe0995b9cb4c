"""The receiving ends of a host's connections."""

from __future__ import annotations

from collections.abc import Iterable

from host_agent.protocol.stamp import Stage
from mfs_eval.packet_level.hosts.frames import ETHERTYPE_SHIM_BYTES, Addresses, ip_udp_header
from mfs_eval.packet_level.hosts.receiver import Receiver
from mfs_eval.packet_level.hosts.segment_header import ACK_BYTES
from mfs_eval.packet_level.hosts.stamp_template import StampTemplate
from mfs_eval.packet_level.hosts.transport import TransportCounters

FINISHED_KEPT = 65_536
"""Completed connections that a receiver remembers, so that it can acknowledge segments that are sent twice."""
FED_BATCHES = 64
"""Batches for which a receiver remembers who sends it reused KV; the oldest is forgotten first."""
_KV_REUSE = int(Stage.KV_REUSE)


class Incoming:
    """The receiving end of one connection, with the headers of its acknowledgements."""

    __slots__ = ("batch", "ethernet", "ip_udp", "receiver", "template")

    def __init__(self, receiver: Receiver[int], ethernet: bytes, ip_udp: bytes, batch: int) -> None:
        self.receiver = receiver
        self.ethernet = ethernet
        self.ip_udp = ip_udp
        self.batch = batch
        self.template = StampTemplate(Stage.NONE, batch, 0, 0)


class IncomingConnections:
    """The receiving ends of the connections to one host.

    Args:
        identity: the host.
        addresses: of all hosts.
        counters: count what happens on the connections.
    """

    def __init__(self, identity: int, addresses: Addresses, counters: TransportCounters) -> None:
        self._addresses = addresses
        self._mac, self._ip = addresses[identity]
        self._by_ip = {ip: host for host, (_, ip) in addresses.items()}
        self._counters = counters
        self._open: dict[int, Incoming] = {}
        self._finished: dict[int, Incoming] = {}
        # By batch and sender's address: a connection that brought reused KV from there.
        self._feeders: dict[int, dict[bytes, tuple[int, Incoming]]] = {}

    def get(self, connection: int) -> Incoming | None:
        """Return the receiving end of ``connection``, open or complete; None if it is unknown."""
        return self._open.get(connection) or self._finished.get(connection)

    def accept(self, connection: int, mac: bytes, ip: bytes, batch: int, stage: int) -> Incoming:
        """Open the receiving end of a connection whose first segment came from ``mac`` and ``ip``."""
        ethernet = mac + self._mac + ETHERTYPE_SHIM_BYTES
        if (source := self._by_ip.get(ip)) is not None:
            ethernet = self._addresses[source][0] + ethernet[6:]  # a router on the way put its own address there
        ip_udp = ip_udp_header(self._ip, ip, connection, ACK_BYTES, 0)
        incoming = Incoming(Receiver(connection, self._counters), ethernet, ip_udp, batch)
        self._open[connection] = incoming
        if batch and stage == _KV_REUSE:
            self._note_feeder(batch, ip, connection, incoming)
        return incoming

    def finish(self, connection: int) -> None:
        """Note that all of ``connection`` has arrived."""
        self._finished[connection] = self._open.pop(connection)
        if len(self._finished) > FINISHED_KEPT:
            del self._finished[next(iter(self._finished))]

    def feeders(self, batch: int) -> Iterable[tuple[int, Incoming]]:
        """Return a connection from each host that sends reused KV of ``batch``."""
        return self._feeders.get(batch, {}).values()

    def _note_feeder(self, batch: int, source: bytes, connection: int, incoming: Incoming) -> None:
        feeders = self._feeders.get(batch)
        if feeders is None:
            feeders = self._feeders[batch] = {}
            if len(self._feeders) > FED_BATCHES:
                del self._feeders[next(iter(self._feeders))]
        feeders[source] = connection, incoming
