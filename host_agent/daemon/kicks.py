"""Windows that open or close at once: copies of a peer's last acknowledgement, handed to this host's own TCP.

The frame goes out on a packet socket with a mark that the egress program knows; it sends the frame back to the
interface's ingress (``host_agent/ebpf/egress.h``).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct

from host_agent.ebpf.errors import InterfaceError
from host_agent.ebpf.layout import Heard
from host_agent.protocol.flow_request import PROTOCOLS, FiveTuple
from host_agent.protocol.units import ETHERTYPE_IPV4, ETHERTYPE_IPV6

_SO_MARK = 36
_ACK = 0x10
_TIME_OPTION = 0x0101080A
_HOPS = 64
_TCP = PROTOCOLS["tcp"]


def internet_checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def acknowledgement(addresses: FiveTuple, heard: Heard, window: int, mac: bytes) -> bytes:
    """Return the frame that repeats a peer's last acknowledgement with another window.

    Args:
        addresses: of what this host sends on the connection.
        heard: the last acknowledgement.
        window: value of the window field, that is, already divided by the scale.
        mac: link address of this host's interface; the frame's source as well, because it never leaves the host.
    """
    peer, own = (ipaddress.ip_address(end) for end in (addresses.destination, addresses.source))
    options = struct.pack("!III", _TIME_OPTION, heard.time_value, heard.time_echo) if heard.timed else b""
    ports = addresses.destination_port, addresses.source_port
    offset = (20 + len(options)) // 4 << 4
    sequence = heard.peer_next, heard.acknowledged
    tcp = struct.pack("!HHIIBBHHH", *ports, *sequence, offset, _ACK, window, 0, 0) + options
    pseudo = peer.packed + own.packed + struct.pack("!IHBB", len(tcp), 0, 0, _TCP)
    tcp = tcp[:16] + internet_checksum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
    if peer.version == 4:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, _HOPS, _TCP, 0) + peer.packed + own.packed
        ip = ip[:10] + internet_checksum(ip).to_bytes(2, "big") + ip[12:]
        kind = ETHERTYPE_IPV4
    else:
        ip = struct.pack("!IHBB", 6 << 28, len(tcp), _TCP, _HOPS) + peer.packed + own.packed
        kind = ETHERTYPE_IPV6
    return mac + mac + kind.to_bytes(2, "big") + ip + tcp


class Kicker:
    """Packet socket on an interface whose egress program knows the mark. Counts its frames in ``kicks``."""

    def __init__(self, interface: str, mark: int) -> None:
        """Open the socket.

        Raises:
            InterfaceError: not permitted, or there is no such interface.
        """
        self.kicks = 0
        try:
            # Protocol 0: it receives nothing.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            self._socket.bind((interface, 0))
        except OSError as error:
            raise InterfaceError(f"cannot send frames on {interface}: {error.strerror}") from None
        self._socket.setblocking(False)
        self._mac: bytes = self._socket.getsockname()[4]

    def kick(self, addresses: FiveTuple, heard: Heard, window: int) -> None:
        """Let this host's TCP believe that the peer repeats its last acknowledgement with this window field.

        A frame that finds no room is lost, as on a link.
        """
        with contextlib.suppress(OSError):
            self._socket.send(acknowledgement(addresses, heard, window, self._mac))
            self.kicks += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
