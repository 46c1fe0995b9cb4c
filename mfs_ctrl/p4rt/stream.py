"""The stream of a P4Runtime session: p4runtime-shell's client, made to raise where it would end the process."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from p4.v1 import p4runtime_pb2
from p4runtime_sh.p4runtime import P4RuntimeClient, SSLOptions

from mfs_ctrl.errors import SessionError, SwitchUnreachableError


class StreamClient(P4RuntimeClient):  # type: ignore[misc]
    """Channel and stubs are the shell's; the stream is kept here, so that its end is an error with a reason.

    ``arbitration`` is the switch's last word on who is primary, ``error`` why the stream ended, if it has. Both are set
    by the receiving thread.

    Raises:
        SwitchUnreachableError: nobody answers at the address within ``timeout_s``.
        SessionError: the switch refuses the stream (device id, election id), or a TLS file cannot be read.
    """

    def __init__(
        self, address: str, device_id: int, election_id: int, timeout_s: float, ssl: SSLOptions | None
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.arbitration: Any = None
        self.error: SessionError | None = None
        self.complaints: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answered = threading.Event()
        try:
            super().__init__(device_id, address, (election_id >> 64, election_id & (1 << 64) - 1), None, ssl)
        except SystemExit:
            raise SessionError(f"the TLS files {ssl} cannot be read; check their paths") from None

    def set_up_stream(self) -> None:
        """Wait for the switch, open the stream, and take part in the arbitration."""
        try:
            grpc.channel_ready_future(self.channel).result(timeout=self.timeout_s)
        except grpc.FutureTimeoutError:
            self.channel.close()
            raise SwitchUnreachableError(
                f"no P4Runtime server answers at {self.address} within {self.timeout_s:g} s; "
                f"is the switch running, and the address right?"
            ) from None
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stream = self.stub.StreamChannel(self._outgoing())
        self.receiver = threading.Thread(target=self._receive, name="p4runtime-stream", daemon=True)
        self.receiver.start()
        self.handshake()

    def bid(self, election_id: int) -> None:
        """Take part in the arbitration with another election id from now on.

        Raises:
            SwitchUnreachableError: the switch does not answer.
            SessionError: it refuses the id, and has ended the session.
        """
        self.election_id = (election_id >> 64, election_id & (1 << 64) - 1)
        self._answered.clear()
        self.handshake()

    def handshake(self) -> None:
        """Say our election id and wait for the answer."""
        request = p4runtime_pb2.StreamMessageRequest()
        request.arbitration.device_id = self.device_id
        request.arbitration.election_id.high, request.arbitration.election_id.low = self.election_id
        self.requests.put(request)
        answered = self._answered.wait(self.timeout_s)
        if self.error is not None or not answered:
            error = self.error or SwitchUnreachableError(
                f"the switch at {self.address} does not answer the arbitration within {self.timeout_s:g} s"
            )
            self.close()
            raise error

    def close(self) -> None:
        """End the stream in good order; a switch that does not answer does not hold us up."""
        self.requests.put(None)
        self.receiver.join(1.0)
        self.stream.cancel()
        self.receiver.join(1.0)
        self.channel.close()

    def _outgoing(self) -> Iterator[Any]:
        while (request := self.requests.get()) is not None:
            yield request

    def _receive(self) -> None:
        try:
            for message in self.stream:
                if message.HasField("arbitration"):
                    self.arbitration = message.arbitration
                    self._answered.set()
                elif message.HasField("error"):
                    self.complaints.put(message.error)
            self.error = SwitchUnreachableError(f"the switch at {self.address} ended the session")
        except grpc.RpcError as error:
            self.error = stream_error(error, self.address)
        finally:
            # Whoever waits for an answer learns that none will come.
            self._answered.set()


def stream_error(error: Any, address: str) -> SessionError:
    """Why the switch ended the stream, in words."""
    with contextlib.suppress(AttributeError):
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return SessionError(f"the switch at {address} refuses the session: {error.code().name}, {error.details()}")
    return SwitchUnreachableError(f"the connection to the switch at {address} was lost")
