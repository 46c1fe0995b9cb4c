"""A packet socket on one interface that receives through a ring in shared memory: packet(7), linux/if_packet.h.

With the ring (TPACKET_V2) a frame takes no system call, and the kernel reports whether its checksum is missing and
which VLAN tag was removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import socket
import struct
from typing import Literal

from soft_switch.realtime import saved_offloads
from soft_switch.realtime.claims import claim
from soft_switch.realtime.errors import InterfaceError

RING_FRAMES = 1024
"""Frames that may wait for the switch; the kernel drops and counts further ones."""
ETHERNET_HEADER_BYTES = 14
VLAN_TAG_BYTES = 4

_SOL_PACKET = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _QDISC_BYPASS, _IGNORE_OUTGOING = 1, 5, 6, 10, 20, 23
_TPACKET_V2 = 1
_PROMISCUOUS = 1
_ETH_P_ALL = 0x0003
_SIOCGIFMTU, _SIOCGIFFLAGS, _IFF_UP = 0x8921, 0x8913, 1
_FOR_USER, _CHECKSUM_MISSING, _VLAN, _VLAN_TYPE = 1, 8, 0x10, 0x40
_ANY_VLAN_OR_CHECKSUM = _VLAN | _CHECKSUM_MISSING
_BLOCK_BYTES = 1 << 16
_SLOT_OVERHEAD = 128
# tp_status, tp_len, tp_snaplen, tp_mac, tp_net, tp_sec, tp_nsec, tp_vlan_tci, tp_vlan_tpid
_HEADER = struct.Struct("=IIIHHIIHH")
_FRAME = struct.Struct("=IIIH")
_STATUS = struct.Struct("=I")

Condition = Literal["up", "down", "gone", "replaced"]


class PacketSocket:
    """All frames that ``interface`` receives, and a way to send. Not thread-safe.

    Attributes:
        unfinished: frames dropped because their checksum was left to hardware that does not exist.
        oversized: frames dropped because they exceed the interface's MTU: merged segments.
        unsent: frames that the interface did not accept, for instance because it is down.
        arrival_ns: when the kernel received the last frame that was taken, in nanoseconds since 1970.
    """

    def __init__(self, interface: str, frames: int = RING_FRAMES) -> None:
        """Open ``interface`` in this thread's network namespace, turn its offloads off, and start to receive.

        Raises:
            InterfaceError: there is no such interface, another switch has it, or the process lacks CAP_NET_RAW or
                CAP_NET_ADMIN.
        """
        self.interface = interface
        self._frames = frames
        self.unfinished = self.oversized = self.unsent = 0
        self.arrival_ns = 0
        self._lost = 0
        self._offset = self._last = self._slot = 0
        self._memory: mmap.mmap | None = None
        self._index = _index_of(interface)
        claimed = claim(interface)
        if claimed is None:
            raise InterfaceError(f"another switch runs on interface {interface}; stop it first")
        self._claim = claimed
        self._before: dict[str, int] = {}
        try:
            self._open()
        except InterfaceError:
            saved_offloads.restore(interface, self._before)
            self._claim.close()
            raise

    def reopen(self) -> None:
        """Receive from an interface that was made again under the same name; counts go on.

        Raises:
            InterfaceError: it cannot be opened; the socket is then as it was.
        """
        index = _index_of(self.interface)
        memory, before = self._memory, self._socket
        self._open()
        if memory is not None:
            memory.close()
        before.close()
        saved_offloads.forget(self.interface, self._index)
        self._index = index

    def _open(self) -> None:
        """Open a packet socket with a ring; what is open stays open."""
        try:
            # Protocol 0 receives nothing until the ring exists.
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError:
            raise InterfaceError(
                f"opening interface {self.interface} requires root, or the capabilities CAP_NET_RAW and CAP_NET_ADMIN"
            ) from None
        try:
            self._before = saved_offloads.turn_off(self.interface)
            longest = _query(opened, self.interface, _SIOCGIFMTU) + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES
            memory, slot, count = _ring(opened, longest, self._frames)
            membership = struct.pack("iHH8s", _index_of(self.interface), _PROMISCUOUS, 0, b"")
            opened.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            opened.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
            opened.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
            opened.setblocking(False)
            opened.bind((self.interface, _ETH_P_ALL))
        except OSError as error:
            opened.close()
            raise InterfaceError(f"cannot receive from interface {self.interface}: {error.strerror}") from error
        except InterfaceError:
            opened.close()
            raise
        self._socket, self._send = opened, opened.send
        self._ring = self._memory = memory
        self._longest, self._slot, self._offset, self._last = longest, slot, 0, (count - 1) * slot

    @property
    def condition(self) -> Condition:
        """Condition of the interface; "replaced" if another one has its name now, which :meth:`reopen` takes."""
        try:
            if socket.if_nametoindex(self.interface) != self._index:
                return "replaced"
            return "up" if _query(self._socket, self.interface, _SIOCGIFFLAGS) & _IFF_UP else "down"
        except OSError:
            return "gone"

    def fileno(self) -> int:
        """Return a descriptor that is readable when frames wait."""
        return self._socket.fileno()

    @property
    def ring(self) -> tuple[mmap.mmap, int, int, int]:
        """(memory, bytes of a slot, slots, the longest frame in bytes), for C code that takes frames itself."""
        return self._ring, self._slot, self._last // self._slot + 1, self._longest

    @property
    def position(self) -> int:
        """Index of the slot of the ring that is read next."""
        return self._offset // self._slot

    @position.setter
    def position(self, slot: int) -> None:
        self._offset = slot * self._slot

    def take(self) -> bytes | None:
        """Return the next complete frame that was received; None if none waits."""
        memory = self._ring
        while True:
            offset = self._offset
            status, length, held, start = _FRAME.unpack_from(memory, offset)
            if not status & _FOR_USER:
                return None
            start += offset
            frame = memory[start : start + held]
            *_, seconds, nanoseconds, tag, tag_type = _HEADER.unpack_from(memory, offset)
            self.arrival_ns = seconds * 1_000_000_000 + nanoseconds
            _STATUS.pack_into(memory, offset, 0)
            self._offset = offset + self._slot if offset < self._last else 0
            if length > self._longest or length != held:
                self.oversized += 1
                continue
            if status & _ANY_VLAN_OR_CHECKSUM:
                if status & _CHECKSUM_MISSING:
                    self.unfinished += 1
                    continue
                kind = tag_type if status & _VLAN_TYPE else 0x8100
                return frame[:12] + struct.pack("!HH", kind, tag) + frame[12:]
            return frame

    def send(self, frame: bytes) -> bool:
        """Hand a frame to the interface; if it does not accept it, count that and return False."""
        try:
            self._send(frame)
        except OSError:
            self.unsent += 1
            return False
        return True

    def error(self) -> int:
        """Return and clear the pending error number, 0 for none; ENETDOWN if the interface went down or away."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def lost(self) -> int:
        """Return how many frames the kernel dropped so far because the ring was full."""
        with contextlib.suppress(OSError):
            _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
            self._lost += dropped
        return self._lost

    def close(self) -> None:
        """Stop receiving and restore the interface's offloads; a second call does nothing."""
        if self._memory is not None:
            self._memory.close()
        self._socket.close()
        saved_offloads.restore(self.interface, self._before)
        self._before = {}
        self._claim.close()


def _ring(opened: socket.socket, longest: int, frames: int) -> tuple[mmap.mmap, int, int]:
    """Give a socket a ring; return its memory, the bytes of a slot, and the slots."""
    slot = max(2048, 1 << (longest + _SLOT_OVERHEAD - 1).bit_length())
    block = max(_BLOCK_BYTES, slot)
    blocks = -(-frames * slot // block)
    count = blocks * (block // slot)
    opened.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
    opened.setsockopt(_SOL_PACKET, _RX_RING, struct.pack("IIII", block, blocks, slot, count))
    return mmap.mmap(opened.fileno(), blocks * block), slot, count


def _query(opened: socket.socket, interface: str, request: int) -> int:
    answer = fcntl.ioctl(opened, request, struct.pack("16si20x", interface.encode(), 0))
    number: int = struct.unpack_from("i" if request == _SIOCGIFMTU else "h", answer, 16)[0]
    return number


def _index_of(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise InterfaceError(f"there is no network interface {interface!r} here; see: ip link") from None
