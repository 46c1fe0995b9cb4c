"""Packets sent all the time from one host to another, to see what is lost and for how long."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

from mfs_eval.live.live_network import Place
from topologies import namespaces

_NUMBER = struct.Struct("!Q")
RTO_MAX_MS = 1000
"""TCP's longest retransmission timeout: how soon it goes on after an outage is not what is measured."""
_TCP_RTO_MAX_MS, _SO_MAX_PACING_RATE = 44, 47
"""``linux/tcp.h`` (Linux 6.15), ``asm-generic/socket.h``."""


class Probe:
    """Numbered UDP packets in one direction. A context manager.

    Attributes:
        passed: packets so far that have arrived, or were sent before one that has.
        lost: of these.
    """

    def __init__(self, source: Place, destination: Place, interval_s: float = 0.005, size_bytes: int = 200) -> None:
        self.passed = self.lost = self._sent = 0
        self._interval_s = interval_s
        self._padding = bytes(size_bytes - _NUMBER.size)
        self._near, self._far = (namespaces.inside(place.namespace, _udp) for place in (source, destination))
        self._far.bind((destination.address, 0))
        self._far.settimeout(0.2)
        self._address = self._far.getsockname()
        self._last_s = time.monotonic()
        self._longest_s = 0.0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._receive)]

    def _send(self) -> None:
        next_s = time.monotonic()
        while not self._over.is_set():
            # An interface that is down refuses: the packet is lost like others.
            with contextlib.suppress(OSError):
                self._near.sendto(_NUMBER.pack(self._sent) + self._padding, self._address)
            self._sent += 1
            next_s += self._interval_s
            time.sleep(max(0.0, next_s - time.monotonic()))

    def _receive(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                (number,) = _NUMBER.unpack_from(self._far.recv(2048))
                now_s = time.monotonic()
                self._longest_s = max(self._longest_s, now_s - self._last_s)
                self._last_s = now_s
                # One that was overtaken had been taken for lost.
                self.lost += number - self.passed if number >= self.passed else -1
                self.passed = max(self.passed, number + 1)

    @property
    def silent_s(self) -> float:
        """Seconds since a packet arrived."""
        return time.monotonic() - self._last_s

    def longest_silence_s(self) -> float:
        """Return the longest time without a packet since the last call, in seconds."""
        longest, self._longest_s = max(self._longest_s, self.silent_s), 0.0
        return longest

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._near.close()
        self._far.close()


class Bulk:
    """A TCP connection that sends all the time, at a rate below that of the link. A context manager.

    Attributes:
        socket: the sender's end.
        received_bytes: of payload, so far.
    """

    def __init__(self, source: Place, destination: Place, rate_bps: int) -> None:
        self.received_bytes = 0
        with namespaces.inside(destination.namespace, socket.socket) as listener:
            listener.bind((destination.address, 0))
            listener.listen()
            self.socket = namespaces.inside(source.namespace, socket.socket)
            self.socket.connect(listener.getsockname())
            self._far, _ = listener.accept()
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate_bps // 8)
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, RTO_MAX_MS)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._receive)]

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.socket.send(bytes(16_384))

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while part := self._far.recv(1 << 16):
                self.received_bytes += len(part)

    def __enter__(self) -> Bulk:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self.socket, self._far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self.socket.close()
        self._far.close()


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
