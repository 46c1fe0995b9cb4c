"""A raw gRPC client, and a server on a free port."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from google.rpc import code_pb2, status_pb2
from p4.config.v1 import p4info_pb2
from p4.v1 import p4runtime_pb2, p4runtime_pb2_grpc

from soft_switch.backend import backend_of_environment
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch

BUILD = Path(__file__).parents[1] / "p4" / "build"
JSON = BUILD / "p4runtime_features.json"
P4INFO = BUILD / "p4runtime_features.p4info.txtpb"
CPU_PORT = 510
DEVICE_ID = 7

INSERT = p4runtime_pb2.Update.INSERT
MODIFY = p4runtime_pb2.Update.MODIFY
DELETE = p4runtime_pb2.Update.DELETE
SetConfig = p4runtime_pb2.SetForwardingPipelineConfigRequest


def program_config(name: str) -> p4runtime_pb2.ForwardingPipelineConfig:
    """A program of tests/p4."""
    info = text_format.Parse((BUILD / f"{name}.p4info.txtpb").read_text(), p4info_pb2.P4Info())
    return p4runtime_pb2.ForwardingPipelineConfig(p4info=info, p4_device_config=(BUILD / f"{name}.json").read_bytes())


def features_config(cookie: int | None = None) -> p4runtime_pb2.ForwardingPipelineConfig:
    config = program_config("p4runtime_features")
    if cookie is not None:
        config.cookie.cookie = cookie
    return config


class Ids:
    """Ids in the test program: of objects by full name, of match fields and parameters by (owner, name)."""

    def __init__(self) -> None:
        info = features_config().p4info
        kinds = (
            info.tables,
            info.actions,
            info.action_profiles,
            info.counters,
            info.meters,
            info.registers,
            info.digests,
        )
        self.of = {item.preamble.name: item.preamble.id for kind in kinds for item in kind}
        self.field = {(t.preamble.name, f.name): f.id for t in info.tables for f in t.match_fields}
        self.param = {(a.preamble.name, p.name): p.id for a in info.actions for p in a.params}


IDS = Ids()


def field_match(table: str, name: str, **kinds: object) -> p4runtime_pb2.FieldMatch:
    return p4runtime_pb2.FieldMatch(field_id=IDS.field[table, name], **kinds)


def exact(table: str, name: str, value: bytes) -> p4runtime_pb2.FieldMatch:
    return field_match(table, name, exact=p4runtime_pb2.FieldMatch.Exact(value=value))


def lpm(table: str, name: str, value: bytes, length: int) -> p4runtime_pb2.FieldMatch:
    return field_match(table, name, lpm=p4runtime_pb2.FieldMatch.LPM(value=value, prefix_len=length))


def ternary(table: str, name: str, value: bytes, mask: bytes) -> p4runtime_pb2.FieldMatch:
    return field_match(table, name, ternary=p4runtime_pb2.FieldMatch.Ternary(value=value, mask=mask))


def between(table: str, name: str, low: bytes, high: bytes) -> p4runtime_pb2.FieldMatch:
    return field_match(table, name, range=p4runtime_pb2.FieldMatch.Range(low=low, high=high))


def optional(table: str, name: str, value: bytes) -> p4runtime_pb2.FieldMatch:
    return field_match(table, name, optional=p4runtime_pb2.FieldMatch.Optional(value=value))


def action(name: str, **args: bytes) -> p4runtime_pb2.Action:
    message = p4runtime_pb2.Action(action_id=IDS.of[name])
    for param, value in args.items():
        message.params.add(param_id=IDS.param[name, param], value=value)
    return message


def entry(table: str, *key: p4runtime_pb2.FieldMatch, **fields: object) -> p4runtime_pb2.Entity:
    """A table entry; ``call`` is shorthand for a direct action."""
    call = fields.pop("call", None)
    entity = p4runtime_pb2.Entity()
    entity.table_entry.CopyFrom(p4runtime_pb2.TableEntry(table_id=IDS.of[table], match=key, **fields))
    if call is not None:
        entity.table_entry.action.action.CopyFrom(call)
    return entity


def everything() -> list[p4runtime_pb2.Entity]:
    """Requests that read everything: entries with their direct resources, default entries, and the rest."""
    requests = [p4runtime_pb2.Entity() for _ in range(13)]
    requests[0].table_entry.counter_data.SetInParent()
    requests[0].table_entry.meter_config.SetInParent()
    requests[1].table_entry.is_default_action = True
    requests[2].action_profile_member.SetInParent()
    requests[3].action_profile_group.SetInParent()
    requests[4].counter_entry.SetInParent()
    requests[5].meter_entry.SetInParent()
    requests[6].direct_counter_entry.table_entry.SetInParent()
    requests[7].direct_meter_entry.table_entry.SetInParent()
    requests[8].digest_entry.SetInParent()
    requests[9].value_set_entry.SetInParent()
    requests[10].packet_replication_engine_entry.multicast_group_entry.SetInParent()
    requests[11].packet_replication_engine_entry.clone_session_entry.SetInParent()
    requests[12].extern_entry.SetInParent()
    return requests


class Client:
    """A controller: a channel, optionally a stream, and the plain RPCs. Reads from ``inbox`` have a time limit."""

    def __init__(
        self,
        port: int,
        election_id: int | None = 1,
        channel: grpc.Channel | None = None,
        device_id: int = DEVICE_ID,
    ) -> None:
        self.channel = channel or grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub = p4runtime_pb2_grpc.P4RuntimeStub(self.channel)
        self.election_id = election_id
        self.device_id = device_id
        self.inbox: queue.Queue[p4runtime_pb2.StreamMessageResponse | grpc.RpcError | None] = queue.Queue()
        self._outbox: queue.Queue[p4runtime_pb2.StreamMessageRequest | None] = queue.Queue()
        self._stream: grpc.Call | None = None

    def open(self) -> Client:
        self._stream = self.stub.StreamChannel(iter(self._outbox.get, None))
        threading.Thread(target=self._receive, daemon=True).start()
        return self

    def _receive(self) -> None:
        try:
            for response in self._stream:
                self.inbox.put(response)
        except grpc.RpcError as error:
            self.inbox.put(error)
        else:
            self.inbox.put(None)

    def send(self, **kind: object) -> None:
        self._outbox.put(p4runtime_pb2.StreamMessageRequest(**kind))

    def arbitrate(self, election_id: int | None = None, device_id: int | None = None, role: str = "") -> None:
        if election_id is not None:
            self.election_id = election_id
        message = p4runtime_pb2.MasterArbitrationUpdate(device_id=device_id or self.device_id)
        if self.election_id is not None:
            self._number(message.election_id)
        if role:
            message.role.name = role
        self.send(arbitration=message)

    def receive(self, timeout: float = 5) -> p4runtime_pb2.StreamMessageResponse:
        response = self.inbox.get(timeout=timeout)
        assert isinstance(response, p4runtime_pb2.StreamMessageResponse), response
        return response

    def standing(self) -> tuple[int, int | None]:
        """Status code and election id of the next arbitration notice."""
        update = self.receive().arbitration
        number = update.election_id.high << 64 | update.election_id.low
        return update.status.code, number if update.HasField("election_id") else None

    def ended_with(self) -> grpc.StatusCode:
        error = self.inbox.get(timeout=60)
        assert isinstance(error, grpc.RpcError), error
        return error.code()

    def primary(self, election_id: int | None = None, role: str = "") -> Client:
        """Open the stream and become primary."""
        self.open()
        self.arbitrate(election_id, role=role)
        assert self.standing()[0] == code_pb2.OK
        return self

    def close(self) -> None:
        self._outbox.put(None)
        self.channel.close()

    def _number(self, target: p4runtime_pb2.Uint128) -> None:
        assert self.election_id is not None
        target.SetInParent()
        target.high = self.election_id >> 64
        target.low = self.election_id & ((1 << 64) - 1)

    def write(self, *updates: tuple[int, p4runtime_pb2.Entity], **fields: object) -> None:
        request = p4runtime_pb2.WriteRequest(device_id=fields.pop("device_id", self.device_id), **fields)
        if self.election_id is not None:
            self._number(request.election_id)
        for kind, entity in updates:
            request.updates.add(type=kind, entity=entity)
        self.stub.Write(request)

    def insert(self, *entities: p4runtime_pb2.Entity) -> None:
        self.write(*((INSERT, entity) for entity in entities))

    def modify(self, *entities: p4runtime_pb2.Entity) -> None:
        self.write(*((MODIFY, entity) for entity in entities))

    def delete(self, *entities: p4runtime_pb2.Entity) -> None:
        self.write(*((DELETE, entity) for entity in entities))

    def read(self, *requests: p4runtime_pb2.Entity, role: str = "") -> list[p4runtime_pb2.Entity]:
        request = p4runtime_pb2.ReadRequest(device_id=self.device_id, entities=requests, role=role)
        return [entity for response in self.stub.Read(request) for entity in response.entities]

    def read_entries(self, table: str, **fields: object) -> list[p4runtime_pb2.TableEntry]:
        return [entity.table_entry for entity in self.read(entry(table, **fields))]

    def set_config(
        self, kind: int, config: p4runtime_pb2.ForwardingPipelineConfig | None = None, role: str = ""
    ) -> None:
        request = SetConfig(device_id=self.device_id, action=kind, config=config, role=role)
        if self.election_id is not None:
            self._number(request.election_id)
        self.stub.SetForwardingPipelineConfig(request)

    def get_config(self, response_type: int = 0) -> p4runtime_pb2.GetForwardingPipelineConfigResponse:
        request = p4runtime_pb2.GetForwardingPipelineConfigRequest(
            device_id=self.device_id, response_type=response_type
        )
        return self.stub.GetForwardingPipelineConfig(request)


@contextmanager
def running_server(with_program: bool = True, name: str = "p4runtime_features") -> Iterator[P4RuntimeServer]:
    """A switch with ports 0-3 and a CPU port, served on a free port of localhost."""
    switch = Switch(cpu_port=CPU_PORT)
    for number in range(4):
        switch.add_port(number, rate_bps=1_000_000_000)
    server = P4RuntimeServer(switch, device_id=DEVICE_ID, backend=backend_of_environment())
    if with_program:
        server.load((BUILD / f"{name}.json").read_bytes(), (BUILD / f"{name}.p4info.txtpb").read_text())
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def connected(with_program: bool = True, name: str = "p4runtime_features") -> Iterator[tuple[P4RuntimeServer, Client]]:
    """A server and a client that is its primary."""
    with running_server(with_program, name) as server:
        client = Client(server.port).primary()
        try:
            yield server, client
        finally:
            client.close()


def batch_errors(error: grpc.RpcError) -> list[tuple[int, str]]:
    """Code and message of each p4.v1.Error in a failed batch."""
    assert error.code() == grpc.StatusCode.UNKNOWN, error
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    assert status.code == code_pb2.UNKNOWN
    assert status.message == error.details()
    found = []
    for item in status.details:
        message = p4runtime_pb2.Error()
        assert item.Unpack(message)
        found.append((message.canonical_code, message.message))
    return found


def error_of(client: Client, kind: int, entity: p4runtime_pb2.Entity) -> tuple[int, str]:
    """Code and message of the failure of a single update."""
    with pytest.raises(grpc.RpcError) as caught:
        client.write((kind, entity))
    (found,) = batch_errors(caught.value)
    return found


def ethernet(source: int = 0x0A, ether_type: int = 0x1234, payload: bytes = bytes(46)) -> bytes:
    return bytes.fromhex("020000000001") + source.to_bytes(6, "big") + ether_type.to_bytes(2, "big") + payload


def ipv4(source: int, destination: int, protocol: int = 6, length: int = 100) -> bytes:
    header = bytes.fromhex("4500") + length.to_bytes(2, "big") + bytes(4) + bytes((64, protocol)) + bytes(2)
    header += source.to_bytes(4, "big") + destination.to_bytes(4, "big")
    return ethernet(ether_type=0x0800, payload=header + bytes(length - 20))
