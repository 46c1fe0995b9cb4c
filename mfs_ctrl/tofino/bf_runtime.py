"""A client of BF Runtime's gRPC service, for the tables of a Tofino switch that P4Runtime does not cover.

Tables, fields and their numbers come from the switch itself (JSON in the answer to GetForwardingPipelineConfig).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import grpc

from mfs_ctrl.errors import TofinoError
from mfs_ctrl.p4rt.channel import open_channel
from mfs_ctrl.p4rt.status import code_name, is_ok, update_errors
from mfs_ctrl.tofino.messages import BF_RUNTIME, MODIFY
from mfs_ctrl.tofino.queues import CHIPS, PORTS_PER_PIPE, Chip, Placement, Setting, Value

SERVICE = "bfrt_proto.BfRuntime"
ALL_DIRECTIONS = 0xFF
ALL_PARSERS = 0xFF
_CLIENT_ID = 0x4D46
"""Identifies this client to the service. It binds to no program and thus excludes no other client."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Column:
    """A field of a table: its number, its type as BF Runtime spells it, whether it is a list, and its valid values."""

    id: int
    type: str
    repeated: bool
    choices: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of a number of this type."""
        return int(self.type.removeprefix("uint")) // 8


@dataclass(frozen=True, slots=True)
class Table:
    """A table: fields of its key, fields of its data (those of actions included) and action ids, by name."""

    id: int
    key: Mapping[str, Column]
    data: Mapping[str, Column]
    actions: Mapping[str, int]


def parse_tables(info: bytes) -> dict[str, Table]:
    """Return the tables of the traffic manager in BF Runtime's JSON description, by name.

    Raises:
        TofinoError: the JSON does not describe tables.
    """
    try:
        described = json.loads(info)["tables"]
        return {table["name"]: _table(table) for table in described if table["name"].partition(".")[2][:3] == "tm."}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TofinoError(f"cannot read the switch's description of its tables: {error!r}") from None


def _table(table: Any) -> Table:
    actions = table.get("action_specs", [])
    fields = [*table.get("data", []), *(field for action in actions for field in action["data"])]
    return Table(
        table["id"],
        {field["name"]: _column(field) for field in table["key"]},
        {field["name"]: _column(field) for field in (item["singleton"] for item in fields if "singleton" in item)},
        {action["name"]: action["id"] for action in actions},
    )


def _column(field: Any) -> Column:
    return Column(field["id"], field["type"]["type"], field["repeated"], tuple(field["type"].get("choices", ())))


class BfRuntime:
    """A connection to the BF Runtime service at ``address`` (host:port). Use it as a context manager.

    Raises:
        TofinoError: nothing answers, or the switch has no program or an unknown traffic manager.
    """

    def __init__(self, address: str, device_id: int = 0, timeout_s: float = 30.0) -> None:
        self.address = address
        self.device_id = device_id
        self.timeout_s = timeout_s
        self._channel = open_channel(address)
        try:
            self._p4_name, info = self._description()
            self._tables = parse_tables(info)
            self.chip = self._chip()
        except TofinoError:
            self.close()
            raise

    def __enter__(self) -> BfRuntime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def placement(self, dev_port: int) -> Placement:
        """Return the placement of the queues of ``dev_port``.

        Raises:
            TofinoError: the switch refuses, or has no such port.
        """
        name = self.chip.table("port.cfg")
        pipe = dev_port // PORTS_PER_PIPE
        return self._placement(self._read(name, pipe, {"dev_port": dev_port}, f"port {dev_port}"), self._table(name))

    def read(self, setting: Setting, placement: Placement) -> dict[str, Value]:
        """Return what the chip holds of the fields of ``setting``; one that the switch does not report is missing.

        Raises:
            TofinoError: the switch refuses, or has no such row.
        """
        table = self._table(setting.table)
        fields = self._read(setting.table, setting.pipe, setting.key(placement), setting.describe(placement))
        by_id = {field.field_id: field for field in fields}
        wanted = {name: _named(table.data, name, f"field of {setting.table}").id for name in setting.data}
        return {name: _value(by_id[number]) for name, number in wanted.items() if number in by_id}

    def write(self, changes: Iterable[tuple[Setting, Placement]]) -> int:
        """Change rows in order, one request each, so that an error names the row; return the number of rows.

        Raises:
            TofinoError: the switch refuses a row; the rows before it have been written.
        """
        written = 0
        for setting, placement in changes:
            table = self._table(setting.table)
            request = self._request("WriteRequest", setting.pipe)
            update = request.updates.add(type=MODIFY)
            entry = update.entity.table_entry
            entry.table_id = table.id
            self._add_key(entry, table, setting.key(placement))
            if setting.action:
                entry.data.action_id = _named(table.actions, setting.action, f"action of {setting.table}")
            for name, value in setting.data.items():
                _add_value(entry.data, _named(table.data, name, f"field of {setting.table}"), value, name)
            self._call("Write", request, "WriteResponse", setting.describe(placement))
            written += 1
        return written

    def _read(self, name: str, pipe: int, key: Mapping[str, int], what: str) -> Sequence[Any]:
        """Return the data of the row of the table ``name`` with ``key``, as the chip holds it."""
        table = self._table(name)
        request = self._request("ReadRequest", pipe)
        entry = request.entities.add().table_entry
        entry.table_id, entry.table_flags.from_hw = table.id, True
        self._add_key(entry, table, key)
        for response in self._call("Read", request, "ReadResponse", f"a read of {what}", stream=True):
            for entity in response.entities:
                return entity.table_entry.data.fields  # type: ignore[no-any-return]
        raise TofinoError(f"the switch at {self.address} has no row for {what} in {name}")

    def _description(self) -> tuple[str, bytes]:
        request = BF_RUNTIME["GetForwardingPipelineConfigRequest"](device_id=self.device_id, client_id=_CLIENT_ID)
        answer = self._call(
            "GetForwardingPipelineConfig", request, "GetForwardingPipelineConfigResponse", "the query for its program"
        )
        if not answer.config:
            raise TofinoError(f"the switch at {self.address} has no program loaded; load one first with `mfs ctrl`")
        return answer.config[0].p4_name, answer.non_p4_config.bfruntime_info

    def _chip(self) -> Chip:
        for chip in CHIPS.values():
            if chip.table("queue.sched_cfg") in self._tables:
                return chip
        raise TofinoError(f"the switch at {self.address} has no traffic manager of {' or '.join(CHIPS)}")

    def _table(self, name: str) -> Table:
        return _named(self._tables, name, f"table of the switch at {self.address}")

    def _request(self, kind: str, pipe: int) -> Any:
        request = BF_RUNTIME[kind](client_id=_CLIENT_ID, p4_name=self._p4_name)
        request.target.device_id = self.device_id
        request.target.pipe_id = pipe
        request.target.direction = ALL_DIRECTIONS
        request.target.prsr_id = ALL_PARSERS
        return request

    def _add_key(self, entry: Any, table: Table, key: Mapping[str, int]) -> None:
        for name, number in key.items():
            column = _named(table.key, name, "key field")
            entry.key.fields.add(field_id=column.id).exact.value = number.to_bytes(column.size, "big")

    def _placement(self, fields: Sequence[Any], table: Table) -> Placement:
        by_id = {field.field_id: field for field in fields}
        group, queues = table.data["pg_id"].id, table.data["egress_qid_queues"].id
        if group not in by_id or queues not in by_id:
            raise TofinoError(f"the switch at {self.address} does not report the placement of its queues")
        return Placement(int.from_bytes(by_id[group].stream, "big"), tuple(by_id[queues].int_arr_val.val))

    def _call(self, method: str, request: Any, answer: str, what: str, stream: bool = False) -> Any:
        """Call ``method``; ``answer`` is the name of the message returned, or of those in a list with ``stream``."""
        path, parse = f"/{SERVICE}/{method}", BF_RUNTIME[answer].FromString
        serialize: Callable[[Any], bytes] = type(request).SerializeToString
        try:
            if stream:
                return list(self._channel.unary_stream(path, serialize, parse)(request, timeout=self.timeout_s))
            return self._channel.unary_unary(path, serialize, parse)(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise self._translated(error, what) from None

    def _translated(self, error: Any, what: str) -> TofinoError:
        here = f"the switch at {self.address}"
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return TofinoError(f"nothing serves BF Runtime at {self.address}: {error.details()}")
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return TofinoError(f"{here} did not answer {what} within {self.timeout_s:g} s")
        reasons = "; ".join(_reasons(error)) or error.details() or "no reason given"
        return TofinoError(f"{here} refused {what}: {error.code().name}, {reasons}")


def _add_value(data: Any, column: Column, value: Value, name: str) -> None:
    field = data.fields.add(field_id=column.id)
    if isinstance(value, bool):
        field.bool_val = value
    elif isinstance(value, str):
        if column.choices and value not in column.choices:
            raise TofinoError(f"{name} cannot be {value!r} on this switch; it can be {', '.join(column.choices)}")
        field.str_val = value
    else:
        field.stream = value.to_bytes(column.size, "big")


def _value(field: Any) -> Value:
    match field.WhichOneof("value"):
        case "bool_val":
            return bool(field.bool_val)
        case "str_val":
            return str(field.str_val)
        case _:
            return int.from_bytes(field.stream, "big")


def _named(known: Mapping[str, Result], name: str, what: str) -> Result:
    try:
        return known[name]
    except KeyError:
        raise TofinoError(f"there is no {what} called {name!r}; known: {', '.join(known) or 'none'}") from None


def _reasons(error: Any) -> Iterator[str]:
    """Yield the service's reason for each update that it refused."""
    for reason in update_errors(error, BF_RUNTIME["Error"]):
        if reason is not None and not is_ok(reason.canonical_code):
            yield f"{code_name(reason.canonical_code)}: {reason.message or 'no reason given'}"
