"""Counters and meters, direct and indirect, over gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import code_pb2 as code
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.read_responses import ENTITIES_PER_RESPONSE, ReadResponses
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
    error_of,
    ethernet,
    exact,
    ipv4,
    lpm,
    ternary,
)

ROUTES = "ingress.routes"
CLASSES = "ingress.classes"
ANY_COUNTER = p4runtime_pb2.CounterData()
ANY_METER = p4runtime_pb2.MeterConfig()
RATES = p4runtime_pb2.MeterConfig(cir=10, cburst=1, pir=20, pburst=2)


@pytest.fixture
def pair() -> Iterator[tuple[P4RuntimeServer, Client]]:
    with connected() as pair:
        yield pair


@pytest.fixture
def client(pair: tuple[P4RuntimeServer, Client]) -> Client:
    return pair[1]


def counter(index: int | None = None, packets: int | None = None, size: int = 0) -> p4runtime_pb2.Entity:
    entity = p4runtime_pb2.Entity()
    entity.counter_entry.counter_id = IDS.of["ingress.port_counter"]
    if index is not None:
        entity.counter_entry.index.index = index
    if packets is not None:
        entity.counter_entry.data.CopyFrom(p4runtime_pb2.CounterData(packet_count=packets, byte_count=size))
    return entity


def meter(index: int | None = None, config: p4runtime_pb2.MeterConfig | None = None) -> p4runtime_pb2.Entity:
    entity = p4runtime_pb2.Entity()
    entity.meter_entry.meter_id = IDS.of["ingress.port_meter"]
    if index is not None:
        entity.meter_entry.index.index = index
    if config is not None:
        entity.meter_entry.config.CopyFrom(config)
    return entity


def route(value: bytes = b"\x0a\x00\x00\x00", **fields: object) -> p4runtime_pb2.Entity:
    fields.setdefault("call", action("ingress.forward", port=b"\x01"))
    return entry(ROUTES, lpm(ROUTES, "destination", value, 8), **fields)


def classed(**fields: object) -> p4runtime_pb2.Entity:
    fields.setdefault("call", action("ingress.set_class_metered", value=b"\x05"))
    key = (ternary(CLASSES, "source", b"\x0a\x00\x00\x00", b"\xff\x00\x00\x00"), exact(CLASSES, "port", b"\x00"))
    return entry(CLASSES, *key, priority=1, **fields)


def direct(kind: str, of: p4runtime_pb2.Entity, **fields: object) -> p4runtime_pb2.Entity:
    entity = p4runtime_pb2.Entity()
    getattr(entity, kind).table_entry.CopyFrom(of.table_entry)
    for name, value in fields.items():
        getattr(getattr(entity, kind), name).CopyFrom(value)
    return entity


def test_packets_are_counted_and_cells_can_be_set(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    frame = ethernet()
    server.device.switch.receive(3, frame, 0)
    server.device.switch.receive(3, frame, 0)
    assert client.read(counter(3)) == [counter(3, 2, 2 * len(frame))]
    client.modify(counter(3, 100, 1000), counter(4, 5, 6), counter(5))
    server.device.switch.receive(3, frame, 0)
    cells = client.read(counter())
    assert len(cells) == 16
    assert cells[3] == counter(3, 101, 1000 + len(frame))
    assert cells[4] == counter(4, 5, 6)
    client.modify(counter(None, 0, 0))
    assert all(cell.counter_entry.data == ANY_COUNTER for cell in client.read(counter()))
    all_counters = client.read(p4runtime_pb2.Entity(counter_entry=p4runtime_pb2.CounterEntry()))
    assert len(all_counters) == 16


def test_invalid_counter_and_meter_requests_are_refused(client: Client) -> None:
    unknown = p4runtime_pb2.Entity()
    unknown.counter_entry.counter_id = 99
    faulty = (
        p4runtime_pb2.MeterConfig(cir=-1),
        p4runtime_pb2.MeterConfig(cir=2, pir=1),
        p4runtime_pb2.MeterConfig(eburst=1),
    )
    for kind, entity, expected in (
        (INSERT, counter(1, 1), code.INVALID_ARGUMENT),
        (DELETE, counter(1), code.INVALID_ARGUMENT),
        (MODIFY, counter(-1, 1), code.INVALID_ARGUMENT),
        (MODIFY, counter(16, 1), code.OUT_OF_RANGE),
        (MODIFY, counter(1, -1), code.INVALID_ARGUMENT),
        (MODIFY, unknown, code.NOT_FOUND),
        (INSERT, meter(1, RATES), code.INVALID_ARGUMENT),
        (MODIFY, meter(-1, RATES), code.INVALID_ARGUMENT),
        (MODIFY, meter(8, RATES), code.OUT_OF_RANGE),
        *((MODIFY, meter(1, config), code.INVALID_ARGUMENT) for config in faulty),
    ):
        found, message = error_of(client, kind, entity)
        assert found == expected, entity
        assert message
    colored = meter(1, RATES)
    colored.meter_entry.counter_data.SetInParent()
    assert error_of(client, MODIFY, colored)[0] == code.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as caught:
        client.read(counter(16))
    assert batch_errors(caught.value)[0][0] == code.OUT_OF_RANGE


def test_the_answers_to_a_read_of_many_cells_fill_few_messages_in_order(client: Client) -> None:
    wanted = [counter(number % 16) for number in range(ENTITIES_PER_RESPONSE + 10)]
    request = p4runtime_pb2.ReadRequest(device_id=client.device_id, entities=wanted)
    answers = list(client.stub.Read(request))
    assert [len(answer.entities) for answer in answers] == [ENTITIES_PER_RESPONSE, 10]
    assert [entity.counter_entry.index for answer in answers for entity in answer.entities] == [
        entity.counter_entry.index for entity in wanted
    ]


def test_a_cell_that_does_not_exist_leaves_the_answers_to_the_others(client: Client) -> None:
    request = p4runtime_pb2.ReadRequest(device_id=client.device_id, entities=[counter(1), counter(16), counter(2)])
    answers = []
    with pytest.raises(grpc.RpcError) as caught:
        answers.extend(client.stub.Read(request))
    assert [found for found, _ in batch_errors(caught.value)] == [code.OK, code.OUT_OF_RANGE, code.OK]
    assert [entity.counter_entry.index.index for answer in answers for entity in answer.entities] == [1, 2]


@pytest.mark.parametrize("before", [0, 1, ENTITIES_PER_RESPONSE - 1, ENTITIES_PER_RESPONSE])
def test_what_a_failed_request_has_found_is_removed(before: int) -> None:
    responses = ReadResponses()
    for number in range(before):
        responses.add().counter_entry.counter_id = number + 1
    held = [message.SerializeToString() for message in responses.messages]
    mark = responses.mark()
    for _ in range(ENTITIES_PER_RESPONSE + 1):
        responses.add()
    responses.back_to(mark)
    assert [message.SerializeToString() for message in responses.messages] == held
    responses.add()
    assert sum(len(message.entities) for message in responses.messages) == before + 1
    assert all(len(message.entities) <= ENTITIES_PER_RESPONSE for message in responses.messages)


def test_meter_cells_are_configured_and_reset(client: Client) -> None:
    client.modify(meter(2, RATES))
    assert client.read(meter(2)) == [meter(2, RATES)]
    assert client.read(meter(3)) == [meter(3)]
    client.modify(meter(None, RATES))
    assert client.read(meter()) == [meter(index, RATES) for index in range(8)]
    client.modify(meter())
    assert client.read(p4runtime_pb2.Entity(meter_entry=p4runtime_pb2.MeterEntry())) == [meter(i) for i in range(8)]


def test_a_direct_counter_counts_hits_and_can_be_set(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    client.insert(route(), route(b"\x0b\x00\x00\x00"))
    frame = ipv4(1, 0x0A000001)
    for _ in range(3):
        server.device.switch.receive(0, frame, 0)
    hits = p4runtime_pb2.CounterData(packet_count=3, byte_count=3 * len(frame))
    (found,) = client.read(direct("direct_counter_entry", route()))
    assert found.direct_counter_entry.data == hits
    with_counts = client.read_entries(ROUTES, counter_data=ANY_COUNTER)
    assert [item.counter_data for item in with_counts] == [hits, ANY_COUNTER]
    assert not client.read_entries(ROUTES)[0].HasField("counter_data")
    five = p4runtime_pb2.CounterData(packet_count=5, byte_count=50)
    client.modify(direct("direct_counter_entry", route(), data=five))
    client.modify(route(call=action("ingress.drop")))  # A modified entry keeps its counts.
    assert client.read_entries(ROUTES, counter_data=ANY_COUNTER)[0].counter_data == five
    client.modify(route(counter_data=ANY_COUNTER))
    assert client.read_entries(ROUTES, counter_data=ANY_COUNTER)[0].counter_data == ANY_COUNTER


def test_a_direct_counter_can_be_set_on_insert_and_read_by_wildcard(client: Client) -> None:
    five = p4runtime_pb2.CounterData(packet_count=5, byte_count=50)
    client.insert(route(counter_data=five), route(b"\x0b\x00\x00\x00"))
    whole_table = client.read(direct("direct_counter_entry", entry(ROUTES)))
    assert [item.direct_counter_entry.data for item in whole_table] == [five, ANY_COUNTER]
    all_tables = p4runtime_pb2.Entity()
    all_tables.direct_counter_entry.table_entry.table_id = 0
    assert client.read(all_tables) == whole_table
    key = whole_table[0].direct_counter_entry.table_entry
    assert key.match == route().table_entry.match
    assert not key.HasField("action")


def test_direct_resources_of_missing_entries_are_not_found(client: Client) -> None:
    for kind, entity, expected in (
        (MODIFY, direct("direct_counter_entry", route()), code.NOT_FOUND),
        (INSERT, direct("direct_counter_entry", route()), code.INVALID_ARGUMENT),
        (MODIFY, direct("direct_counter_entry", entry(ROUTES, is_default_action=True)), code.UNIMPLEMENTED),
        (MODIFY, direct("direct_meter_entry", classed()), code.NOT_FOUND),
    ):
        assert error_of(client, kind, entity)[0] == expected
    client.insert(route(), classed())
    assert error_of(client, MODIFY, direct("direct_meter_entry", route()))[0] == code.INVALID_ARGUMENT
    assert error_of(client, MODIFY, direct("direct_counter_entry", classed()))[0] == code.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        client.read(direct("direct_counter_entry", route(b"\x63\x00\x00\x00")))
    assert batch_errors(caught.value)[0][0] == code.NOT_FOUND


def test_a_direct_meter_is_configured_read_and_reset(client: Client) -> None:
    client.insert(classed(meter_config=RATES))
    assert client.read_entries(CLASSES, meter_config=ANY_METER)[0].meter_config == RATES
    assert not client.read_entries(CLASSES)[0].HasField("meter_config")
    other = p4runtime_pb2.MeterConfig(cir=1, cburst=1, pir=1, pburst=1)
    client.modify(direct("direct_meter_entry", classed(), config=other))
    (read,) = client.read(direct("direct_meter_entry", classed()))
    assert read.direct_meter_entry.config == other
    client.modify(classed())  # Modifying an entry without meter_config resets its meter.
    assert not client.read_entries(CLASSES, meter_config=ANY_METER)[0].HasField("meter_config")
    client.modify(direct("direct_meter_entry", classed(), config=other))
    client.modify(direct("direct_meter_entry", classed()))
    assert not client.read(direct("direct_meter_entry", classed()))[0].direct_meter_entry.HasField("config")
