"""The gRPC channel of a P4Runtime session and its stream, which carries the arbitration."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from p4.v1 import p4runtime_pb2, p4runtime_pb2_grpc

from mfs_ctrl.errors import SessionError, SwitchUnreachableError
from mfs_ctrl.p4rt.channel import TlsFiles, open_channel


class StreamClient:
    """A channel to a switch, its stub, and the open stream.

    Attributes:
        stub: the P4Runtime service.
        arbitration: the switch's latest ``MasterArbitrationUpdate``; set by the receiving thread.
        error: why the stream ended, or None; set by the receiving thread.
        complaints: ``StreamError`` messages that the switch has sent.

    Raises:
        SwitchUnreachableError: nothing answers at the address within ``timeout_s``.
        SessionError: the switch refuses the stream (device id, election id), or a TLS file cannot be read.
    """

    def __init__(
        self, address: str, device_id: int, election_id: int, timeout_s: float, tls: TlsFiles | None = None
    ) -> None:
        self.address = address
        self.device_id = device_id
        self.election_id = election_id
        self.timeout_s = timeout_s
        self.arbitration: Any = None
        self.error: SessionError | None = None
        self.complaints: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answered = threading.Event()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._channel = open_channel(address, tls)
        try:
            grpc.channel_ready_future(self._channel).result(timeout=timeout_s)
        except grpc.FutureTimeoutError:
            self._channel.close()
            raise SwitchUnreachableError(
                f"no P4Runtime server answers at {address} within {timeout_s:g} s; "
                f"check that the switch is running and that the address is right"
            ) from None
        self.stub: Any = p4runtime_pb2_grpc.P4RuntimeStub(self._channel)
        self._stream = self.stub.StreamChannel(self._outgoing())
        self._receiver = threading.Thread(target=self._receive, name="p4runtime-stream", daemon=True)
        self._receiver.start()
        self._arbitrate()

    def bid(self, election_id: int) -> None:
        """Use another election id in the arbitration from now on.

        Raises:
            SwitchUnreachableError: the switch does not answer.
            SessionError: it refuses the id and has ended the session.
        """
        self.election_id = election_id
        self._answered.clear()
        self._arbitrate()

    def close(self) -> None:
        """End the stream in an orderly way; a switch that does not answer delays this by 2 s at most."""
        self._requests.put(None)
        self._receiver.join(1.0)
        self._stream.cancel()
        self._receiver.join(1.0)
        self._channel.close()

    def _arbitrate(self) -> None:
        """Send the election id and wait for the answer."""
        request = p4runtime_pb2.StreamMessageRequest()
        request.arbitration.device_id = self.device_id
        request.arbitration.election_id.CopyFrom(uint128(self.election_id))
        self._requests.put(request)
        answered = self._answered.wait(self.timeout_s)
        if self.error is not None or not answered:
            error = self.error or SwitchUnreachableError(
                f"the switch at {self.address} does not answer the arbitration within {self.timeout_s:g} s"
            )
            self.close()
            raise error

    def _outgoing(self) -> Iterator[Any]:
        while (request := self._requests.get()) is not None:
            yield request

    def _receive(self) -> None:
        try:
            for message in self._stream:
                if message.HasField("arbitration"):
                    self.arbitration = message.arbitration
                    self._answered.set()
                elif message.HasField("error"):
                    self.complaints.put(message.error)
            self.error = SwitchUnreachableError(f"the switch at {self.address} ended the session")
        except grpc.RpcError as error:
            self.error = stream_error(error, self.address)
        finally:
            # Wake up a waiting caller: no answer will come.
            self._answered.set()


def uint128(number: int) -> p4runtime_pb2.Uint128:
    """Return an election id as P4Runtime encodes it."""
    return p4runtime_pb2.Uint128(high=number >> 64, low=number & (1 << 64) - 1)


def stream_error(error: Any, address: str) -> SessionError:
    """Return the error that describes the end of a stream."""
    with contextlib.suppress(AttributeError):
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return SessionError(f"the switch at {address} refuses the session: {error.code().name}, {error.details()}")
    return SwitchUnreachableError(f"the connection to the switch at {address} was lost")
