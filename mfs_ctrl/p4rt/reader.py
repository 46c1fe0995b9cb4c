"""What needs no arbitration: reading the program, entries and counters of a switch over P4Runtime.

The specification lets any client read, so looking changes nothing, not even who is primary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from p4.config.v1 import p4info_pb2
from p4.v1 import p4runtime_pb2, p4runtime_pb2_grpc

from mfs_ctrl.counters import Count
from mfs_ctrl.errors import NotPrimaryError, PipelineError, RequestRefusedError, SessionError, WriteFailedError
from mfs_ctrl.p4rt import convert
from mfs_ctrl.p4rt.channel import TlsFiles, await_ready, open_channel
from mfs_ctrl.p4rt.entries import Entity
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.status import lost, refusals
from mfs_ctrl.p4rt.updates import Update

PORT_RATES_KEY = "port-rates-bps"
"""Metadata with which the embedded switch answers ``Capabilities``: ``1=20000000,2=20000000``."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class HeldProgram:
    """The program that a switch runs: its P4Info, and the cookie with which it was loaded."""

    p4info: p4info_pb2.P4Info
    cookie: int


class Requests(ABC):
    """Requests to the switch at ``address`` that any client may make; errors of gRPC become errors of this package."""

    def __init__(self, address: str, device_id: int, timeout_s: float) -> None:
        self.address = address
        self.device_id = device_id
        self.timeout_s = timeout_s

    @property
    def election_id(self) -> int:
        """That of a client that may write; 0 for others."""
        return 0

    @abstractmethod
    def _stub(self) -> Any:
        """Return the P4Runtime service.

        Raises:
            SessionError: there is no connection.
        """

    def program(self) -> HeldProgram | None:
        """Return the program that the switch runs; None if it has none.

        Raises:
            SessionError: the switch does not answer, or refuses.
        """
        request = p4runtime_pb2.GetForwardingPipelineConfigRequest(
            device_id=self.device_id,
            response_type=p4runtime_pb2.GetForwardingPipelineConfigRequest.P4INFO_AND_COOKIE,
        )
        try:
            held = self._call(
                lambda stub: stub.GetForwardingPipelineConfig(request, timeout=self.timeout_s),
                "the query for its program",
            )
        except PipelineError:
            return None
        # A switch without a program may also answer with an empty one.
        return HeldProgram(held.config.p4info, held.config.cookie.cookie) if held.config.ByteSize() else None

    def port_rates(self) -> dict[int, int]:
        """Return the rate of each port in bits per second, from switches that tell it; else nothing."""

        def ask(stub: Any) -> Any:
            _, call = stub.Capabilities.with_call(p4runtime_pb2.CapabilitiesRequest(), timeout=self.timeout_s)
            return call.initial_metadata()

        try:
            metadata = dict(self._call(ask, "the query for its capabilities"))
        except RequestRefusedError:
            # Servers of P4Runtime before 1.1 do not have the call.
            return {}
        pairs = (pair.partition("=") for pair in metadata.get(PORT_RATES_KEY, "").split(","))
        return {int(port): int(rate) for port, _, rate in pairs if port.isdecimal() and rate.isdecimal()}

    def read_state(self, index: P4InfoIndex) -> Iterator[Entity]:
        """Yield entries, members, groups, and default actions and meters that are set, except those of const tables."""
        request = p4runtime_pb2.ReadRequest(device_id=self.device_id)
        for table in index.tables.by_name.values():
            if table.is_const:
                continue
            request.entities.add().table_entry.table_id = table.id
            if not table.is_indirect:
                default = request.entities.add().table_entry
                default.table_id, default.is_default_action = table.id, True
        for profile in index.profiles.by_name.values():
            request.entities.add().action_profile_member.action_profile_id = profile.id
            request.entities.add().action_profile_group.action_profile_id = profile.id
        for meter in index.meters.by_name.values():
            request.entities.add().meter_entry.meter_id = meter.id
        for message in self._read(request):
            if (entity := convert.decode(message, index)) is not None:
                yield entity

    def read_counters(
        self, index: P4InfoIndex, wanted: Mapping[str, Iterable[int] | None]
    ) -> dict[str, dict[int, Count]]:
        """Return counter cells by counter name and index: those that ``wanted`` names, or all where it has None."""
        request = p4runtime_pb2.ReadRequest(device_id=self.device_id)
        counts: dict[str, dict[int, Count]] = {name: {} for name in wanted}
        for name, cells in wanted.items():
            counter_id = index.counters.named(name).id
            for cell in (None,) if cells is None else cells:
                # Built in place: a copy doubles the cost where protobuf is pure Python.
                entry = request.entities.add().counter_entry
                entry.counter_id = counter_id
                if cell is not None:
                    entry.index.index = cell
        for message in self._read(request) if request.entities else ():
            entry = message.counter_entry
            counter = index.counters.numbered(entry.counter_id)
            counts[counter.name][entry.index.index] = Count(entry.data.packet_count, entry.data.byte_count)
        return counts

    def _read(self, request: p4runtime_pb2.ReadRequest) -> Iterator[p4runtime_pb2.Entity]:
        responses = self._call(lambda stub: list(stub.Read(request, timeout=self.timeout_s)), "a read")
        for response in responses:
            yield from response.entities

    def _call(self, request: Callable[[Any], Result], what: str, batch: Sequence[Update] = ()) -> Result:
        """Run ``request`` on the stub, and translate errors of gRPC."""
        stub = self._stub()
        try:
            return request(stub)
        except grpc.RpcError as error:
            raise self._translated(error, what, batch) from None

    def _translated(self, error: Any, what: str, batch: Sequence[Update]) -> SessionError:
        code, details = error.code(), error.details()
        here = f"the switch at {self.address}"
        if gone := lost(error, self.address, what, self.timeout_s):
            return gone
        if code == grpc.StatusCode.PERMISSION_DENIED:
            return NotPrimaryError(
                f"{here} refused {what}: another controller is primary, not the one with election id "
                f"{self.election_id} ({details})"
            )
        if code == grpc.StatusCode.FAILED_PRECONDITION:
            return PipelineError(f"{here} has no program loaded: {details}")
        if code == grpc.StatusCode.UNKNOWN and (refused := refusals(error, batch, p4runtime_pb2.Error)):
            return WriteFailedError(self.address, refused, len(batch))
        return RequestRefusedError(f"{here} refused {what}: {code.name}, {details}")


class Reader(Requests):
    """Connection that only reads: it opens no stream, so the switch does not count it among its controllers."""

    def __init__(
        self,
        address: str,
        device_id: int = 1,
        tls: TlsFiles | None = None,
        connect_s: float = 5.0,
        timeout_s: float = 30.0,
    ) -> None:
        """Connect to ``address`` (host:port) within ``connect_s`` seconds; each answer may take ``timeout_s``.

        Raises:
            SwitchUnreachableError: nothing answers there.
            SessionError: a TLS file cannot be read.
        """
        super().__init__(address, device_id, timeout_s)
        self._channel = open_channel(address, tls)
        await_ready(self._channel, address, connect_s)
        self._service: Any = p4runtime_pb2_grpc.P4RuntimeStub(self._channel)

    def _stub(self) -> Any:
        return self._service

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
