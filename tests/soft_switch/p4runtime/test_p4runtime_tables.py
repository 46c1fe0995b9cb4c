"""Table entries over gRPC: every match kind, priorities, defaults, constants, errors per update, wildcard reads."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import code_pb2 as code
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.server import P4RuntimeServer
from tests.support.p4runtime import (
    CPU_PORT,
    DELETE,
    DEVICE_ID,
    IDS,
    INSERT,
    MODIFY,
    Client,
    action,
    batch_errors,
    between,
    connected,
    entry,
    error_of,
    exact,
    field_match,
    ipv4,
    lpm,
    optional,
    ternary,
)

KNOWN = "ingress.known_sources"
ROUTES = "ingress.routes"
CLASSES = "ingress.classes"
FIXED = "ingress.fixed_ports"
SETTINGS = "ingress.settings"
NO_ACTION = action("NoAction")
FORWARD_1 = action("ingress.forward", port=b"\x01")


@pytest.fixture
def pair() -> Iterator[tuple[P4RuntimeServer, Client]]:
    with connected() as pair:
        yield pair


@pytest.fixture
def client(pair: tuple[P4RuntimeServer, Client]) -> Client:
    return pair[1]


def known(value: bytes, **fields: object) -> p4runtime_pb2.Entity:
    fields.setdefault("call", NO_ACTION)
    return entry(KNOWN, exact(KNOWN, "source", value), **fields)


def route(value: bytes, length: int, **fields: object) -> p4runtime_pb2.Entity:
    fields.setdefault("call", FORWARD_1)
    return entry(ROUTES, lpm(ROUTES, "destination", value, length), **fields)


def classed(*key: p4runtime_pb2.FieldMatch, priority: int = 1, **fields: object) -> p4runtime_pb2.Entity:
    fields.setdefault("call", action("ingress.set_class_metered", value=b"\x05"))
    return entry(CLASSES, exact(CLASSES, "port", b"\x00"), *key, priority=priority, **fields)


ENTRIES = [
    known(b"\xaa\xbb"),
    route(b"\x0a\x00\x00\x00", 8),
    route(b"\x0a\x01\x02\x03", 32, call=action("ingress.to_cpu", reason=b"\x7f")),
    entry(ROUTES, call=action("ingress.drop")),  # 0.0.0.0/0
    classed(),
    classed(priority=2),
    classed(ternary(CLASSES, "source", b"\x0a\x00\x00\x00", b"\xff\x00\x00\x00")),
    classed(between(CLASSES, "length", b"\x40", b"\x05\xdc")),
    classed(between(CLASSES, "length", b"\x00", b"\x40")),
    classed(optional(CLASSES, "protocol", b"\x00")),
    classed(
        ternary(CLASSES, "source", b"\x00", b"\x01"),
        between(CLASSES, "length", b"\x01", b"\xff\xff"),
        optional(CLASSES, "protocol", b"\x11"),
        priority=2**31 - 1,
        metadata=b"mine",
        controller_metadata=9,
        call=NO_ACTION,
    ),
]


@pytest.mark.parametrize("entity", ENTRIES)
def test_entries_are_read_back_as_written(client: Client, entity: p4runtime_pb2.Entity) -> None:
    table_entry = entity.table_entry
    client.insert(entity)
    read = client.read(entity)[0].table_entry
    assert sorted(read.match, key=lambda m: m.field_id) == sorted(table_entry.match, key=lambda m: m.field_id)
    del read.match[:]
    expected = p4runtime_pb2.TableEntry()
    expected.CopyFrom(table_entry)
    del expected.match[:]
    assert read == expected
    assert error_of(client, INSERT, entity)[0] == code.ALREADY_EXISTS
    client.delete(entity)
    assert client.read(entity) == []
    assert error_of(client, DELETE, entity)[0] == code.NOT_FOUND
    assert error_of(client, MODIFY, entity)[0] == code.NOT_FOUND


def test_padded_byte_strings_are_the_same_entry_and_read_back_canonical(client: Client) -> None:
    client.insert(known(b"\x00\x00\xaa"))
    assert error_of(client, INSERT, known(b"\xaa"))[0] == code.ALREADY_EXISTS
    assert client.read_entries(KNOWN)[0].match[0].exact.value == b"\xaa"


def test_modify_changes_the_action_and_metadata(client: Client) -> None:
    client.insert(route(b"\x0a\x00\x00\x00", 8, metadata=b"old"))
    client.modify(route(b"\x0a\x00\x00\x00", 8, call=action("ingress.drop"), metadata=b"new"))
    read = client.read_entries(ROUTES)[0]
    assert read.action.action == action("ingress.drop")
    assert read.metadata == b"new"
    client.modify(route(b"\x0a\x00\x00\x00", 8, call=None))  # Without an action it stays.
    assert client.read_entries(ROUTES)[0].action.action == action("ingress.drop")


def test_delete_uses_only_the_key(client: Client) -> None:
    client.insert(route(b"\x0a\x00\x00\x00", 8))
    client.delete(route(b"\x0a\x00\x00\x00", 8, call=p4runtime_pb2.Action(action_id=1), idle_timeout_ns=5))
    assert client.read_entries(ROUTES) == []


def test_entries_determine_where_packets_go(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    switch = server.device.switch
    client.insert(route(b"\x0a\x00\x00\x00", 8, call=action("ingress.forward", port=b"\x02")))
    switch.receive(0, ipv4(1, 0x0A010203), 0)
    assert switch.transmit(2, 0) is not None
    client.insert(route(b"\x0a\x01\x00\x00", 16, call=action("ingress.forward", port=b"\x03")))
    switch.receive(0, ipv4(1, 0x0A010203), 0)
    assert switch.transmit(3, 0) is not None
    assert switch.transmit(2, 0) is None


BAD_KEYS = [
    (entry(KNOWN, call=NO_ACTION), code.INVALID_ARGUMENT, "source"),
    (known(b""), code.OUT_OF_RANGE, "source"),
    (known(b"\x01" + bytes(6)), code.OUT_OF_RANGE, "48 bits"),
    (known(b"\x01", priority=3), code.INVALID_ARGUMENT, "priority must be 0"),
    (route(b"\x0a\x00\x00\x00", 0), code.INVALID_ARGUMENT, "leave the field out"),
    (route(b"\x0a\x00\x00\x00", 33), code.INVALID_ARGUMENT, "1..32"),
    (route(b"\x0a\x00\x00\x01", 8), code.INVALID_ARGUMENT, "after its prefix"),
    (classed(priority=0), code.INVALID_ARGUMENT, "priority must be above 0"),
    (classed(priority=-1), code.INVALID_ARGUMENT, "priority must be above 0"),
    (classed(ternary(CLASSES, "source", b"\x00", b"\x00")), code.INVALID_ARGUMENT, "leave the field out"),
    (classed(ternary(CLASSES, "source", b"\x03", b"\x01")), code.INVALID_ARGUMENT, "outside its mask"),
    (classed(between(CLASSES, "length", b"\x05", b"\x04")), code.INVALID_ARGUMENT, "above high"),
    (classed(between(CLASSES, "length", b"\x00", b"\xff\xff")), code.INVALID_ARGUMENT, "leave the field out"),
    (classed(between(CLASSES, "length", b"\x00", b"\x01\x00\x00")), code.OUT_OF_RANGE, "16 bits"),
    (classed(optional(CLASSES, "protocol", b"\x01\x00")), code.OUT_OF_RANGE, "protocol"),
    (classed(exact(CLASSES, "source", b"\x01")), code.INVALID_ARGUMENT, "its match kind is ternary"),
    (classed(field_match(CLASSES, "source")), code.INVALID_ARGUMENT, "no match was given"),
    (classed(exact(CLASSES, "port", b"\x01")), code.INVALID_ARGUMENT, "twice"),
    (classed(p4runtime_pb2.FieldMatch(field_id=99)), code.INVALID_ARGUMENT, "source (1)"),
    (entry(SETTINGS, call=NO_ACTION), code.INVALID_ARGUMENT, "no key"),
]


@pytest.mark.parametrize(("entity", "expected", "named"), BAD_KEYS)
def test_invalid_keys_are_refused_with_the_reason(
    client: Client, entity: p4runtime_pb2.Entity, expected: int, named: str
) -> None:
    found, message = error_of(client, INSERT, entity)
    assert found == expected
    assert named in message


def with_action(**kinds: object) -> p4runtime_pb2.Entity:
    entity = route(b"\x0a\x00\x00\x00", 8, call=None)
    entity.table_entry.action.CopyFrom(p4runtime_pb2.TableAction(**kinds))
    return entity


def params(name: str, *pairs: tuple[int, bytes]) -> p4runtime_pb2.Action:
    items = [p4runtime_pb2.Action.Param(param_id=number, value=value) for number, value in pairs]
    return p4runtime_pb2.Action(action_id=IDS.of[name], params=items)


BAD_ACTIONS = [
    (route(b"\x0a\x00\x00\x00", 8, call=None), code.INVALID_ARGUMENT, "needs an action"),
    (with_action(action=p4runtime_pb2.Action(action_id=1)), code.INVALID_ARGUMENT, "ingress.forward"),
    (with_action(action=action("ingress.set_hop", port=b"\x01")), code.INVALID_ARGUMENT, "no action with id"),
    (with_action(action=params("ingress.forward")), code.INVALID_ARGUMENT, "port (1) is missing"),
    (with_action(action=params("ingress.forward", (1, b"\x01"), (2, b"\x01"))), code.INVALID_ARGUMENT, "id 2"),
    (with_action(action=params("ingress.forward", (1, b"\x01"), (1, b"\x01"))), code.INVALID_ARGUMENT, "twice"),
    (with_action(action=params("ingress.forward", (1, b"\x02\x00"))), code.OUT_OF_RANGE, "9 bits"),
    (with_action(action=params("ingress.forward", (1, b""))), code.OUT_OF_RANGE, "empty"),
    (with_action(action_profile_member_id=1), code.INVALID_ARGUMENT, "no action profile"),
    (known(b"\x01", call=action("ingress.learn")), code.PERMISSION_DENIED, "@defaultonly"),
    (known(b"\x01", is_const=True), code.INVALID_ARGUMENT, "is_const"),
    (route(b"\x0a\x00\x00\x00", 8, idle_timeout_ns=1), code.INVALID_ARGUMENT, "idle timeout"),
    (known(b"\x01", counter_data=p4runtime_pb2.CounterData()), code.INVALID_ARGUMENT, "no direct counter"),
    (known(b"\x01", meter_config=p4runtime_pb2.MeterConfig()), code.INVALID_ARGUMENT, "no direct meter"),
]


@pytest.mark.parametrize(("entity", "expected", "named"), BAD_ACTIONS)
def test_invalid_actions_are_refused_with_the_reason(
    client: Client, entity: p4runtime_pb2.Entity, expected: int, named: str
) -> None:
    found, message = error_of(client, INSERT, entity)
    assert found == expected
    assert named in message
    assert (
        client.read(p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry(table_id=entity.table_entry.table_id)))
        == []
    )


def test_unknown_ids_are_not_found(client: Client) -> None:
    unknown = p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry(table_id=0x02FFFFFF))
    found, message = error_of(client, INSERT, unknown)
    assert found == code.NOT_FOUND
    assert KNOWN in message
    assert (
        error_of(client, INSERT, p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry()))[0]
        == code.INVALID_ARGUMENT
    )
    assert error_of(client, 0, known(b"\x01"))[0] == code.INVALID_ARGUMENT
    assert error_of(client, INSERT, p4runtime_pb2.Entity())[0] == code.INVALID_ARGUMENT


def test_a_full_table_refuses_entries(client: Client) -> None:
    client.insert(*(known(bytes((number,))) for number in range(8)))
    assert error_of(client, INSERT, known(b"\x08"))[0] == code.RESOURCE_EXHAUSTED
    client.delete(known(b"\x03"))
    client.insert(known(b"\x08"))


def test_every_update_of_a_batch_is_attempted_and_reported(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.write(
            (INSERT, known(b"\x01")), (DELETE, known(b"\x02")), (INSERT, known(b"\x01")), (INSERT, known(b"\x03"))
        )
    assert [found for found, _ in batch_errors(caught.value)] == [
        code.OK,
        code.NOT_FOUND,
        code.ALREADY_EXISTS,
        code.OK,
    ]
    assert batch_errors(caught.value)[0] == (code.OK, "")
    assert len(client.read_entries(KNOWN)) == 2


def test_a_large_failed_batch_still_reports_every_code(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.write(*((DELETE, known(number.to_bytes(2, "big"))) for number in range(100)))
    assert [found for found, _ in batch_errors(caught.value)] == [code.NOT_FOUND] * 100


def default(table: str, call: p4runtime_pb2.Action | None = None, **fields: object) -> p4runtime_pb2.Entity:
    return entry(table, is_default_action=True, call=call, **fields)


def test_the_default_action_is_modified_and_reset(client: Client) -> None:
    drop, forward = action("ingress.drop"), action("ingress.forward", port=b"\x03")
    assert client.read_entries(ROUTES, is_default_action=True)[0].action.action == drop
    client.modify(default(ROUTES, forward, metadata=b"m"))
    read = client.read_entries(ROUTES, is_default_action=True)[0]
    assert (read.action.action, read.metadata, read.is_default_action) == (forward, b"m", True)
    assert client.read_entries(ROUTES) == []
    client.modify(default(ROUTES))
    read = client.read_entries(ROUTES, is_default_action=True)[0]
    assert (read.action.action, read.metadata) == (drop, b"")


def test_a_table_without_key_has_a_default_action(pair: tuple[P4RuntimeServer, Client]) -> None:
    _, client = pair
    client.modify(default(SETTINGS, action("ingress.set_class", value=b"\x09")))
    assert client.read_entries(SETTINGS, is_default_action=True)[0].action.action == action(
        "ingress.set_class", value=b"\x09"
    )


@pytest.mark.parametrize(
    ("kind", "entity", "expected", "named"),
    [
        (INSERT, default(ROUTES, FORWARD_1), code.INVALID_ARGUMENT, "only MODIFY"),
        (DELETE, default(ROUTES), code.INVALID_ARGUMENT, "only MODIFY"),
        (MODIFY, default(ROUTES, FORWARD_1, priority=1), code.INVALID_ARGUMENT, "no priority"),
        (MODIFY, default(KNOWN, NO_ACTION), code.PERMISSION_DENIED, "constant"),
        (MODIFY, default(ROUTES, action("ingress.set_class", value=b"\x01")), code.PERMISSION_DENIED, "@tableonly"),
        (MODIFY, default("ingress.balanced", action("ingress.drop")), code.PERMISSION_DENIED, "ingress.hops"),
        (MODIFY, default(ROUTES, FORWARD_1, idle_timeout_ns=1), code.INVALID_ARGUMENT, "idle timeout"),
    ],
)
def test_invalid_default_actions_are_refused(
    client: Client, kind: int, entity: p4runtime_pb2.Entity, expected: int, named: str
) -> None:
    found, message = error_of(client, kind, entity)
    assert found == expected
    assert named in message


def fixed(value: bytes, mask: bytes, priority: int, call: p4runtime_pb2.Action | None = None) -> p4runtime_pb2.Entity:
    return entry(FIXED, ternary(FIXED, "ether_type", value, mask), priority=priority, call=call)


def test_constant_entries_are_read_and_never_written(client: Client) -> None:
    first, second = client.read_entries(FIXED)
    assert first.match[0].ternary.value == b"\x88\xcc"
    assert first.action.action == action("ingress.to_cpu", reason=b"\x01")
    assert first.is_const
    assert second.is_const
    # Entries in the order of the program, where a higher priority number wins.
    assert (first.priority, second.priority) == (2, 1)
    to_cpu = action("ingress.to_cpu", reason=b"\x03")
    for kind, entity in (
        (INSERT, fixed(b"\x08\x06", b"\xff\xff", 5, to_cpu)),
        (MODIFY, fixed(b"\x88\xcc", b"\xff\xff", 2, to_cpu)),
        (DELETE, fixed(b"\x88\xcc", b"\xff\xff", 2)),
    ):
        found, message = error_of(client, kind, entity)
        assert found == code.PERMISSION_DENIED
        assert FIXED in message
    default_entry = client.read_entries(FIXED, is_default_action=True)[0]
    assert default_entry.is_const
    assert default_entry.action.action == NO_ACTION


def test_wildcard_reads_select_entries(client: Client) -> None:
    client.insert(*ENTRIES)
    everything = client.read(p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry()))
    assert len(everything) == len(ENTRIES) + 2  # Including the constant entries.
    assert len(client.read_entries(CLASSES)) == 7
    assert len(client.read_entries(CLASSES, priority=1)) == 5
    assert len(client.read_entries(CLASSES, metadata=b"mine")) == 1
    assert len(client.read_entries(CLASSES, controller_metadata=9)) == 1
    by_action = p4runtime_pb2.TableAction(action=p4runtime_pb2.Action(action_id=IDS.of["ingress.forward"]))
    assert [e.action.action for e in client.read_entries(ROUTES, action=by_action)] == [FORWARD_1]
    defaults = client.read(p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry(is_default_action=True)))
    assert {e.table_entry.table_id for e in defaults} == {IDS.of[t] for t in (KNOWN, ROUTES, CLASSES, FIXED, SETTINGS)}
    two = client.read(entry(KNOWN), entry(ROUTES))
    assert len(two) == 4


def test_many_entries_are_read_completely(client: Client) -> None:
    client.insert(*(route(bytes((10, 0, number, 0)), 24) for number in range(64)))
    assert len(client.read_entries(ROUTES)) == 64


@pytest.mark.parametrize(
    ("entity", "expected"),
    [
        (p4runtime_pb2.Entity(), code.INVALID_ARGUMENT),
        (p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry(table_id=77)), code.NOT_FOUND),
        (p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry(priority=1)), code.INVALID_ARGUMENT),
        (entry(ROUTES, exact(KNOWN, "source", b"\x01")), code.INVALID_ARGUMENT),
        (entry(KNOWN, counter_data=p4runtime_pb2.CounterData()), code.INVALID_ARGUMENT),
        (entry(ROUTES, call=action("ingress.set_hop")), code.INVALID_ARGUMENT),
    ],
)
def test_invalid_reads_are_refused(client: Client, entity: p4runtime_pb2.Entity, expected: int) -> None:
    request = p4runtime_pb2.ReadRequest(device_id=DEVICE_ID, entities=[entry(FIXED), entity])
    responses = client.stub.Read(request)
    got = list(next(responses).entities)
    with pytest.raises(grpc.RpcError) as caught:
        next(responses)
    assert [found for found, _ in batch_errors(caught.value)] == [code.OK, expected]
    assert len(got) == 2  # The valid request is answered.


def test_unsupported_objects_are_refused_with_the_reason(client: Client) -> None:
    register = p4runtime_pb2.Entity()
    register.register_entry.register_id = IDS.of["ingress.last_seen"]
    extern = p4runtime_pb2.Entity()
    extern.extern_entry.extern_id = 1
    for entity, named in ((register, "registers"), (extern, "externs")):
        found, message = error_of(client, MODIFY, entity)
        assert found == code.UNIMPLEMENTED
        assert named in message
        with pytest.raises(grpc.RpcError) as caught:
            client.read(entity)
        assert batch_errors(caught.value)[0][0] == code.UNIMPLEMENTED


def test_entries_treat_the_cpu_port_like_any_other(client: Client) -> None:
    client.insert(route(b"\x0a\x00\x00\x00", 8, call=action("ingress.forward", port=CPU_PORT.to_bytes(2, "big"))))
    assert client.read_entries(ROUTES)[0].action.action.params[0].value == b"\x01\xfe"
