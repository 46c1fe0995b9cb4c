"""Action profile members, groups and one-shot action sets over gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import code_pb2 as code
from p4.v1 import p4runtime_pb2

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
    exact,
    ipv4,
)

HOPS = "ingress.hops"
REWRITES = "ingress.rewrites"
BALANCED = "ingress.balanced"
REWRITTEN = "ingress.rewritten"


@pytest.fixture
def pair() -> Iterator[tuple[P4RuntimeServer, Client]]:
    with connected() as pair:
        yield pair


@pytest.fixture
def client(pair: tuple[P4RuntimeServer, Client]) -> Client:
    return pair[1]


def hop(port: int) -> p4runtime_pb2.Action:
    return action("ingress.set_hop", port=bytes((port,)), destination=b"\x02\x00\x00\x00\x00" + bytes((port,)))


def member(number: int, call: p4runtime_pb2.Action | None, profile: str = HOPS) -> p4runtime_pb2.Entity:
    entity = p4runtime_pb2.Entity()
    entity.action_profile_member.action_profile_id = IDS.of[profile]
    entity.action_profile_member.member_id = number
    if call is not None:
        entity.action_profile_member.action.CopyFrom(call)
    return entity


def group(number: int, *members: tuple[int, int], max_size: int = 0, profile: str = HOPS) -> p4runtime_pb2.Entity:
    entity = p4runtime_pb2.Entity()
    message = entity.action_profile_group
    message.action_profile_id = IDS.of[profile]
    message.group_id = number
    message.max_size = max_size
    for member_id, weight in members:
        message.members.add(member_id=member_id, weight=weight)
    return entity


def pointing(destination: int, table: str = BALANCED, **target: object) -> p4runtime_pb2.Entity:
    key = "destination" if table == BALANCED else "port"
    entity = entry(table, exact(table, key, destination.to_bytes(4, "big").lstrip(b"\0")))
    entity.table_entry.action.CopyFrom(p4runtime_pb2.TableAction(**target))
    return entity


def action_set(*hops: tuple[p4runtime_pb2.Action, int]) -> p4runtime_pb2.ActionProfileActionSet:
    message = p4runtime_pb2.ActionProfileActionSet()
    for call, weight in hops:
        message.action_profile_actions.add(action=call, weight=weight)
    return message


def error_of(client: Client, kind: int, entity: p4runtime_pb2.Entity) -> int:
    with pytest.raises(grpc.RpcError) as caught:
        client.write((kind, entity))
    found, message = batch_errors(caught.value)[0]
    assert message
    return found


def read_all(client: Client) -> tuple[int, int]:
    """The number of members and groups that a client sees."""
    members = client.read(p4runtime_pb2.Entity(action_profile_member=p4runtime_pb2.ActionProfileMember()))
    groups = client.read(p4runtime_pb2.Entity(action_profile_group=p4runtime_pb2.ActionProfileGroup()))
    return len(members), len(groups)


def test_members_and_groups_are_read_back(client: Client) -> None:
    client.insert(member(1, hop(1)), member(2, hop(2)))
    client.insert(group(9, (1, 1), (2, 3), max_size=6), group(10))
    client.insert(member(1, action("ingress.rewrite", source=b"\x05"), REWRITES))
    client.insert(pointing(0x0A000001, action_profile_group_id=9), pointing(0x0A000002, action_profile_member_id=2))
    assert client.read(member(2, None)) == [member(2, hop(2))]
    assert client.read(group(9)) == [group(9, (1, 1), (2, 3), max_size=6)]
    assert len(client.read(member(0, None))) == 2
    assert read_all(client) == (3, 2)
    targets = [e.action for e in client.read_entries(BALANCED)]
    assert targets == [
        p4runtime_pb2.TableAction(action_profile_group_id=9),
        p4runtime_pb2.TableAction(action_profile_member_id=2),
    ]


def test_modifying_a_member_changes_where_packets_go(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    switch = server.device.switch
    client.insert(member(1, hop(1)))
    client.insert(group(1, (1, 1)))
    client.insert(pointing(0x0A000001, action_profile_group_id=1))
    switch.receive(0, ipv4(1, 0x0A000001), 0)
    assert switch.transmit(1, 0)[0][:6] == bytes.fromhex("020000000001")
    client.modify(member(1, hop(3)))
    switch.receive(0, ipv4(1, 0x0A000001), 0)
    assert switch.transmit(3, 0)[0][:6] == bytes.fromhex("020000000003")
    client.modify(member(1, action("ingress.drop")))
    switch.receive(0, ipv4(1, 0x0A000001), 0)
    assert switch.transmit(3, 0) is None


def test_weights_divide_the_flows(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    switch = server.device.switch
    client.insert(pointing(0x0A000001, action_profile_action_set=action_set((hop(1), 1), (hop(2), 3))))
    for source in range(400):
        switch.receive(0, ipv4(source * 7919, 0x0A000001), 0)
    sent = {1: 0, 2: 0}
    for port in sent:
        while switch.transmit(port, 0) is not None:
            sent[port] += 1
    assert sum(sent.values()) > 100
    assert 1.5 < sent[2] / sent[1] < 6


def test_members_and_groups_in_use_cannot_be_deleted(client: Client) -> None:
    client.insert(member(1, hop(1)), member(2, hop(2)))
    client.insert(group(1, (1, 1)))
    client.insert(pointing(0x0A000001, action_profile_group_id=1), pointing(0x0A000002, action_profile_member_id=2))
    assert error_of(client, DELETE, member(1, None)) == code.FAILED_PRECONDITION
    assert error_of(client, DELETE, member(2, None)) == code.FAILED_PRECONDITION
    assert error_of(client, DELETE, group(1)) == code.FAILED_PRECONDITION
    client.delete(pointing(0x0A000001), pointing(0x0A000002))
    client.delete(group(1))
    client.delete(member(1, None), member(2, None))
    assert read_all(client) == (0, 0)


def test_invalid_profile_writes_are_refused(client: Client) -> None:
    client.insert(member(1, hop(1)), member(2, hop(2)))
    client.insert(group(1, (1, 1), max_size=4))
    balanced_action = pointing(0x0A000001, action=hop(1))
    for kind, entity, expected in (
        (INSERT, member(1, hop(1)), code.ALREADY_EXISTS),
        (INSERT, member(0, hop(1)), code.INVALID_ARGUMENT),
        (INSERT, member(3, None), code.INVALID_ARGUMENT),
        (INSERT, member(3, action("ingress.forward", port=b"\x01")), code.INVALID_ARGUMENT),
        (MODIFY, member(3, hop(1)), code.NOT_FOUND),
        (DELETE, member(3, None), code.NOT_FOUND),
        (INSERT, group(1), code.ALREADY_EXISTS),
        (INSERT, group(0), code.INVALID_ARGUMENT),
        (INSERT, group(2, (3, 1)), code.NOT_FOUND),
        (INSERT, group(2, (1, 0)), code.INVALID_ARGUMENT),
        (INSERT, group(2, (1, 1), (1, 1)), code.INVALID_ARGUMENT),
        (INSERT, group(2, (1, 9)), code.RESOURCE_EXHAUSTED),
        (INSERT, group(2, max_size=9), code.INVALID_ARGUMENT),
        (INSERT, group(1, profile=REWRITES), code.INVALID_ARGUMENT),
        (MODIFY, group(2), code.NOT_FOUND),
        (MODIFY, group(1, (1, 1), max_size=5), code.INVALID_ARGUMENT),
        (MODIFY, group(1, (1, 3), (2, 2), max_size=4), code.RESOURCE_EXHAUSTED),
        (DELETE, group(2), code.NOT_FOUND),
        (INSERT, pointing(1, action_profile_group_id=7), code.NOT_FOUND),
        (INSERT, pointing(1, action_profile_member_id=7), code.NOT_FOUND),
        (INSERT, pointing(1, REWRITTEN, action_profile_group_id=1), code.INVALID_ARGUMENT),
        (INSERT, balanced_action, code.INVALID_ARGUMENT),
    ):
        assert error_of(client, kind, entity) == expected, entity
    assert read_all(client) == (2, 1)
    assert client.read(group(1)) == [group(1, (1, 1), max_size=4)]


def test_a_full_profile_refuses_members(client: Client) -> None:
    client.insert(*(member(number, hop(1)) for number in range(1, 17)))
    assert error_of(client, INSERT, member(17, hop(1))) == code.RESOURCE_EXHAUSTED


def test_watch_ports_are_refused(client: Client) -> None:
    client.insert(member(1, hop(1)))
    watched = group(1, (1, 1))
    watched.action_profile_group.members[0].watch_port = b"\x01"
    assert error_of(client, INSERT, watched) == code.UNIMPLEMENTED


def test_a_one_shot_is_read_back_as_written_and_shows_no_members(client: Client) -> None:
    # The same action given twice stays so.
    written = pointing(0x0A000001, action_profile_action_set=action_set((hop(1), 2), (hop(2), 1), (hop(1), 1)))
    client.insert(written)
    assert client.read_entries(BALANCED)[0] == written.table_entry
    assert read_all(client) == (0, 0)
    client.delete(written)
    client.insert(member(1, hop(1)))  # The profile is free for the other style again.


def test_a_one_shot_is_modified_in_place_and_frees_its_members(pair: tuple[P4RuntimeServer, Client]) -> None:
    server, client = pair
    switch = server.device.switch
    for round_number in range(5):
        for size in (8, 1, 5):
            actions = action_set(*((hop(1 + (round_number + size) % 3), 1) for _ in range(size)))
            written = pointing(0x0A000001, action_profile_action_set=actions)
            client.write((MODIFY if client.read_entries(BALANCED) else INSERT, written))
            assert client.read_entries(BALANCED) == [written.table_entry]
            switch.receive(0, ipv4(1, 0x0A000001), 0)
            assert switch.transmit(1 + (round_number + size) % 3, 0) is not None
    client.insert(pointing(2, action_profile_action_set=action_set(*((hop(1), 1) for _ in range(8)))))
    client.insert(pointing(3, action_profile_action_set=action_set(*((hop(1), 1) for _ in range(3)))))
    full = pointing(4, action_profile_action_set=action_set((hop(1), 1)))
    assert error_of(client, INSERT, full) == code.RESOURCE_EXHAUSTED
    client.delete(pointing(3))
    client.insert(full)


def test_one_shot_errors_leave_nothing_behind(client: Client) -> None:
    target = 0x0A000001
    for actions, expected in (
        (action_set((hop(1), 0)), code.INVALID_ARGUMENT),
        (action_set((hop(1), 5), (hop(2), 4)), code.INVALID_ARGUMENT),
        (action_set((action("ingress.forward", port=b"\x01"), 1)), code.INVALID_ARGUMENT),
    ):
        assert error_of(client, INSERT, pointing(target, action_profile_action_set=actions)) == expected
    rewrites = pointing(1, REWRITTEN, action_profile_action_set=action_set())
    assert error_of(client, INSERT, rewrites) == code.INVALID_ARGUMENT
    client.insert(member(1, hop(1)))
    client.delete(member(1, None))


def test_the_two_styles_do_not_mix(client: Client) -> None:
    one_shot = pointing(1, action_profile_action_set=action_set((hop(1), 1)))
    client.insert(member(1, hop(1)))
    assert error_of(client, INSERT, one_shot) == code.INVALID_ARGUMENT
    client.delete(member(1, None))
    client.insert(one_shot)
    assert error_of(client, INSERT, member(1, hop(1))) == code.INVALID_ARGUMENT
    assert error_of(client, INSERT, pointing(2, action_profile_member_id=1)) == code.INVALID_ARGUMENT
    assert error_of(client, MODIFY, pointing(1, action_profile_member_id=1)) == code.INVALID_ARGUMENT
    client.delete(one_shot)
    client.insert(member(1, hop(1)))
    client.insert(pointing(1, action_profile_member_id=1))
    assert error_of(client, MODIFY, one_shot) == code.INVALID_ARGUMENT
    assert client.read_entries(BALANCED)[0].action.action_profile_member_id == 1


def test_an_entry_moves_from_a_member_to_a_group(client: Client) -> None:
    client.insert(member(1, hop(1)))
    client.insert(group(1, (1, 1)))
    client.insert(pointing(1, action_profile_member_id=1))
    client.modify(pointing(1, action_profile_group_id=1))
    assert client.read_entries(BALANCED)[0].action.action_profile_group_id == 1
    assert error_of(client, DELETE, group(1)) == code.FAILED_PRECONDITION
