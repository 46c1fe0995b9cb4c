"""Connections between engines: frames on an authenticated socket, and a pool of idle ones."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from host_agent.engines import handshake
from host_agent.engines.errors import ClosedError, RefusedError, TransferError
from host_agent.engines.params import Address
from host_agent.engines.wire import HEAD_BYTES, Frame, Kind, unpack, unpack_head

_LOG = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
IDLE_S = 60.0
"""Idle connections are kept this long."""
Buffer = bytes | bytearray | memoryview


class Channel:
    """One authenticated connection. Not thread-safe.

    Attributes:
        socket: the TCP socket.
        peer: the other end, for messages.
        reused: whether it carried something before; the peer may have closed it since.
    """

    def __init__(self, connection: socket.socket, timeout_s: float, peer: str) -> None:
        connection.settimeout(timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.peer = peer
        self.reused = False
        self._timeout_s = timeout_s

    def send(self, frame: Frame, payload: Iterable[Buffer] = ()) -> None:
        """Send a frame and its payload.

        Raises:
            TransferError: the peer is gone or too slow.
        """
        try:
            self.socket.sendall(frame.pack())
            for part in payload:
                view = memoryview(part).cast("B")
                # The socket's timeout is for each piece: it bounds how long the peer does nothing.
                for start in range(0, len(view), CHUNK_BYTES):
                    self.socket.sendall(view[start : start + CHUNK_BYTES])
        except OSError as error:
            raise TransferError(f"{self.peer}: {error.strerror or error}") from None

    def receive(self, *expected: Kind, idle: bool = False) -> Frame:
        """Receive a frame, without its payload, of one of the kinds ``expected``.

        Args:
            expected: kinds.
            idle: wait for as long as it takes: nothing is in flight.

        Raises:
            RefusedError: the peer refused.
            ClosedError: the peer closed the connection in front of the frame.
            TransferError: the peer is gone, too slow, or sent something else.
        """
        head_bytes = bytearray(HEAD_BYTES)
        try:
            self.socket.settimeout(None if idle else self._timeout_s)
            first = self.socket.recv_into(memoryview(head_bytes), 1)
            self.socket.settimeout(self._timeout_s)
        except ConnectionError as error:
            raise ClosedError(f"{self.peer}: {error.strerror or error}") from None
        except OSError as error:
            raise TransferError(f"{self.peer}: {error.strerror or error}") from None
        if not first:
            raise ClosedError(f"{self.peer} has closed the connection")
        self.receive_into(memoryview(head_bytes)[1:])
        try:
            head = unpack_head(head_bytes)
            text = bytearray(head.fields_bytes)
            self.receive_into(memoryview(text))
            frame = unpack(head, text)
        except TransferError as error:
            raise type(error)(f"{self.peer}: {error}") from None
        if frame.kind is Kind.REFUSE:
            raise RefusedError(f"{self.peer} refused: {frame.fields.get('reason')}")
        if frame.kind not in expected:
            raise TransferError(f"{self.peer} sent {frame.kind.name} instead of {expected[0].name}")
        return frame

    def receive_into(self, view: memoryview) -> None:
        """Fill ``view``.

        Raises:
            TransferError: the peer is gone or too slow.
        """
        filled = 0
        try:
            while filled < len(view):
                count = self.socket.recv_into(view[filled:], min(len(view) - filled, CHUNK_BYTES))
                if not count:
                    raise TransferError(f"{self.peer} has closed the connection")
                filled += count
        except OSError as error:
            raise TransferError(f"{self.peer}: {error.strerror or error}") from None

    def receive_payload(self, frame: Frame, expected_bytes: int) -> memoryview:
        """Receive the payload of ``frame``.

        Raises:
            TransferError: it has not ``expected_bytes``, or the peer is gone.
        """
        if frame.payload_bytes != expected_bytes:
            raise TransferError(f"{self.peer}: a payload of {frame.payload_bytes} bytes instead of {expected_bytes}")
        payload = memoryview(bytearray(expected_bytes))
        self.receive_into(payload)
        return payload

    def refuse(self, reason: str) -> None:
        """Tell the peer why nothing goes on; a peer that is gone does not matter."""
        with contextlib.suppress(TransferError):
            self.send(Frame(Kind.REFUSE, {"reason": reason}))

    def close(self) -> None:
        """Close the connection; in the thread that uses it."""
        self.break_off()
        self.socket.close()

    def break_off(self) -> None:
        """End the connection, in any thread: whoever waits for it wakes up, and closes it."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    @property
    def usable(self) -> bool:
        """Whether an idle connection is still open: nothing to read, and no end of file."""
        try:
            self.socket.settimeout(0)
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        finally:
            self.socket.settimeout(self._timeout_s)
        return False


def dial(address: Address, secret: bytes, timeout_s: float) -> Channel:
    """Connect to a peer, and authenticate both ends.

    Raises:
        RefusedError: the secrets or the versions differ.
        TransferError: the peer is not reachable.
    """
    try:
        connection = socket.create_connection((address.host, address.port), timeout_s)
    except OSError as error:
        raise TransferError(f"{address}: {error.strerror or error}") from None
    channel = Channel(connection, timeout_s, str(address))
    try:
        own = handshake.nonce()
        channel.send(Frame(Kind.HELLO, {"nonce": own}))
        answer = channel.receive(Kind.HELLO)
        other = answer.text("nonce")
        if not handshake.proves(secret, handshake.SERVER, own, other, answer.fields.get("proof")):
            raise RefusedError(f"{address} does not know this engine's secret; use the same secret_file on both")
        channel.send(Frame(Kind.PROOF, {"proof": handshake.proof(secret, handshake.CLIENT, own, other)}))
    except TransferError:
        channel.close()
        raise
    return channel


def welcome(channel: Channel, secret: bytes) -> None:
    """Authenticate a peer that connected.

    Raises:
        RefusedError: the secrets or the versions differ; the peer is told.
        TransferError: the peer is gone.
    """
    try:
        other = channel.receive(Kind.HELLO).text("nonce")
        own = handshake.nonce()
        proof = handshake.proof(secret, handshake.SERVER, other, own)
        channel.send(Frame(Kind.HELLO, {"nonce": own, "proof": proof}))
        answer = channel.receive(Kind.PROOF)
        if not handshake.proves(secret, handshake.CLIENT, other, own, answer.fields.get("proof")):
            raise RefusedError(f"{channel.peer} does not know this engine's secret; use the same secret_file on both")
    except RefusedError as error:
        channel.refuse(str(error))
        raise


class Server:
    """Accepts connections, and serves each in a thread of its own."""

    def __init__(
        self, address: Address, secret: bytes, timeout_s: float, serve: Callable[[Channel, Frame], None], *kinds: Kind
    ) -> None:
        """Listen.

        Args:
            address: host and port; port 0 for a free one.
            secret: shared secret.
            timeout_s: a peer that does nothing for this long in the middle of something is given up.
            serve: serves one frame of ``kinds`` and what follows it. If it raises TransferError, the peer is told and
                the connection is closed.
            kinds: of frames that begin something.

        Raises:
            TransferError: the address cannot be bound.
        """
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            self._listener = socket.create_server((address.host, address.port), family=family, backlog=128)
        except OSError as error:
            raise TransferError(f"cannot listen at {address}: {error.strerror or error}") from None
        self.port = int(self._listener.getsockname()[1])
        self._secret = secret
        self._timeout_s = timeout_s
        self._serve = serve
        self._kinds = kinds
        self._lock = threading.Lock()
        self._channels: set[Channel] = set()
        self._closed = False
        threading.Thread(target=self._accept, name="mfs-accept", daemon=True).start()

    def close(self) -> None:
        """Close the listener and all connections."""
        with self._lock:
            self._closed = True
            channels = list(self._channels)
        # Closing alone does not wake a thread that waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for channel in channels:
            channel.break_off()

    @property
    def connections(self) -> int:
        """Number of open connections."""
        with self._lock:
            return len(self._channels)

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # out of descriptors, for instance
                continue
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            channel = Channel(connection, self._timeout_s, str(Address(peer[0], peer[1])))
            with self._lock:
                if self._closed:
                    channel.close()
                    return
                self._channels.add(channel)
            threading.Thread(target=self._run, args=(channel,), name="mfs-serve", daemon=True).start()

    def _run(self, channel: Channel) -> None:
        try:
            welcome(channel, self._secret)
            while True:
                frame = channel.receive(*self._kinds, idle=True)
                try:
                    self._serve(channel, frame)
                except TransferError as error:
                    channel.refuse(str(error))
                    raise
        except ClosedError:
            pass
        except TransferError as error:
            _LOG.warning("%s", error)
        finally:
            with self._lock:
                self._channels.discard(channel)
            channel.close()


class Pool:
    """Idle connections by peer, for reuse. Thread-safe."""

    def __init__(self, secret: bytes, timeout_s: float) -> None:
        self._secret = secret
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._idle: dict[Address, list[tuple[float, Channel]]] = defaultdict(list)

    def take(self, address: Address) -> Channel:
        """Return an idle connection to ``address``, or a new one.

        Raises:
            TransferError: see :func:`dial`.
        """
        while True:
            with self._lock:
                since, channel = self._idle[address].pop() if self._idle[address] else (0.0, None)
            if channel is None:
                return dial(address, self._secret, self._timeout_s)
            if time.monotonic() - since < IDLE_S and channel.usable:
                channel.reused = True
                return channel
            channel.close()

    def give(self, address: Address, channel: Channel) -> None:
        """Keep a connection on which nothing is in flight."""
        now = time.monotonic()
        with self._lock:
            idle = self._idle[address]
            idle.append((now, channel))
            old = [each for since, each in idle if now - since >= IDLE_S]
            self._idle[address] = [(since, each) for since, each in idle if now - since < IDLE_S]
        for each in old:
            each.close()

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            channels = [channel for idle in self._idle.values() for _, channel in idle]
            self._idle.clear()
        for channel in channels:
            channel.close()


def layer_frame(layer: int, first: int, blocks: int, payload_bytes: int) -> Frame:
    """Return the frame in front of a layer's blocks."""
    return Frame(Kind.LAYER, {"layer": layer, "first": first, "blocks": blocks}, payload_bytes)
