"""A session with one Tofino switch over BF Runtime, the service of ``bf_switchd``; see :mod:`mfs_ctrl.switch`.

It offers what the P4Runtime session does, as far as the service has it:

- ``bf_switchd`` loads the program itself; the session binds to it and compares it with the one it was given.
- One client at a time is bound to a program and may write. A second one is refused until the first has gone, whatever
  their numbers are: there is no election. The election id serves as the client id, and no two clients may share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import grpc

from mfs_ctrl.counters import Count
from mfs_ctrl.errors import (
    NotPrimaryError,
    PipelineError,
    RequestRefusedError,
    SessionError,
    SwitchUnreachableError,
    WriteFailedError,
)
from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.p4rt.duplex import Duplex
from mfs_ctrl.p4rt.entries import DefaultAction, Entity, MeterConfig
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.status import UPDATES_PER_WRITE, code_name, lost, refusals
from mfs_ctrl.p4rt.updates import DELETE, INSERT, Update
from mfs_ctrl.tofino import bfrt_convert as convert
from mfs_ctrl.tofino import bfrt_schema as names
from mfs_ctrl.tofino import messages
from mfs_ctrl.tofino.bf_runtime import ALL_DIRECTIONS, ALL_PARSERS, SERVICE
from mfs_ctrl.tofino.bfrt_schema import Schema
from mfs_ctrl.tofino.messages import BF_RUNTIME
from p4src.artifact import Artifact

ALL_PIPES = 0xFFFF
CLIENT_ID_MAX = (1 << 32) - 1

Result = TypeVar("Result")


class BfrtSession:
    """A session with the switch whose BF Runtime service is at ``address`` (host:port), for the program ``p4_name``.

    It is not connected until :meth:`connect`; it can connect again after :meth:`close` or a loss. It is in plain text
    without ``tls``.
    """

    def __init__(
        self,
        address: str,
        device_id: int = 0,
        election_id: int = 1,
        timeout_s: float = 30.0,
        tls: TlsFiles | None = None,
        p4_name: str = "mfs",
    ) -> None:
        if not 0 < election_id <= CLIENT_ID_MAX:
            raise SessionError(f"election id {election_id} is outside 1..2^32-1, which BF Runtime's client ids have")
        self.address = address
        self.device_id = device_id
        self.client_id = election_id
        self.timeout_s = timeout_s
        self._tls = tls
        self._p4_name = p4_name
        self._stream: _Stream | None = None
        self._bound = False
        self._schema: Schema | None = None

    @property
    def connected(self) -> bool:
        """Whether the session is open and the switch has not ended it."""
        return self._stream is not None and self._stream.error is None

    @property
    def primary(self) -> bool:
        """Whether this client is bound to the program and may write."""
        return self.connected and self._bound

    def connect(self) -> bool:
        """Open the session, or reopen it; return whether this client is primary.

        Raises:
            SwitchUnreachableError: nothing answers at the address.
            SessionError: the switch refuses the client id or the device id.
        """
        self.close()
        self._stream = _Stream(self.address, self.device_id, self.client_id, self.timeout_s, self._tls)
        try:
            return self.claim()
        except SessionError:
            self.close()
            raise

    def claim(self) -> bool:
        """Bind to the program unless another client is bound to it; return whether this client is primary.

        Raises:
            SessionError: the switch does not answer, or does not run the program.
        """
        if not self.connected or self._bound:
            return self.primary
        request = self._request("SetForwardingPipelineConfigRequest", action=messages.BIND)
        request.config.add(p4_name=self._p4_name)
        try:
            self._call("SetForwardingPipelineConfig", request, f"the program {self._p4_name}")
        except NotPrimaryError:
            return False
        self._bound = True
        return True

    def close(self) -> None:
        """End the session, if there is one."""
        stream, self._stream, self._bound = self._stream, None, False
        if stream is not None:
            stream.close()

    def ensure_pipeline(self, artifact: Artifact, replace: bool = False) -> tuple[P4InfoIndex, str]:  # noqa: ARG002
        """Compare the switch's program with ``artifact``; return the index of the latter, and "": nothing is loaded.

        Raises:
            PipelineError: the switch has no program, or one whose tables differ.
        """
        index = P4InfoIndex.from_text(artifact.p4info)
        answer = self._call(
            "GetForwardingPipelineConfig",
            self._request("GetForwardingPipelineConfigRequest"),
            "the query for its program",
        )
        for config in answer.config:
            if config.p4_name == self._p4_name:
                self._schema = Schema(config.bfruntime_info)
                _compare(self._schema, index)
                return index, ""
        running = ", ".join(config.p4_name for config in answer.config) or "no program"
        raise PipelineError(
            f"the switch at {self.address} runs {running}, not {self._p4_name}; start bf_switchd with its NAME.conf"
        )

    def port_rates(self) -> dict[int, int]:
        """Return nothing: rates are not asked for."""
        return {}

    def read_state(self, index: P4InfoIndex) -> Iterator[Entity]:
        """Yield entries, members, groups, and default actions and meters that are set, except those of const tables."""
        schema = self._known_schema()
        tables = [
            (table.name, schema.table(table.name).id) for table in index.tables.by_name.values() if not table.is_const
        ]
        for profile in index.profiles.by_name:
            tables += [(profile, schema.table(profile).id), (profile, schema.selector(profile).id)]
        for name, table_id in tables:
            for entry in self._read_table(table_id):
                if (entity := convert.decode(entry, index, schema, name)) is not None:
                    yield entity
        for name in index.meters.by_name:
            meters = [convert.decode(entry, index, schema, name) for entry in self._read_table(schema.table(name).id)]
            yield from (meter for meter in meters if isinstance(meter, MeterConfig) and not convert.is_unset(meter))

    def read_counters(
        self, index: P4InfoIndex, wanted: Mapping[str, Iterable[int] | None]
    ) -> dict[str, dict[int, Count]]:
        """Return counter cells by counter name and index: those that ``wanted`` names, or all where it has None."""
        schema = self._known_schema()
        counts: dict[str, dict[int, Count]] = {name: {} for name in wanted}
        for name, cells in wanted.items():
            index.counters.named(name)
            table = schema.table(name)
            request = self._request("ReadRequest")
            for cell in (None,) if cells is None else cells:
                entry = request.entities.add().table_entry
                entry.table_id, entry.table_flags.from_hw = table.id, True
                if cell is not None:
                    column = table.key[names.COUNTER_INDEX]
                    entry.key.fields.add(field_id=column.id).exact.value = column.encode(cell)
            for read in self._read(request) if request.entities else ():
                data = {field.field_id: int.from_bytes(field.stream, "big") for field in read.data.fields}
                cell = int.from_bytes(read.key.fields[0].exact.value, "big")
                before = counts[name].get(cell, Count(0, 0))
                packets, size = (
                    data.get(table.data[field].id, 0) if field in table.data else 0
                    for field in (names.COUNTER_PACKETS, names.COUNTER_BYTES)
                )
                # One entry for each pipe, where the service does not add them up.
                counts[name][cell] = Count(before.packets + packets, before.bytes + size)
        return counts

    def write(self, updates: Sequence[Update], index: P4InfoIndex) -> int:
        """Apply ``updates``, which must not depend on one another; return the number of requests.

        Raises:
            WriteFailedError: the switch refused some, which the error names; the others of their batch are applied.
            NotPrimaryError: another client is bound to the program.
        """
        requests = 0
        for start in range(0, len(updates), UPDATES_PER_WRITE):
            batch = updates[start : start + UPDATES_PER_WRITE]
            request = self._request("WriteRequest")
            for update in batch:
                self._add_update(update, index, request)
            self._call("Write", request, "a write", batch)
            requests += 1
        return requests

    def holds(self, present: Entity, wanted: Entity) -> bool:
        """Return whether both are equal, or the same meter with rates that the chip cannot tell apart."""
        return convert.holds(present, wanted)

    def stream_errors(self) -> list[str]:
        """Return an empty list: the service reports no errors on its stream.

        Raises:
            SessionError: the session has ended.
        """
        self._live()
        return []

    def _add_update(self, update: Update, index: P4InfoIndex, request: Any) -> None:
        schema, entity = self._known_schema(), update.entity
        message = request.updates.add()
        if update.operation is DELETE:
            message.type = messages.DELETE
            message.entity.table_entry.CopyFrom(convert.encode_key(entity, index, schema))
            return
        always_there = isinstance(entity, DefaultAction | MeterConfig)
        message.type = messages.INSERT if update.operation is INSERT and not always_there else messages.MODIFY
        message.entity.table_entry.CopyFrom(convert.encode(entity, index, schema))

    def _read_table(self, table_id: int) -> Iterator[Any]:
        request = self._request("ReadRequest")
        request.entities.add().table_entry.table_id = table_id
        yield from self._read(request)

    def _read(self, request: Any) -> Iterator[Any]:
        for response in self._call("Read", request, "a read"):
            for entity in response.entities:
                yield entity.table_entry

    def _request(self, kind: str, **fields: Any) -> Any:
        request = BF_RUNTIME[kind](client_id=self.client_id, **fields)
        if kind in ("ReadRequest", "WriteRequest"):
            request.p4_name = self._p4_name
            request.target.device_id, request.target.pipe_id = self.device_id, ALL_PIPES
            request.target.direction, request.target.prsr_id = ALL_DIRECTIONS, ALL_PARSERS
        else:
            request.device_id = self.device_id
        return request

    def _known_schema(self) -> Schema:
        if self._schema is None:
            raise PipelineError(
                f"the program of the switch at {self.address} is not known; call ensure_pipeline() first"
            )
        return self._schema

    def _live(self) -> _Stream:
        if self._stream is None:
            raise SwitchUnreachableError(f"there is no session with the switch at {self.address}; call connect() first")
        if self._stream.error is not None:
            raise self._stream.error
        return self._stream

    def _call(self, method: str, request: Any, what: str, batch: Sequence[Update] = ()) -> Any:
        """Call ``method``, and translate errors of gRPC; return the answer, or the list of answers of a read."""
        stream = self._live()
        try:
            return stream.call(method, request)
        except grpc.RpcError as error:
            raise self._translated(error, what, batch) from None

    def _translated(self, error: Any, what: str, batch: Sequence[Update]) -> SessionError:
        code, details = error.code(), error.details()
        here = f"the switch at {self.address}"
        if gone := lost(error, self.address, what, self.timeout_s):
            return gone
        if code == grpc.StatusCode.ALREADY_EXISTS and not batch:
            return NotPrimaryError(f"{here} refused {what}: another client is bound to it ({details})")
        if code == grpc.StatusCode.NOT_FOUND and not batch:
            return PipelineError(f"{here} does not have {what}: {details}")
        if refused := refusals(error, batch, BF_RUNTIME["Error"]):
            return WriteFailedError(self.address, refused, len(batch))
        return RequestRefusedError(f"{here} refused {what}: {code.name}, {details or 'no reason given'}")


def _compare(schema: Schema, index: P4InfoIndex) -> None:
    """Raise a PipelineError if the switch's program lacks an object that the controller writes or reads."""
    for table in index.tables.by_name.values():
        if table.is_const:
            continue
        fields = schema.table(table.name).key
        for field in table.fields:
            if field.name not in fields or fields[field.name].width != field.width:
                raise PipelineError(
                    f"the program on the switch differs from the P4Info: table {table.name}, field {field.name}; "
                    f"start bf_switchd with the program that the P4Info belongs to"
                )
    for name in (*index.profiles.by_name, *index.counters.by_name, *index.meters.by_name):
        schema.table(name)


class _Stream(Duplex):
    """A channel to the service and the open stream, with the subscription of ``client_id``.

    Raises:
        SwitchUnreachableError: nothing answers at the address within ``timeout_s``.
        SessionError: the switch refuses the subscription, or a TLS file cannot be read.
    """

    def __init__(self, address: str, device_id: int, client_id: int, timeout_s: float, tls: TlsFiles | None) -> None:
        super().__init__(address, timeout_s, tls, "nothing serves BF Runtime", "bf_switchd")
        subscription = BF_RUNTIME["StreamMessageRequest"](client_id=client_id)
        subscription.subscribe.device_id = device_id
        self.ask(subscription, "the subscription")

    def call(self, method: str, request: Any) -> Any:
        """Send ``request``; return the answer, or the list of answers of a read."""
        path = f"/{SERVICE}/{method}"
        serialize: Callable[[Any], bytes] = type(request).SerializeToString
        parse = BF_RUNTIME[type(request).DESCRIPTOR.name.replace("Request", "Response")].FromString
        if method == "Read":
            return list(self.channel.unary_stream(path, serialize, parse)(request, timeout=self.timeout_s))
        return self.channel.unary_unary(path, serialize, parse)(request, timeout=self.timeout_s)

    def _method(self) -> Any:
        request, answer = BF_RUNTIME["StreamMessageRequest"], BF_RUNTIME["StreamMessageResponse"]
        return self.channel.stream_stream(f"/{SERVICE}/StreamChannel", request.SerializeToString, answer.FromString)

    def _take(self, message: Any) -> bool:
        if not message.HasField("subscribe"):
            return False
        status = message.subscribe.status
        if status.code:
            reason = f"{code_name(status.code)}, {status.message}"
            self.error = SessionError(f"the switch at {self.address} refuses the session: {reason}")
        return True

    def _hint(self) -> str:
        return "; another client may have the same id: give this one another --election-id"
