"""Sends registrations through an interface, as raw frames. Needs CAP_NET_RAW."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from host_agent.daemon.netlink import link
from host_agent.ebpf.layout import CLASS_MAJOR
from host_agent.protocol.registration import QueuePair, registration
from host_agent.protocol.stamp import LEVELS, Stamp

_DISCARD_PORT = 9
_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""Neighbours whose address the kernel uses: reachable, stale, delayed, probed, permanent (``linux/neighbour.h``)."""
_KEPT_S = 1.0
"""How long a next hop's Ethernet address is used before the kernel is asked again."""


class Registrar:
    """The sender of an interface's registrations. A thread of its own asks the kernel for routes, and sends in order.

    Attributes:
        sent: frames that were sent.
        unresolved: frames that were not, because the next hop's Ethernet address was not known (yet), or the kernel
            refused them.
    """

    def __init__(self, interface: str, ordered: bool) -> None:
        """Open a socket on ``interface``; ``ordered``: it has the agent's traffic classes.

        Raises:
            InterfaceError: there is no such interface.
        """
        self.sent = 0
        self.unresolved = 0
        self._interface = interface
        self._hops: dict[str, tuple[bytes, float]] = {}
        self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._packets.bind((interface, 0))
        self._packets.setblocking(False)
        if ordered:
            self._packets.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, CLASS_MAJOR << 16 | LEVELS)
        # pyroute2 does not work in a thread that runs an event loop.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registrar")
        self._thread.submit(self._begin).result()

    def addresses(self) -> tuple[str, ...]:
        """Return the IP addresses of the interface."""
        return self._thread.submit(self._addresses).result()

    def send(self, pair: QueuePair, stamp: Stamp, reverse: bool) -> None:
        """Send the registration of ``pair`` soon. What cannot be sent is counted; it is repeated in time anyway."""
        self._thread.submit(self._send, pair, stamp, reverse)

    def close(self) -> None:
        """Send what waits, and close the sockets."""
        self._thread.submit(lambda: self._route.close())
        self._thread.shutdown()
        self._packets.close()

    def _begin(self) -> None:
        self._route = IPRoute()
        found = link(self._route, self._interface)
        self._index = int(found["index"])
        self.mac = bytes.fromhex(str(found.get_attr("IFLA_ADDRESS")).replace(":", ""))

    def _addresses(self) -> tuple[str, ...]:
        return tuple(str(each.get_attr("IFA_ADDRESS")) for each in self._route.get_addr(index=self._index))

    def _send(self, pair: QueuePair, stamp: Stamp, reverse: bool) -> None:
        mac = self._next_hop(pair.source if reverse else pair.destination)
        if mac is not None:
            with contextlib.suppress(OSError):
                self._packets.send(registration(pair, stamp, self.mac, mac, reverse))
                self.sent += 1
                return
        self.unresolved += 1

    def _next_hop(self, destination: str) -> bytes | None:
        """Return the Ethernet address of the next hop to ``destination``; None, and ask for it, while it is unknown."""
        now = time.monotonic()
        mac, until = self._hops.get(destination, (b"", 0.0))
        if now < until:
            return mac
        try:
            [found, *_] = self._route.route("get", dst=destination, oif=self._index)
            hop = str(found.get_attr("RTA_GATEWAY") or destination)
            neighbours = list(self._route.get_neighbours(ifindex=self._index, dst=hop))
        except (NetlinkError, ValueError):
            return None
        for neighbour in neighbours:
            address = neighbour.get_attr("NDA_LLADDR")
            if address and neighbour["state"] & _KNOWN:
                mac = bytes.fromhex(address.replace(":", ""))
                self._hops[destination] = mac, now + _KEPT_S
                return mac
        self._hops.pop(destination, None)
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        # An empty datagram makes the kernel look for the neighbour.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.sendto(b"", (destination, _DISCARD_PORT))
        return None
