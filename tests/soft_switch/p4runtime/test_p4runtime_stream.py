"""Packet-in, packet-out and digests over the stream."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import code_pb2 as code
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.client_stream import MAX_WAITING, ClientStream
from soft_switch.p4runtime.digest_data import DigestShape
from soft_switch.p4runtime.digests import MOST_UNACKNOWLEDGED, MOST_WAITING, DigestBook
from soft_switch.p4runtime.server import P4RuntimeServer
from tests.support.p4runtime import (
    DELETE,
    IDS,
    INSERT,
    MODIFY,
    Client,
    action,
    batch_errors,
    connected,
    entry,
    ethernet,
    ipv4,
    lpm,
)

ROUTES = "ingress.routes"
LEARN = IDS.of["learn_t"]
SECOND_NS = 1_000_000_000


@pytest.fixture
def pair() -> Iterator[tuple[P4RuntimeServer, Client]]:
    with connected() as pair:
        yield pair


def packet_out(port: int, payload: bytes, **values: bytes) -> p4runtime_pb2.PacketOut:
    packet = p4runtime_pb2.PacketOut(payload=payload)
    packet.metadata.add(metadata_id=1, value=port.to_bytes(2, "big").lstrip(b"\0") or b"\0")
    packet.metadata.add(metadata_id=2, value=values.get("padding", b"\0"))
    return packet


def test_a_packet_out_leaves_where_its_metadata_says(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    frame = ethernet(payload=b"hello" * 10)
    client.send(packet=packet_out(2, frame))
    client.arbitrate()  # Answered after the packet was processed.
    client.standing()
    assert server.device.switch.transmit(2, 0)[0] == frame


def test_a_packet_in_has_the_header_as_metadata(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    to_cpu = action("ingress.to_cpu", reason=b"\x2a")
    client.insert(entry(ROUTES, lpm(ROUTES, "destination", b"\x0a\x00\x00\x00", 8), call=to_cpu))
    frame = ipv4(1, 0x0A000001)
    server.device.switch.receive(3, frame, 0)
    packet = client.receive().packet
    assert packet.payload == frame
    assert [(item.metadata_id, item.value) for item in packet.metadata] == [
        (1, b"\x03"),
        (2, b"\x2a"),
        (3, b"\x08\x00"),
    ]


def test_packet_ins_go_only_to_the_primary(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    backup = Client(server.port).open()
    backup.arbitrate(0)
    assert backup.standing()[0] == code.ALREADY_EXISTS
    server.device.switch.receive(3, ethernet(ether_type=0x88CC), 0)
    assert client.receive().packet.metadata[1].value == b"\x01"
    with pytest.raises(queue.Empty):
        backup.receive(timeout=0.2)


@pytest.mark.parametrize(
    ("packet", "expected", "named"),
    [
        (p4runtime_pb2.PacketOut(payload=b"x"), code.INVALID_ARGUMENT, "egress_port"),
        (packet_out(1, b"x", padding=b"\x80"), code.OUT_OF_RANGE, "padding"),
        (
            p4runtime_pb2.PacketOut(metadata=[p4runtime_pb2.PacketMetadata(metadata_id=9, value=b"\0")]),
            code.INVALID_ARGUMENT,
            "unknown metadata id 9",
        ),
    ],
)
def test_an_invalid_packet_out_is_reported_on_the_stream(
    pair: tuple[P4RuntimeServer, Client], packet: p4runtime_pb2.PacketOut, expected: int, named: str
) -> None:
    _, client = pair
    client.send(packet=packet)
    error = client.receive().error
    assert error.canonical_code == expected
    assert named in error.message
    assert error.packet_out.packet_out == packet
    client.send(packet=packet_out(1, ethernet()))  # The stream stays open.
    client.arbitrate()
    assert client.standing()[0] == code.OK


def test_a_packet_out_of_a_backup_is_refused(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, _ = pair
    backup = Client(server.port).open()
    backup.arbitrate(0)
    backup.standing()
    backup.send(packet=packet_out(2, ethernet()))
    assert backup.receive().error.canonical_code == code.PERMISSION_DENIED
    assert server.device.switch.transmit(2, 0) is None


def digest(max_list_size: int = 1, max_timeout_ns: int = 0, ack_timeout_ns: int = 0) -> p4runtime_pb2.Entity:
    entity = p4runtime_pb2.Entity()
    entity.digest_entry.digest_id = LEARN
    entity.digest_entry.config.max_list_size = max_list_size
    entity.digest_entry.config.max_timeout_ns = max_timeout_ns
    entity.digest_entry.config.ack_timeout_ns = ack_timeout_ns
    return entity


def learned(message: p4runtime_pb2.DigestList) -> list[tuple[bytes, ...]]:
    return [tuple(member.bitstring for member in data.struct.members) for data in message.data]


def test_digests_are_configured_and_read(pair: tuple[P4RuntimeServer, Client]) -> None:
    _, client = pair
    wildcard = p4runtime_pb2.Entity(digest_entry=p4runtime_pb2.DigestEntry())

    def error_of(kind: int, entity: p4runtime_pb2.Entity) -> int:
        with pytest.raises(grpc.RpcError) as caught:
            client.write((kind, entity))
        return batch_errors(caught.value)[0][0]

    assert client.read(wildcard) == []
    assert error_of(MODIFY, digest()) == code.NOT_FOUND
    client.insert(digest())
    assert error_of(INSERT, digest()) == code.ALREADY_EXISTS
    client.modify(digest(5, 6, 7))
    assert client.read(wildcard) == [digest(5, 6, 7)]
    assert error_of(MODIFY, digest(max_timeout_ns=-1)) == code.INVALID_ARGUMENT
    client.delete(digest())
    assert error_of(DELETE, digest()) == code.NOT_FOUND
    assert error_of(INSERT, wildcard) == code.INVALID_ARGUMENT


def test_digests_arrive_once_until_acknowledged(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    switch = server.device.switch
    switch.receive(1, ethernet(source=0x99), 0)  # Not enabled yet: lost.
    client.insert(digest(ack_timeout_ns=3600 * SECOND_NS))
    switch.receive(1, ethernet(source=0x0A), 0)
    switch.receive(1, ethernet(source=0x0A), 0)
    switch.receive(2, ethernet(source=0x0B00), 0)
    first, second = client.receive().digest, client.receive().digest
    assert (first.digest_id, learned(first)) == (LEARN, [(b"\x0a", b"\x01")])
    assert learned(second) == [(b"\x0b\x00", b"\x02")]
    assert first.timestamp > 0
    client.send(digest_ack=p4runtime_pb2.DigestListAck(digest_id=LEARN, list_id=first.list_id))
    client.arbitrate()
    client.standing()
    switch.receive(1, ethernet(source=0x0B00), 0)  # Another port: not the same message.
    switch.receive(2, ethernet(source=0x0B00), 0)  # Not acknowledged: suppressed.
    switch.receive(1, ethernet(source=0x0A), 0)  # Acknowledged: sent again.
    assert learned(client.receive().digest) == [(b"\x0b\x00", b"\x01")]
    assert learned(client.receive().digest) == [(b"\x0a", b"\x01")]


def test_digests_wait_for_a_full_list_or_their_timeout(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    switch = server.device.switch
    client.insert(digest(max_list_size=3, max_timeout_ns=3600 * SECOND_NS))
    for source in (1, 2, 3, 4):
        switch.receive(1, ethernet(source=source), 0)
    assert len(learned(client.receive().digest)) == 3
    client.modify(digest(max_list_size=3, max_timeout_ns=SECOND_NS // 20))
    switch.receive(1, ethernet(source=5), 0)  # Wakes the sender, which then finds the shorter timeout.
    assert learned(client.receive().digest) == [(b"\x04", b"\x01"), (b"\x05", b"\x01")]


def test_an_acknowledgement_of_an_unknown_digest_is_reported(pair: tuple[P4RuntimeServer, Client]) -> None:
    _, client = pair
    client.send(digest_ack=p4runtime_pb2.DigestListAck(digest_id=5, list_id=1))
    error = client.receive().error
    assert error.canonical_code == code.INVALID_ARGUMENT
    assert error.digest_list_ack.digest_list_ack.digest_id == 5


def book(**config: int) -> DigestBook:
    def write(values: Iterator[int], data: p4runtime_pb2.p4_dot_v1_dot_p4data__pb2.P4Data) -> None:
        data.bitstring = bytes((next(values),))

    shapes = DigestBook({1: DigestShape("learn", 1, write)})
    message = p4runtime_pb2.DigestEntry(digest_id=1)
    for name, value in config.items():
        setattr(message.config, name, value)
    shapes.write(INSERT, message)
    return shapes


def test_digests_keep_a_given_clock() -> None:
    digests = book(max_timeout_ns=100, max_list_size=10, ack_timeout_ns=50)
    assert digests.next_due_ns() is None
    assert not digests.offer("learn", (1,), 1000)
    assert not digests.offer("learn", (1,), 1001)
    assert not digests.offer("learn", (2,), 1050)
    assert digests.next_due_ns() == 1100
    assert digests.take_due(1099, 0) == []
    (message,) = digests.take_due(1100, 77)
    assert [item.bitstring for item in message.data] == [b"\x01", b"\x02"]
    assert message.timestamp == 77
    digests.offer("learn", (1,), 1149)  # Neither acknowledged nor expired.
    assert digests.next_due_ns() is None
    digests.offer("learn", (1,), 1150)  # The acknowledgement is overdue.
    assert digests.next_due_ns() == 1250


def test_unacknowledged_digests_are_bounded() -> None:
    digests = book(max_list_size=1, ack_timeout_ns=1 << 62)
    for number in range(MOST_UNACKNOWLEDGED + 2):
        assert digests.offer("learn", (number % 256, number), 0)
        digests.take_due(0, 0)
    assert digests.offer("learn", (0, 0), 0)  # The oldest was forgotten,
    assert not digests.offer("learn", (5, 5), 0)  # a later one was not.


def test_the_length_of_lists_is_bounded_whatever_the_client_asks() -> None:
    digests = book(max_list_size=(1 << 31) - 1, max_timeout_ns=1 << 62)
    ready = [digests.offer("learn", (number,), 0) for number in range(MOST_WAITING)]
    assert ready.index(True) == MOST_WAITING - 1


def test_a_client_that_reads_nothing_is_disconnected() -> None:
    stream = ClientStream()
    for _ in range(MAX_WAITING + 1):
        stream.send(p4runtime_pb2.StreamMessageResponse())
    assert sum(1 for _ in stream.responses()) == MAX_WAITING
    assert stream.error is not None
    assert stream.error.code == code.RESOURCE_EXHAUSTED
