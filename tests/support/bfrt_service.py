"""A BF Runtime service without a switch: it keeps the entries of a program in memory, as ``bf_switchd`` does.

What it refuses, and how, is taken from the drivers' server: a second client that binds, an entry that is there already
or not there, and a key that lacks fields.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, status_pb2

from mfs_ctrl.p4rt.p4info import EXACT, LPM, RANGE, TERNARY, P4InfoIndex
from mfs_ctrl.tofino import bfrt_schema as names
from mfs_ctrl.tofino.messages import BF_RUNTIME, DELETE, INSERT, MODIFY
from p4src.artifact import TOFINO, p4info

MATCHES = {EXACT: "Exact", LPM: "LPM", TERNARY: "Ternary", RANGE: "Range"}
PREFIX = "pipe."


def described(index: P4InfoIndex) -> bytes:
    """The tables of a program as the compiler describes them for BF Runtime."""
    tables: list[dict[str, Any]] = []
    profiles = {profile.id: profile.name for profile in index.profiles.by_name.values()}
    for table in index.message.tables:
        preamble = table.preamble
        key = [
            _field(number, field.name, "bytes", index.tables.named(preamble.name).fields[number - 1].width)
            | {"match_type": MATCHES[index.tables.named(preamble.name).fields[number - 1].kind]}
            for number, field in enumerate(table.match_fields, 1)
        ]
        if index.tables.named(preamble.name).needs_priority:
            key.append(_field(65537, names.PRIORITY, "uint32") | {"match_type": "Exact"})
        if table.implementation_id:
            tables.append(_table(preamble.id, preamble.name, "MatchAction_Indirect_Selector", key, [_one_of()]))
        else:
            actions = [ref.id for ref in table.action_refs]
            tables.append(_table(preamble.id, preamble.name, "MatchAction_Direct", key, [], _actions(index, actions)))
    for number, name in profiles.items():
        refs = next(table.action_refs for table in index.message.tables if table.implementation_id == number)
        member = _field(1, names.MEMBER, "uint32") | {"match_type": "Exact"}
        tables.append(_table(number, name, "Action", [member], [], _actions(index, [ref.id for ref in refs])))
        group = _field(1, names.GROUP, "uint32") | {"match_type": "Exact"}
        data = [
            {"singleton": _field(1, names.MEMBER, "uint32", repeated=True)},
            {"singleton": _field(2, names.MEMBER_STATUS, "bool", repeated=True)},
            {"singleton": _field(3, names.GROUP_SIZE, "uint32")},
        ]
        tables.append(_table(number + 1, "next_hop_groups", "Selector", [group], data) | {"depends_on": [number]})
    for counter in index.counters.by_name.values():
        key = [_field(1, names.COUNTER_INDEX, "uint32") | {"match_type": "Exact"}]
        data = [
            {"singleton": _field(65553, names.COUNTER_BYTES, "uint64")},
            {"singleton": _field(65554, names.COUNTER_PACKETS, "uint64")},
        ]
        tables.append(_table(counter.id, counter.name, "Counter", key, data))
    for meter in index.meters.by_name.values():
        key = [_field(1, names.METER_INDEX, "uint32") | {"match_type": "Exact"}]
        kinds = (names.CIR_KBPS, names.PIR_KBPS, names.CBS_KBITS, names.PBS_KBITS)
        data = [{"singleton": _field(number, kind, "uint64")} for number, kind in enumerate(kinds, 65545)]
        tables.append(_table(meter.id, meter.name, "Meter", key, data))
    return json.dumps({"tables": tables}).encode()


def _table(number: int, name: str, kind: str, key: Any, data: Any, actions: Any = ()) -> dict[str, Any]:
    return {
        "id": number,
        "name": PREFIX + name,
        "table_type": kind,
        "key": key,
        "data": data,
        "action_specs": list(actions),
    }


def _field(number: int, name: str, kind: str, width: int | None = None, repeated: bool = False) -> dict[str, Any]:
    described = {"type": kind} if width is None else {"type": kind, "width": width}
    return {"id": number, "name": name, "repeated": repeated, "type": described}


def _one_of() -> dict[str, Any]:
    return {"oneof": [_field(65537, names.MEMBER, "uint32"), _field(65538, names.GROUP, "uint32")]}


def _actions(index: P4InfoIndex, ids: list[int]) -> Iterator[dict[str, Any]]:
    for number in ids:
        action = index.actions.numbered(number)
        data = [_field(place, param.name, "bytes", param.width) for place, param in enumerate(action.params, 1)]
        yield {"id": number, "name": action.name, "data": data}


class BfrtService:
    """A server of BF Runtime with the program mfs; use it as a context manager.

    Attributes:
        address: HOST:PORT.
        counters: packets and bytes by table name and cell.
        writes: requests that were accepted.
    """

    def __init__(self) -> None:
        self.index = P4InfoIndex.from_text(p4info(TOFINO))
        self.info = described(self.index)
        self.p4_name = "mfs"
        self.counters: dict[str, dict[int, tuple[int, int]]] = {}
        self.writes = 0
        self._schema = names.Schema(self.info)
        self._entries: dict[int, dict[bytes, Any]] = {}
        self._defaults: dict[int, Any] = {}
        self._bound: int | None = None
        self._clients: dict[int, queue.SimpleQueue[Any]] = {}
        self._server = grpc.server(ThreadPoolExecutor(8))
        handlers = {
            "GetForwardingPipelineConfig": grpc.unary_unary_rpc_method_handler(self._describe),
            "SetForwardingPipelineConfig": grpc.unary_unary_rpc_method_handler(self._bind),
            "StreamChannel": grpc.stream_stream_rpc_method_handler(self._stream),
            "Read": grpc.unary_stream_rpc_method_handler(self._read),
            "Write": grpc.unary_unary_rpc_method_handler(self._write),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bfrt_proto.BfRuntime", handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> BfrtService:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def entries(self, name: str) -> int:
        """How many entries the table has."""
        return len(self._entries.get(self._schema.table(name).id, {}))

    def _describe(self, _data: bytes, _context: Any) -> bytes:
        answer = BF_RUNTIME["GetForwardingPipelineConfigResponse"]()
        answer.config.add(p4_name=self.p4_name, bfruntime_info=self.info)
        return bytes(answer.SerializeToString())

    def _bind(self, data: bytes, context: Any) -> bytes:
        request = BF_RUNTIME["SetForwardingPipelineConfigRequest"].FromString(data)
        if request.config[0].p4_name != self.p4_name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Failed to find BfRtInfo for program {request.config[0].p4_name}")
        if self._bound not in (None, request.client_id):
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Client ID {self._bound} already owns this P4")
        self._bound = request.client_id
        return b""

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        request = BF_RUNTIME["StreamMessageRequest"].FromString(next(requests))
        client = request.client_id
        if client in self._clients:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Client {client} already exists")
        self._clients[client] = queue.SimpleQueue()
        answer = BF_RUNTIME["StreamMessageResponse"](subscribe=request.subscribe)
        yield bytes(answer.SerializeToString())
        try:
            for _ in requests:
                pass
        finally:
            del self._clients[client]
            if self._bound == client:
                self._bound = None

    def _read(self, data: bytes, _context: Any) -> Iterator[bytes]:
        answer = BF_RUNTIME["ReadResponse"]()
        for wanted in BF_RUNTIME["ReadRequest"].FromString(data).entities:
            entry = wanted.table_entry
            table = self._schema.by_id[entry.table_id]
            if table.kind == "Counter":
                self._add_counter(answer, entry, table)
                continue
            for held in self._entries.get(entry.table_id, {}).values():
                answer.entities.add().table_entry.CopyFrom(held)
            if (default := self._defaults.get(entry.table_id)) is not None:
                answer.entities.add().table_entry.CopyFrom(default)
        yield bytes(answer.SerializeToString())

    def _add_counter(self, answer: Any, wanted: Any, table: names.TableFields) -> None:
        cell = int.from_bytes(wanted.key.fields[0].exact.value, "big")
        packets, size = self.counters.get(table.name.removeprefix(PREFIX), {}).get(cell, (0, 0))
        entry = answer.entities.add().table_entry
        entry.CopyFrom(wanted)
        for name, value in ((names.COUNTER_BYTES, size), (names.COUNTER_PACKETS, packets)):
            entry.data.fields.add(field_id=table.data[name].id).stream = value.to_bytes(8, "big")

    def _write(self, data: bytes, context: Any) -> bytes:
        request = BF_RUNTIME["WriteRequest"].FromString(data)
        errors = [self._apply(update) for update in request.updates]
        if any(code for code, _ in errors):
            status = status_pb2.Status(code=code_pb2.UNKNOWN)
            for code, message in errors:
                detail = any_pb2.Any()
                detail.Pack(BF_RUNTIME["Error"](canonical_code=code, message=message))
                status.details.append(detail)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.UNKNOWN, "")
        self.writes += 1
        return b""

    def _apply(self, update: Any) -> tuple[int, str]:
        entry = update.entity.table_entry
        table = self._schema.by_id[entry.table_id]
        if entry.is_default_entry:
            if update.type == DELETE:
                self._defaults.pop(entry.table_id, None)
            else:
                self._defaults[entry.table_id] = entry
            return code_pb2.OK, ""
        if len(entry.key.fields) != len(table.key):
            return code_pb2.INVALID_ARGUMENT, f"{table.name}: the key lacks fields"
        held = self._entries.setdefault(entry.table_id, {})
        key = entry.key.SerializeToString(deterministic=True)
        if update.type == INSERT and key in held:
            return code_pb2.ALREADY_EXISTS, "Table Add failed"
        if update.type != INSERT and key not in held and not (table.kind == "Meter" and update.type == MODIFY):
            return code_pb2.NOT_FOUND, "Table Entry failed"
        if update.type == DELETE:
            del held[key]
        else:
            held[key] = entry
        return code_pb2.OK, ""
