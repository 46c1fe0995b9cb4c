"""The gRPC channel of a P4Runtime session and its stream, which carries the arbitration."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

from google.rpc import code_pb2
from p4.v1 import p4runtime_pb2, p4runtime_pb2_grpc

from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.p4rt.duplex import Duplex

HIGHEST_ELECTION_ID = (1 << 128) - 1


class StreamClient(Duplex):
    """A channel to a switch, its stub, and the open stream.

    Args:
        on_arbitration: called by the receiving thread after each ``MasterArbitrationUpdate``.

    Attributes:
        stub: the P4Runtime service.
        election_id: the id of the latest bid.
        arbitration: the switch's latest ``MasterArbitrationUpdate``; set by the receiving thread.
        complaints: ``StreamError`` messages that the switch has sent.

    Raises:
        SwitchUnreachableError: nothing answers at the address within ``timeout_s``.
        SessionError: the switch refuses the stream (device id, election id), or a TLS file cannot be read.
    """

    def __init__(
        self,
        address: str,
        device_id: int,
        election_id: int,
        timeout_s: float,
        tls: TlsFiles | None = None,
        on_arbitration: Callable[[], None] | None = None,
    ) -> None:
        self.device_id = device_id
        self.election_id = self._own_id = election_id
        self._contends = False
        self._on_arbitration = on_arbitration
        self.arbitration: Any = None
        self.complaints: queue.SimpleQueue[Any] = queue.SimpleQueue()
        super().__init__(address, timeout_s, tls, "no P4Runtime server answers", "the switch")
        self.bid(election_id)

    def bid(self, election_id: int) -> None:
        """Use ``election_id`` in the arbitration from now on, and wait for the answer.

        Raises:
            SwitchUnreachableError: the switch does not answer.
            SessionError: it refuses the id and has ended the session.
        """
        self.ask(self._arbitration_request(election_id), "the arbitration")

    def contend(self) -> None:
        """Become primary if the switch says that there is none, now and whenever it says so.

        A switch remembers the highest election id that it has seen and makes no client with a lower one primary
        (P4Runtime specification, "Client Arbitration"). The bid is therefore that id plus this client's: the bids of
        several backups differ, and the highest wins.

        Raises:
            SwitchUnreachableError: the switch does not answer.
            SessionError: it refuses the id and has ended the session.
        """
        self._contends = True
        if self._vacant:
            self.bid(self._next_id())

    def _method(self) -> Any:
        self.stub: Any = p4runtime_pb2_grpc.P4RuntimeStub(self.channel)
        return self.stub.StreamChannel

    def _take(self, message: Any) -> bool:
        if message.HasField("arbitration"):
            self.arbitration = message.arbitration
            if self._contends and self._vacant:
                # From this thread, since those that control other switches may keep that of this one waiting.
                self.send(self._arbitration_request(self._next_id()))
            if self._on_arbitration is not None:
                self._on_arbitration()
            return True
        if message.HasField("error"):
            self.complaints.put(message.error)
        return False

    @property
    def _vacant(self) -> bool:
        """Whether the switch said that there is no primary."""
        return bool(self.arbitration.status.code == code_pb2.NOT_FOUND)

    def _next_id(self) -> int:
        seen = self.arbitration.election_id
        return min((int(seen.high) << 64 | int(seen.low)) + self._own_id, HIGHEST_ELECTION_ID)

    def _arbitration_request(self, election_id: int) -> Any:
        self.election_id = election_id
        request = p4runtime_pb2.StreamMessageRequest()
        request.arbitration.device_id = self.device_id
        request.arbitration.election_id.CopyFrom(uint128(election_id))
        return request


def uint128(number: int) -> p4runtime_pb2.Uint128:
    """Return an election id as P4Runtime encodes it."""
    return p4runtime_pb2.Uint128(high=number >> 64, low=number & (1 << 64) - 1)
