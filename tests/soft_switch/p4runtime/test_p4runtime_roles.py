"""Roles over gRPC: each has a primary, and the objects that the P4Info annotates for it."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2 as code
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.p4runtime.sessions import MAX_ROLE_NAME, MAX_ROLES
from tests.support.p4runtime import (
    DEVICE_ID,
    IDS,
    INSERT,
    Client,
    SetConfig,
    action,
    batch_errors,
    connected,
    entry,
    ethernet,
    exact,
    features_config,
    lpm,
    running_server,
)

KNOWN, ROUTES = "ingress.known_sources", "ingress.routes"
SOURCE = entry(KNOWN, exact(KNOWN, "source", b"\x01"), call=action("NoAction"))
ROUTE = entry(ROUTES, lpm(ROUTES, "destination", b"\x0a\x00\x00\x00", 8), call=action("ingress.drop"))


@pytest.fixture
def server() -> Iterator[P4RuntimeServer]:
    with running_server() as server:
        yield server


def annotated(**roles: str) -> p4runtime_pb2.ForwardingPipelineConfig:
    """The test program with objects assigned to roles, by the last part of an object's name."""
    config = features_config()
    info = config.p4info
    kinds = (info.tables, info.action_profiles, info.counters, info.digests, info.controller_packet_metadata)
    for item in (item for kind in kinds for item in kind):
        role = roles.get(item.preamble.name.rpartition(".")[2])
        if role is not None:
            item.preamble.annotations.append(f'@p4runtime_role("{role}")')
    return config


def refused_update(client: Client, entity: p4runtime_pb2.Entity, role: str) -> tuple[int, str]:
    with pytest.raises(grpc.RpcError) as caught:
        client.write((INSERT, entity), role=role)
    return batch_errors(caught.value)[0]


def refused(call: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_every_role_has_its_own_primary(server: P4RuntimeServer) -> None:
    anyone = Client(server.port).primary(10)
    routing = Client(server.port).primary(10, role="routing")
    backup = Client(server.port).open()
    backup.arbitrate(3, role="routing")
    update = backup.receive().arbitration
    assert (update.status.code, update.role.name, update.election_id.low) == (code.ALREADY_EXISTS, "routing", 10)
    anyone.insert(SOURCE)
    routing.write((INSERT, ROUTE), role="routing")
    # Device, role and election id together identify the writer.
    for writer, role in ((backup, "routing"), (backup, "")):
        status = refused(lambda writer=writer, role=role: writer.write((INSERT, ROUTE), role=role))
        assert status[0] == grpc.StatusCode.PERMISSION_DENIED
    assert refused(lambda: routing.write(role="elsewhere"))[0] == grpc.StatusCode.NOT_FOUND
    routing.close()
    update = backup.receive().arbitration
    assert (update.status.code, update.role.name) == (code.NOT_FOUND, "routing")
    anyone.delete(SOURCE)


def test_the_highest_election_id_is_remembered_per_role(server: P4RuntimeServer) -> None:
    first = Client(server.port).primary(10, role="routing")
    late = Client(server.port).open()
    late.arbitrate(3, role="routing")
    assert late.standing() == (code.ALREADY_EXISTS, 10)
    first.close()
    assert late.standing() == (code.NOT_FOUND, 10)
    late.arbitrate(9, role="routing")
    assert late.standing() == (code.NOT_FOUND, 10)
    assert Client(server.port).primary(1, role="other")


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (p4runtime_pb2.Role(config=any_pb2.Any(value=bytes(1 << 17))), grpc.StatusCode.INVALID_ARGUMENT),
        (p4runtime_pb2.Role(id=5), grpc.StatusCode.UNIMPLEMENTED),
        (p4runtime_pb2.Role(name="r" * (MAX_ROLE_NAME + 1)), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_invalid_roles_end_the_stream(
    server: P4RuntimeServer, role: p4runtime_pb2.Role, expected: grpc.StatusCode
) -> None:
    client = Client(server.port).open()
    client.send(arbitration=p4runtime_pb2.MasterArbitrationUpdate(device_id=DEVICE_ID, role=role))
    assert client.ended_with() == expected
    assert not list(server.device._sessions._arbiters)


def test_the_config_of_a_role_is_stored_and_reported(server: P4RuntimeServer) -> None:
    def arbitrate(client: Client, number: int, value: bytes | None) -> None:
        message = p4runtime_pb2.MasterArbitrationUpdate(device_id=DEVICE_ID)
        message.election_id.low = number
        message.role.name = "routing"
        if value is not None:
            message.role.config.value = value
        client.send(arbitration=message)

    first, second = Client(server.port).open(), Client(server.port).open()
    arbitrate(first, 10, b"first")
    assert first.receive().arbitration.role.config.value == b"first"
    arbitrate(second, 5, b"of a backup")
    assert second.receive().arbitration.role.config.value == b"first"
    arbitrate(second, 11, b"second")
    assert first.receive().arbitration.role.config.value == b"second"
    assert second.receive().arbitration.role.config.value == b"second"
    arbitrate(second, 11, None)
    assert not first.receive().arbitration.role.HasField("config")


def test_too_many_roles_are_refused(server: P4RuntimeServer) -> None:
    for number in range(MAX_ROLES):
        client = Client(server.port).primary(1, role=f"role {number}")
        client.send(arbitration=p4runtime_pb2.MasterArbitrationUpdate(device_id=99))
        assert client.ended_with() == grpc.StatusCode.FAILED_PRECONDITION
        client.close()
    client = Client(server.port).open()
    client.arbitrate(1, role="one more")
    assert client.ended_with() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def divided() -> Iterator[tuple[P4RuntimeServer, Client, Client]]:
    """A server whose P4Info assigns routes to "routing", the default role's primary, and that of "routing"."""
    with connected(with_program=False) as (server, client):
        client.set_config(
            SetConfig.VERIFY_AND_COMMIT, annotated(routes="routing", hops="routing", packet_out="routing")
        )
        yield server, client, Client(server.port).primary(5, role="routing")


def test_a_role_writes_what_the_p4info_assigns_to_it(divided: tuple[P4RuntimeServer, Client, Client]) -> None:
    server, anyone, routing = divided
    routing.write((INSERT, ROUTE), role="routing")
    for entity in (SOURCE, group_entity()):
        found, message = refused_update(routing, entity, "routing")
        assert found == code.PERMISSION_DENIED
        assert "routing" in message
    counter = p4runtime_pb2.Entity()
    counter.direct_counter_entry.table_entry.table_id = IDS.of[KNOWN]
    assert refused_update(routing, counter, "routing")[0] == code.PERMISSION_DENIED
    # A missing object is missing for every role.
    nothing = p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry(table_id=77))
    assert refused_update(routing, nothing, "routing")[0] == code.NOT_FOUND
    anyone.insert(SOURCE, group_entity())
    stranger = Client(server.port).primary(1, role="stranger")
    assert refused_update(stranger, ROUTE, "stranger")[0] == code.PERMISSION_DENIED


def group_entity() -> p4runtime_pb2.Entity:
    entity = p4runtime_pb2.Entity()
    entity.packet_replication_engine_entry.multicast_group_entry.multicast_group_id = 1
    return entity


def test_a_read_for_a_role_omits_objects_out_of_its_scope(divided: tuple[P4RuntimeServer, Client, Client]) -> None:
    _, anyone, routing = divided
    anyone.insert(SOURCE, ROUTE, group_entity())
    everything = p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry())
    tables = {item.table_entry.table_id for item in routing.read(everything)}
    assert IDS.of[KNOWN] in tables
    assert {item.table_entry.table_id for item in routing.read(everything, role="routing")} == {IDS.of[ROUTES]}
    assert routing.read(group_entity(), role="routing") == []
    assert routing.read(group_entity()) == [group_entity()]


def test_a_restricted_role_cannot_set_the_pipeline_config(divided: tuple[P4RuntimeServer, Client, Client]) -> None:
    _, anyone, routing = divided
    status = refused(lambda: routing.set_config(SetConfig.VERIFY_AND_COMMIT, features_config(), role="routing"))
    assert status[0] == grpc.StatusCode.PERMISSION_DENIED
    anyone.set_config(SetConfig.VERIFY_AND_COMMIT, features_config())
    # Without annotations every role has the whole pipeline.
    routing.write((INSERT, SOURCE), role="routing")
    routing.set_config(SetConfig.VERIFY, features_config(), role="routing")


def test_packet_io_is_restricted_by_role(divided: tuple[P4RuntimeServer, Client, Client]) -> None:
    server, anyone, routing = divided
    stranger = Client(server.port).primary(1, role="stranger")
    # packet_in is not annotated: every primary receives it.
    server.device.switch.receive(1, ethernet(ether_type=0x88CC), 0)
    for client in (anyone, routing, stranger):
        assert client.receive().packet.payload == ethernet(ether_type=0x88CC)
    out = p4runtime_pb2.PacketOut(payload=ethernet())
    out.metadata.add(metadata_id=1, value=b"\x01")
    out.metadata.add(metadata_id=2, value=b"\x00")
    stranger.send(packet=out)
    assert stranger.receive().error.canonical_code == code.PERMISSION_DENIED
    routing.send(packet=p4runtime_pb2.PacketOut())  # Allowed, so only its metadata is wrong.
    assert routing.receive().error.canonical_code == code.INVALID_ARGUMENT


def test_digests_go_to_the_roles_that_own_them() -> None:
    with connected(with_program=False) as (server, anyone):
        anyone.set_config(SetConfig.VERIFY_AND_COMMIT, annotated(learn_t="learning"))
        learning = Client(server.port).primary(1, role="learning")
        other = Client(server.port).primary(1, role="other")
        config = p4runtime_pb2.DigestEntry.Config(max_list_size=1)
        digest = p4runtime_pb2.Entity(
            digest_entry=p4runtime_pb2.DigestEntry(digest_id=IDS.of["learn_t"], config=config)
        )
        assert refused_update(other, digest, "other")[0] == code.PERMISSION_DENIED
        learning.write((INSERT, digest), role="learning")
        server.device.switch.receive(1, ethernet(), 0)
        for client in (anyone, learning):
            assert client.receive().digest.digest_id == IDS.of["learn_t"]
        assert other.inbox.empty()
        other.send(digest_ack=p4runtime_pb2.DigestListAck(digest_id=IDS.of["learn_t"]))
        assert other.receive().error.canonical_code == code.PERMISSION_DENIED
