"""The receiving ends of a host's connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from host_agent.protocol.stamp import Stage
from mfs_eval.packet_level.hosts.frames import ETHERTYPE_SHIM_BYTES, Addresses, ip_udp_header
from mfs_eval.packet_level.hosts.receiver import ReceivingEnd
from mfs_eval.packet_level.hosts.stamp_template import StampTemplate

R = TypeVar("R", bound=ReceivingEnd, covariant=True)
E = TypeVar("E", bound=ReceivingEnd)

FINISHED_KEPT = 65_536
"""Completed connections that a receiver remembers, so that it can acknowledge segments that are sent twice."""
FED_BATCHES = 64
"""Batches for which a receiver remembers who sends it reused KV; the oldest is forgotten first."""
_KV_REUSE = int(Stage.KV_REUSE)


class Incoming(Generic[R]):
    """The receiving end of one connection, with the headers of its acknowledgements."""

    __slots__ = ("batch", "ethernet", "ip_udp", "receiver", "template")

    def __init__(self, receiver: R, ethernet: bytes, ip_udp: bytes, batch: int) -> None:
        self.receiver = receiver
        self.ethernet = ethernet
        self.ip_udp = ip_udp
        self.batch = batch
        self.template = StampTemplate(Stage.NONE, batch, 0, 0)


class IncomingConnections(Generic[E]):
    """The receiving ends of the connections to one host.

    Args:
        identity: the host.
        addresses: of all hosts.
        new_receiver: makes the receiving half of a connection.
        ack_bytes: length of an acknowledgement.
    """

    def __init__(self, identity: int, addresses: Addresses, new_receiver: Callable[[int], E], ack_bytes: int) -> None:
        self._addresses = addresses
        self._mac, self._ip = addresses[identity]
        self._by_ip = {ip: host for host, (_, ip) in addresses.items()}
        self._new_receiver = new_receiver
        self._ack_bytes = ack_bytes
        self._open: dict[int, Incoming[E]] = {}
        self._finished: dict[int, Incoming[E]] = {}
        # By batch and sender's address: a connection that brought reused KV from there.
        self._feeders: dict[int, dict[bytes, tuple[int, Incoming[E]]]] = {}

    def get(self, connection: int) -> Incoming[E] | None:
        """Return the receiving end of ``connection``, open or complete; None if it is unknown."""
        return self._open.get(connection) or self._finished.get(connection)

    def accept(self, connection: int, mac: bytes, ip: bytes, batch: int, stage: int) -> Incoming[E]:
        """Open the receiving end of a connection whose first segment came from ``mac`` and ``ip``."""
        ethernet = mac + self._mac + ETHERTYPE_SHIM_BYTES
        if (source := self._by_ip.get(ip)) is not None:
            ethernet = self._addresses[source][0] + ethernet[6:]  # a router on the way put its own address there
        ip_udp = ip_udp_header(self._ip, ip, connection, self._ack_bytes, 0)
        incoming = Incoming(self._new_receiver(connection), ethernet, ip_udp, batch)
        self._open[connection] = incoming
        if batch and stage == _KV_REUSE:
            self._note_feeder(batch, ip, connection, incoming)
        return incoming

    def finish(self, connection: int) -> None:
        """Note that all of ``connection`` has arrived."""
        self._finished[connection] = self._open.pop(connection)
        if len(self._finished) > FINISHED_KEPT:
            del self._finished[next(iter(self._finished))]

    def feeders(self, batch: int) -> Iterable[tuple[int, Incoming[E]]]:
        """Return a connection from each host that sends reused KV of ``batch``."""
        return self._feeders.get(batch, {}).values()

    def _note_feeder(self, batch: int, source: bytes, connection: int, incoming: Incoming[E]) -> None:
        feeders = self._feeders.get(batch)
        if feeders is None:
            feeders = self._feeders[batch] = {}
            if len(self._feeders) > FED_BATCHES:
                del self._feeders[next(iter(self._feeders))]
        feeders[source] = connection, incoming
