"""Multicast groups, clone sessions and value sets over P4Runtime, and their effect on packets."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import code_pb2 as code
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.replication_engine import MOST_REPLICAS
from soft_switch.p4runtime.server import P4RuntimeServer
from tests.support.p4_programs import send
from tests.support.p4runtime import CPU_PORT, DELETE, INSERT, MODIFY, Client, batch_errors, connected, error_of

Pair = tuple[P4RuntimeServer, Client]
Replicas = list[tuple[bytes | int, int]]

CLONE_AT_INGRESS, CLONE_AT_EGRESS, MULTICAST = 1, 2, 5
"""What the test program does with a packet by its first byte; the second is the session or the group."""


@pytest.fixture
def copies() -> Iterator[Pair]:
    with connected(name="copies") as pair:
        yield pair


@pytest.fixture
def variants() -> Iterator[Pair]:
    with connected(name="variants") as pair:
        yield pair


def replica(port: bytes | int, instance: int) -> p4runtime_pb2.Replica:
    if isinstance(port, bytes):
        return p4runtime_pb2.Replica(port=port, instance=instance)
    return p4runtime_pb2.Replica(egress_port=port, instance=instance)


def group(number: int, replicas: Replicas = (), metadata: bytes = b"") -> p4runtime_pb2.Entity:
    entity = p4runtime_pb2.Entity()
    message = entity.packet_replication_engine_entry.multicast_group_entry
    message.multicast_group_id = number
    message.replicas.extend(replica(*each) for each in replicas)
    message.metadata = metadata
    return entity


def session(number: int, replicas: Replicas = (), **fields: int) -> p4runtime_pb2.Entity:
    entity = p4runtime_pb2.Entity()
    message = entity.packet_replication_engine_entry.clone_session_entry
    message.CopyFrom(p4runtime_pb2.CloneSessionEntry(session_id=number, **fields))
    message.replicas.extend(replica(*each) for each in replicas)
    return entity


def sent(server: P4RuntimeServer, what: int, argument: int, payload: bytes = b"") -> dict[int, list[bytes]]:
    """The packets that leave by each port for one packet."""
    switch = server.device.switch
    switch.receive(0, bytes([what, argument, 0, 0]) + payload, 0)
    frames: dict[int, list[bytes]] = {}
    for port in switch.ports:
        while (frame := switch.transmit(port, 0)) is not None:
            frames.setdefault(port, []).append(frame[0])
    return frames


def instances(frames: list[bytes]) -> list[int]:
    """The replication ids that egress saw and wrote into the second byte."""
    return [frame[1] for frame in frames]


def test_a_multicast_group_copies_packets_to_its_replicas(copies: Pair) -> None:
    server, client = copies
    assert sent(server, MULTICAST, 9) == {}
    client.insert(group(9, [(b"\x01", 7), (b"\x00\x02", 8), (b"\x02", 9)], metadata=b"mine"))
    frames = sent(server, MULTICAST, 9)
    assert {port: instances(found) for port, found in frames.items()} == {1: [7], 2: [8, 9]}
    client.modify(group(9, [(3, 1)]))
    assert {port: instances(found) for port, found in sent(server, MULTICAST, 9).items()} == {3: [1]}
    client.modify(group(9))
    assert sent(server, MULTICAST, 9) == {}
    client.delete(group(9, [(b"", 1)]))  # Only the number matters.
    assert client.read(group(0)) == []


def test_groups_are_read_singly_and_all_as_written(copies: Pair) -> None:
    _, client = copies
    first = group(1, [(b"\x01", 1), (b"\x01\xfe", 2)], metadata=b"m")
    second = group(0xFFFF, [(3, 0xFFFF)])
    client.insert(first, second)
    assert client.read(group(0)) == [first, second]
    assert client.read(group(1, [(b"\x05", 5)])) == [first]
    client.modify(group(1, [(b"\x00\x00\x02", 3)]))
    assert client.read(group(1)) == [group(1, [(b"\x02", 3)])]
    with pytest.raises(grpc.RpcError) as caught:
        client.read(group(2))
    assert batch_errors(caught.value)[0][0] == code.NOT_FOUND


def test_clone_sessions_are_read_singly_and_all_as_written(copies: Pair) -> None:
    _, client = copies
    first = session(1, [(b"\x01", 1)], class_of_service=7, packet_length_bytes=64)
    second = session(2, [(3, 0)])
    client.insert(first, second, group(1, [(b"\x01", 1)]))
    assert client.read(session(0)) == [first, second]
    assert client.read(session(2, class_of_service=5)) == [second]
    client.delete(session(1))
    assert client.read(session(0)) == [second]


def test_clones_go_to_every_replica_of_their_session(copies: Pair) -> None:
    server, client = copies
    client.insert(session(5, [(b"\x02", 3), (b"\x03", 4)]))
    for what in (CLONE_AT_INGRESS, CLONE_AT_EGRESS):
        frames = sent(server, what, 5)
        assert {port: instances(found) for port, found in frames.items()} == {1: [0], 2: [3], 3: [4]}
    client.delete(session(5))
    assert list(sent(server, CLONE_AT_INGRESS, 5)) == [1]


def test_a_clone_can_go_to_the_controller(copies: Pair) -> None:
    server, client = copies
    client.insert(session(5, [(CPU_PORT.to_bytes(2, "big"), 3)]))
    assert list(sent(server, CLONE_AT_INGRESS, 5, b"payload")) == [1]
    assert client.receive().packet.payload.endswith(b"payload")


@pytest.mark.parametrize("what", [CLONE_AT_INGRESS, CLONE_AT_EGRESS])
def test_clones_are_truncated_to_the_length_of_their_session(copies: Pair, what: int) -> None:
    server, client = copies
    payload = bytes(range(100))
    # The program's egress prepends a header of 8 bytes each time that the packet passes through it.
    client.insert(session(5, [(b"\x02", 0)], packet_length_bytes=50))
    frames = sent(server, what, 5, payload)
    whole = 8 + 4 + len(payload)
    assert len(frames[1][0]) == whole
    (clone,) = frames[2]
    assert len(clone) == (50 if what == CLONE_AT_EGRESS else 58)
    assert clone[12:] == payload[: len(clone) - 12]
    assert int.from_bytes(clone[4:6], "big") == 50  # standard_metadata.packet_length
    client.modify(session(5, [(b"\x02", 0)], packet_length_bytes=whole))
    assert len(sent(server, what, 5, payload)[2][0]) == whole
    # Headers of an egress clone stay complete.
    client.modify(session(5, [(b"\x02", 0)], packet_length_bytes=1))
    assert len(sent(server, what, 5, payload)[2][0]) == (12 if what == CLONE_AT_EGRESS else 9)


def test_clones_wait_in_the_queue_of_their_class(copies: Pair) -> None:
    server, client = copies
    port = server.device.switch.ports[2]
    client.insert(session(5, [(b"\x02", 0)], class_of_service=6))
    sent(server, CLONE_AT_INGRESS, 5)
    client.modify(session(5, [(b"\x02", 0)]))
    sent(server, CLONE_AT_INGRESS, 5)
    assert [counters.enqueued_packets for counters in port.counters] == [1, 0, 0, 0, 0, 0, 1, 0]


ONE: Replicas = [(b"\x01", 1)]
WRONG = [
    (INSERT, group(0, ONE), code.INVALID_ARGUMENT, "multicast_group_id 0"),
    (INSERT, group(0x10000, ONE), code.INVALID_ARGUMENT, "65535"),
    (INSERT, group(1, [(b"\x01", 0x10000)]), code.INVALID_ARGUMENT, "instance 65536"),
    (INSERT, group(1, ONE * 2), code.INVALID_ARGUMENT, "given twice"),
    (INSERT, group(1, [(b"\x01", 1), (1, 1)]), code.INVALID_ARGUMENT, "given twice"),
    (INSERT, group(1, [(b"\x02\x00", 1)]), code.OUT_OF_RANGE, "9 bits"),
    (INSERT, group(1, [(512, 1)]), code.OUT_OF_RANGE, "9 bits"),
    (INSERT, group(1, [(b"\x01\xff", 1)]), code.INVALID_ARGUMENT, "port 511"),
    (INSERT, group(1, [(b"", 1)]), code.OUT_OF_RANGE, "empty"),
    (INSERT, group(1, [(b"\x01", n) for n in range(MOST_REPLICAS + 1)]), code.RESOURCE_EXHAUSTED, "replicas"),
    (INSERT, group(7, ONE), code.ALREADY_EXISTS, "multicast group 7"),
    (MODIFY, group(1, ONE), code.NOT_FOUND, "multicast group 1"),
    (DELETE, group(1), code.NOT_FOUND, "multicast group 1"),
    (INSERT, session(0, ONE), code.INVALID_ARGUMENT, "session_id 0"),
    (INSERT, session(0x8000, ONE), code.INVALID_ARGUMENT, "32767"),
    (INSERT, session(1, ONE, class_of_service=8), code.INVALID_ARGUMENT, "class_of_service 8"),
    (INSERT, session(1, ONE, packet_length_bytes=-1), code.INVALID_ARGUMENT, "packet_length_bytes"),
    (INSERT, session(7, ONE), code.ALREADY_EXISTS, "clone session 7"),
    (MODIFY, session(1, ONE), code.NOT_FOUND, "clone session 1"),
    (DELETE, session(1), code.NOT_FOUND, "clone session 1"),
]


@pytest.mark.parametrize(("kind", "entity", "expected", "named"), WRONG)
def test_an_invalid_write_is_refused_by_name_and_changes_nothing(
    copies: Pair, kind: int, entity: p4runtime_pb2.Entity, expected: int, named: str
) -> None:
    _, client = copies
    before = [group(7, ONE), session(7, ONE)]
    client.insert(*before)
    found, message = error_of(client, kind, entity)
    assert (found, named in message) == (expected, True), message
    assert client.read(group(0), session(0)) == before


def test_a_replica_without_port_or_an_entry_without_kind_is_refused(copies: Pair) -> None:
    _, client = copies
    portless = group(1)
    portless.packet_replication_engine_entry.multicast_group_entry.replicas.add(instance=1)
    empty = p4runtime_pb2.Entity()
    empty.packet_replication_engine_entry.SetInParent()
    assert error_of(client, INSERT, portless)[0] == code.INVALID_ARGUMENT
    assert error_of(client, INSERT, empty)[0] == code.INVALID_ARGUMENT


def test_backup_replicas_are_refused(copies: Pair) -> None:
    """A replica with port 1 and a backup_replicas (field 4, a message) with port 2, as in P4Runtime 1.5."""
    _, client = copies
    entity = group(1)
    replicas = entity.packet_replication_engine_entry.multicast_group_entry.replicas
    replicas.add().MergeFromString(b"\x1a\x01\x01" + b"\x22\x03\x0a\x01\x02")
    found, message = error_of(client, INSERT, entity)
    assert found == code.UNIMPLEMENTED
    assert "backup" in message


def test_a_new_program_starts_without_groups_and_sessions(copies: Pair) -> None:
    server, client = copies
    client.insert(group(7, ONE), session(7, ONE))
    config = client.get_config().config
    client.set_config(p4runtime_pb2.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT, config)
    assert client.read(group(0), session(0)) == []
    assert sent(server, MULTICAST, 7) == {}


def value_set(server: P4RuntimeServer, *values: bytes) -> p4runtime_pb2.Entity:
    (info,) = server.device.get_config(
        p4runtime_pb2.GetForwardingPipelineConfigRequest(device_id=server.device.device_id)
    ).config.p4info.value_sets
    entity = p4runtime_pb2.Entity()
    entity.value_set_entry.value_set_id = info.preamble.id
    for value in values:
        match = p4runtime_pb2.FieldMatch(field_id=info.match[0].id, exact=p4runtime_pb2.FieldMatch.Exact(value=value))
        entity.value_set_entry.members.add().match.append(match)
    return entity


def test_a_value_set_controls_the_parser(variants: Pair) -> None:
    server, client = variants
    empty = value_set(server)
    assert client.read(empty) == [empty]
    pipeline = server.device.switch.pipeline
    # A start header without options, then an item that the parser treats as long depending on its first byte.
    data = bytes.fromhex("0200 0000 ab 40 112233 99")
    assert send(pipeline, data)[-5:] == data[-5:]
    client.modify(value_set(server, b"\x40", b"\x00\x41"))
    assert client.read(empty) == [value_set(server, b"\x40", b"\x41")]
    assert client.read(p4runtime_pb2.Entity(value_set_entry=p4runtime_pb2.ValueSetEntry())) == client.read(empty)
    assert send(pipeline, data)[-5:] != data[-5:]
    client.modify(empty)
    assert send(pipeline, data)[-5:] == data[-5:]


def test_invalid_value_sets_are_refused(variants: Pair) -> None:
    server, client = variants
    kept = value_set(server, b"\x01")
    client.modify(kept)
    unknown = p4runtime_pb2.Entity(value_set_entry=p4runtime_pb2.ValueSetEntry(value_set_id=5))
    for kind, entity, expected in (
        (INSERT, kept, code.INVALID_ARGUMENT),
        (DELETE, kept, code.INVALID_ARGUMENT),
        (MODIFY, value_set(server, *(bytes([n]) for n in range(5))), code.RESOURCE_EXHAUSTED),
        (MODIFY, value_set(server, b"\x02", b"\x02"), code.ALREADY_EXISTS),
        (MODIFY, value_set(server, b"\x01\x00"), code.OUT_OF_RANGE),
        (MODIFY, unknown, code.NOT_FOUND),
    ):
        assert error_of(client, kind, entity)[0] == expected
    assert client.read(value_set(server)) == [kept]
    with pytest.raises(grpc.RpcError):
        client.read(kept)
