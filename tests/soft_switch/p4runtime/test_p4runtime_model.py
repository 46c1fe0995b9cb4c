"""Random writes over gRPC against a dict: a client reads what it wrote."""

from __future__ import annotations

from typing import TypeAlias

import grpc
from google.rpc import code_pb2 as code
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from p4.v1 import p4runtime_pb2

from tests.support.p4runtime import (
    DELETE,
    INSERT,
    MODIFY,
    Client,
    action,
    batch_errors,
    between,
    entry,
    exact,
    optional,
    running_server,
    ternary,
)

TABLE = "ingress.classes"
SIZE = 32

# (port, source, its mask, low, high, protocol or None, priority): mask 0 and the full range mean "don't care".
Key: TypeAlias = tuple[int, int, int, int, int, int | None, int]

SMALL = st.sampled_from([0, 1, 2, 255, 256])
KEYS: st.SearchStrategy[Key] = st.builds(
    lambda port, source, mask, bounds, protocol, priority: (
        port,
        source & mask,
        mask,
        min(bounds),
        max(bounds),
        protocol,
        priority,
    ),
    st.integers(0, 1),
    SMALL,
    st.sampled_from([0, 0xFF, 0xFFFFFFFF]),
    st.tuples(st.sampled_from([0, 64]), st.sampled_from([64, 0xFFFF])),
    st.sampled_from([None, 0, 6]),
    st.integers(1, 2),
)


def number(value: int, padding: int) -> bytes:
    return bytes(padding) + value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


def message(key: Key, value: int | None, metadata: bytes = b"", padding: int = 0) -> p4runtime_pb2.Entity:
    port, source, mask, low, high, protocol, priority = key
    fields = [exact(TABLE, "port", number(port, padding))]
    if mask:
        fields.append(ternary(TABLE, "source", number(source, padding), number(mask, padding)))
    if (low, high) != (0, 0xFFFF):
        fields.append(between(TABLE, "length", number(low, padding), number(high, padding)))
    if protocol is not None:
        fields.append(optional(TABLE, "protocol", number(protocol, padding)))
    call = None if value is None else action("ingress.set_class_metered", value=number(value, padding))
    return entry(TABLE, *fields, priority=priority, metadata=metadata, call=call)


def canonical(table_entry: p4runtime_pb2.TableEntry) -> bytes:
    copy = p4runtime_pb2.TableEntry()
    copy.CopyFrom(table_entry)
    copy.match.sort(key=lambda item: item.field_id)
    return copy.SerializeToString(deterministic=True)


class Entries(RuleBasedStateMachine):
    """Writes to one table; the model is a dict from key to (value, metadata)."""

    client: Client

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[Key, tuple[int, bytes]] = {}

    @initialize()
    def empty(self) -> None:
        entries = self.client.read_entries(TABLE)
        if entries:
            self.client.delete(*(p4runtime_pb2.Entity(table_entry=item) for item in entries))

    def attempt(self, kind: int, entity: p4runtime_pb2.Entity) -> int:
        try:
            self.client.write((kind, entity))
        except grpc.RpcError as error:
            return batch_errors(error)[0][0]
        return int(code.OK)

    @rule(key=KEYS, value=st.integers(0, 255), metadata=st.binary(max_size=2), padding=st.integers(0, 2))
    def insert(self, key: Key, value: int, metadata: bytes, padding: int) -> None:
        expected = code.ALREADY_EXISTS if key in self.model else code.OK
        if expected == code.OK and len(self.model) == SIZE:
            expected = code.RESOURCE_EXHAUSTED
        assert self.attempt(INSERT, message(key, value, metadata, padding)) == expected
        if expected == code.OK:
            self.model[key] = (value, metadata)

    @rule(data=st.data(), value=st.integers(0, 255), padding=st.integers(0, 2))
    def modify(self, data: st.DataObject, value: int, padding: int) -> None:
        key = data.draw(st.one_of(KEYS, st.sampled_from(sorted(self.model, key=str))) if self.model else KEYS)
        found = self.attempt(MODIFY, message(key, value, b"", padding))
        assert found == (code.OK if key in self.model else code.NOT_FOUND)
        if key in self.model:
            self.model[key] = (value, b"")

    @rule(data=st.data(), padding=st.integers(0, 2))
    def delete(self, data: st.DataObject, padding: int) -> None:
        key = data.draw(st.one_of(KEYS, st.sampled_from(sorted(self.model, key=str))) if self.model else KEYS)
        found = self.attempt(DELETE, message(key, None, b"", padding))
        assert found == (code.OK if key in self.model else code.NOT_FOUND)
        self.model.pop(key, None)

    @rule(priority=st.integers(0, 3), metadata=st.binary(max_size=1))
    def read_some(self, priority: int, metadata: bytes) -> None:
        found = self.client.read_entries(TABLE, priority=priority, metadata=metadata)
        expected = [
            key for key, (_, note) in self.model.items() if priority in (0, key[-1]) and metadata in (b"", note)
        ]
        assert len(found) == len(expected)

    @invariant()
    def reads_back(self) -> None:
        found = {canonical(item) for item in self.client.read_entries(TABLE)}
        assert found == {canonical(message(k, v, note).table_entry) for k, (v, note) in self.model.items()}


def test_reads_agree_with_a_model() -> None:
    with running_server() as server:
        Entries.client = Client(server.port).primary()
        machine = Entries.TestCase()
        machine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
        machine.runTest()
        Entries.client.close()
