"""A P4Runtime session with one switch; every gRPC error becomes an error of :mod:`mfs_ctrl.errors`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from google.rpc import code_pb2
from p4.v1 import p4runtime_pb2

from mfs_ctrl.counters import Count
from mfs_ctrl.errors import (
    NotPrimaryError,
    PipelineError,
    RequestRefusedError,
    SessionError,
    SwitchUnreachableError,
    WriteFailedError,
)
from mfs_ctrl.p4rt import convert
from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.p4rt.entries import DefaultAction, Entity, MeterConfig
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.status import UPDATES_PER_WRITE, code_name, lost, refusals
from mfs_ctrl.p4rt.stream import StreamClient, uint128
from mfs_ctrl.p4rt.updates import DELETE, MODIFY, Update
from p4src.artifact import Artifact

HIGHEST_ELECTION_ID = (1 << 128) - 1

Result = TypeVar("Result")


class Session:
    """A connection to the switch at ``address`` (host:port). Of several, the highest election id is primary.

    The session is not connected until :meth:`connect`; it can connect again after :meth:`close` or a loss. It is in
    plain text without ``tls``.

    Attributes:
        election_id: the id in use: the one given, or a higher one after :meth:`claim`.
    """

    def __init__(
        self,
        address: str,
        device_id: int = 1,
        election_id: int = 1,
        timeout_s: float = 5.0,
        tls: TlsFiles | None = None,
    ) -> None:
        if not 0 < election_id < 1 << 128:
            raise SessionError(f"election id {election_id} is outside 1..2^128-1")
        self.address = address
        self.device_id = device_id
        self.election_id = self._own_id = election_id
        self.timeout_s = timeout_s
        self._tls = tls
        self._client: StreamClient | None = None

    @property
    def connected(self) -> bool:
        """Whether the session is open and the switch has not ended it."""
        return self._client is not None and self._client.error is None

    @property
    def primary(self) -> bool:
        """Whether this controller may write, according to the switch's latest arbitration message."""
        return self.connected and self._live().arbitration.status.code == code_pb2.OK

    def connect(self) -> bool:
        """Open the session, or reopen it; return whether this controller is primary.

        Raises:
            SwitchUnreachableError: nothing answers at the address.
            SessionError: the switch refuses the election id or the device id.
        """
        self.close()
        self.election_id = self._own_id
        self._client = StreamClient(self.address, self.device_id, self.election_id, self.timeout_s, self._tls)
        return self.primary

    def claim(self) -> bool:
        """Become primary if the switch says that there is none; return whether this controller is primary.

        A switch remembers the highest election id that it has seen and makes no client with a lower one primary
        (P4Runtime specification, "Client Arbitration"). The bid is therefore that id plus this session's: the bids of
        several backups differ, and the highest wins.

        Raises:
            SessionError: the switch does not answer, or refuses.
        """
        if not self.connected:
            return False
        client = self._live()
        if client.arbitration.status.code == code_pb2.NOT_FOUND:
            seen = client.arbitration.election_id
            self.election_id = min((seen.high << 64 | seen.low) + self._own_id, HIGHEST_ELECTION_ID)
            client.bid(self.election_id)
        return self.primary

    def close(self) -> None:
        """End the session, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def ensure_pipeline(self, artifact: Artifact) -> tuple[P4InfoIndex, bool]:
        """Load the program unless the switch already runs it; return the program's index and whether it was loaded.

        Loading a program removes all entries of the switch.

        Raises:
            PipelineError: the switch refuses the program.
        """
        index = P4InfoIndex.from_text(artifact.p4info)
        cookie = pipeline_cookie(artifact)
        if self._holds(index, cookie):
            return index, False
        request = p4runtime_pb2.SetForwardingPipelineConfigRequest(
            device_id=self.device_id,
            election_id=self._election(),
            action=p4runtime_pb2.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT,
        )
        request.config.p4info.CopyFrom(index.message)
        request.config.p4_device_config = artifact.config
        request.config.cookie.cookie = cookie
        # Loading a program takes longer than a read.
        load_timeout_s = 10 * self.timeout_s
        try:
            self._call(lambda stub: stub.SetForwardingPipelineConfig(request, timeout=load_timeout_s), "the program")
        except RequestRefusedError as error:
            raise PipelineError(str(error)) from None
        return index, True

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

    def write(self, updates: Sequence[Update], index: P4InfoIndex) -> int:
        """Apply ``updates``, which must not depend on one another; return the number of requests.

        Raises:
            WriteFailedError: the switch refused some, which the error names; the others of their batch are applied.
            NotPrimaryError: another controller is primary.
        """
        requests = 0
        for start in range(0, len(updates), UPDATES_PER_WRITE):
            self._write_batch(updates[start : start + UPDATES_PER_WRITE], index)
            requests += 1
        return requests

    def holds(self, present: Entity, wanted: Entity) -> bool:
        """Return whether both are equal: P4Runtime reports what was written."""
        return present == wanted

    def stream_errors(self) -> list[str]:
        """Return the errors that the switch has reported on the stream since the last call.

        Raises:
            SessionError: the session has ended.
        """
        complaints = self._live().complaints
        reported = []
        while not complaints.empty():
            error = complaints.get()
            reported.append(f"{code_name(error.canonical_code)}: {error.message or 'no reason given'}")
        return reported

    def _read(self, request: p4runtime_pb2.ReadRequest) -> Iterator[p4runtime_pb2.Entity]:
        responses = self._call(lambda stub: list(stub.Read(request, timeout=self.timeout_s)), "a read")
        for response in responses:
            yield from response.entities

    def _write_batch(self, batch: Sequence[Update], index: P4InfoIndex) -> None:
        request = p4runtime_pb2.WriteRequest(device_id=self.device_id, election_id=self._election())
        request.updates.extend(_encode_update(update, index) for update in batch)
        self._call(lambda stub: stub.Write(request, timeout=self.timeout_s), "a write", batch)

    def _holds(self, index: P4InfoIndex, cookie: int) -> bool:
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
            return False
        return bool(held.config.cookie.cookie == cookie and held.config.p4info == index.message)

    def _election(self) -> p4runtime_pb2.Uint128:
        return uint128(self.election_id)

    def _live(self) -> StreamClient:
        if self._client is None:
            raise SwitchUnreachableError(f"there is no session with the switch at {self.address}; call connect() first")
        if self._client.error is not None:
            raise self._client.error
        return self._client

    def _call(self, request: Callable[[Any], Result], what: str, batch: Sequence[Update] = ()) -> Result:
        """Run ``request`` on the stub, and translate errors of gRPC."""
        client = self._live()
        try:
            return request(client.stub)
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


def pipeline_cookie(artifact: Artifact) -> int:
    """Return the 64-bit number that identifies a compiled program."""
    digest = hashlib.sha256(artifact.config + b"\0" + artifact.p4info.encode())
    return int.from_bytes(digest.digest()[:8], "big")


def _encode_update(update: Update, index: P4InfoIndex) -> p4runtime_pb2.Update:
    operation, entity = update.operation, update.entity
    if not isinstance(entity, DefaultAction | MeterConfig):
        return p4runtime_pb2.Update(type=operation, entity=convert.encode(entity, index))
    # Default actions and meter cells always exist: they can only be modified.
    encode = convert.encode_reset if operation is DELETE else convert.encode
    return p4runtime_pb2.Update(type=MODIFY, entity=encode(entity, index))
