"""Batches that are carried out completely or not at all: ROLLBACK_ON_ERROR and DATAPLANE_ATOMIC."""

from __future__ import annotations

import threading

import grpc
import pytest
from google.rpc import code_pb2 as code
from hypothesis import given, settings
from hypothesis import strategies as st
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import entities
from soft_switch.p4runtime.loaded_program import LoadedProgram, load_program
from tests.support.p4runtime import (
    DELETE,
    IDS,
    INSERT,
    MODIFY,
    action,
    batch_errors,
    connected,
    entry,
    ethernet,
    everything,
    exact,
    features_config,
    lpm,
    ternary,
)

ROLLBACK = p4runtime_pb2.WriteRequest.ROLLBACK_ON_ERROR
ATOMIC = p4runtime_pb2.WriteRequest.DATAPLANE_ATOMIC
KNOWN, ROUTES, CLASSES, BALANCED = (f"ingress.{name}" for name in ("known_sources", "routes", "classes", "balanced"))


def known(number: int) -> p4runtime_pb2.Entity:
    return entry(KNOWN, exact(KNOWN, "source", bytes([number])), call=action("NoAction"))


def some_updates() -> list[p4runtime_pb2.Entity]:
    """Entities of every kind, some of which depend on or conflict with others."""
    hop = action("ingress.set_hop", port=b"\x01", destination=b"\x02")
    found = [known(n) for n in (1, 2)]
    for port, packets in ((1, 5), (2, 6)):
        counts = p4runtime_pb2.CounterData(packet_count=packets)
        call = action("ingress.forward", port=bytes([port]))
        found.append(entry(ROUTES, lpm(ROUTES, "destination", b"\x0a\0\0\0", 8), call=call, counter_data=counts))
    meter = p4runtime_pb2.MeterConfig(cir=1, cburst=2, pir=3, pburst=4)
    call = action("ingress.set_class_metered", value=b"\x05")
    classes = (exact(CLASSES, "port", b"\x01"), ternary(CLASSES, "source", b"\x01", b"\xff"))
    found.append(entry(CLASSES, *classes, priority=3, call=call, meter_config=meter))
    found.append(entry(ROUTES, is_default_action=True, call=action("ingress.forward", port=b"\x03"), metadata=b"d"))
    for number in (1, 2):
        found.append(p4runtime_pb2.Entity())
        member = found[-1].action_profile_member
        member.action_profile_id, member.member_id = IDS.of["ingress.hops"], number
        member.action.CopyFrom(hop)
    found.append(p4runtime_pb2.Entity())
    group = found[-1].action_profile_group
    group.action_profile_id, group.group_id = IDS.of["ingress.hops"], 1
    group.members.add(member_id=1, weight=2)
    for kind in ("member", "group", "one shot"):
        balanced = entry(BALANCED, exact(BALANCED, "destination", b"\x0a"))
        if kind == "member":
            balanced.table_entry.action.action_profile_member_id = 1
        elif kind == "group":
            balanced.table_entry.action.action_profile_group_id = 1
        else:
            balanced.table_entry.action.action_profile_action_set.action_profile_actions.add(weight=1).action.CopyFrom(
                hop
            )
        found.append(balanced)
    for index in (0, 3, None):
        found += [p4runtime_pb2.Entity(), p4runtime_pb2.Entity()]
        found[-2].counter_entry.counter_id = IDS.of["ingress.port_counter"]
        found[-2].counter_entry.data.packet_count = 9
        found[-1].meter_entry.meter_id = IDS.of["ingress.port_meter"]
        found[-1].meter_entry.config.CopyFrom(meter)
        if index is not None:
            found[-2].counter_entry.index.index = found[-1].meter_entry.index.index = index
    found += [p4runtime_pb2.Entity() for _ in range(5)]
    found[-5].digest_entry.digest_id = IDS.of["learn_t"]
    found[-5].digest_entry.config.max_list_size = 4
    found[-4].packet_replication_engine_entry.multicast_group_entry.multicast_group_id = 1
    found[-3].packet_replication_engine_entry.clone_session_entry.session_id = 1
    found[-2].direct_counter_entry.table_entry.CopyFrom(found[2].table_entry)
    found[-2].direct_counter_entry.data.packet_count = 77
    found[-1].value_set_entry.value_set_id = 99  # Does not exist.
    return found


ENTITIES = some_updates()
UPDATES = st.lists(
    st.tuples(st.sampled_from((INSERT, INSERT, MODIFY, DELETE)), st.sampled_from(ENTITIES)).map(
        lambda pair: p4runtime_pb2.Update(type=pair[0], entity=pair[1])
    ),
    max_size=12,
)


def state(program: LoadedProgram) -> list[bytes]:
    responses, _ = entities.read_batch(program, everything(), "")
    return [item.SerializeToString(deterministic=True) for response in responses for item in response.entities]


CONFIG = features_config()


@settings(max_examples=60, deadline=None)
@given(UPDATES, UPDATES)
def test_a_batch_is_carried_out_completely_or_not_at_all(
    before: list[p4runtime_pb2.Update], batch: list[p4runtime_pb2.Update]
) -> None:
    lock = threading.RLock()
    program, step_by_step = load_program(CONFIG), load_program(CONFIG)
    for each in (program, step_by_step):
        entities.write_batch(each, before, lock, "")
    unchanged = state(program)
    results = entities.write_all_or_none(program, batch, lock, "")
    expected = [entities.write_batch(step_by_step, [update], lock, "")[0] for update in batch]
    if any(expected):
        assert state(program) == unchanged
        first = next(number for number, error in enumerate(expected) if error is not None)
        assert results[first] is not None
        assert results[first].code == expected[first].code
        assert all(error is not None and error.code == code.ABORTED for n, error in enumerate(results) if n != first)
        # The restored state is complete: the same updates have the same results.
        again = [entities.write_batch(program, [update], lock, "")[0] for update in batch]
        assert [error and error.code for error in again] == [error and error.code for error in expected]
    else:
        assert not any(results)
    assert state(program) == state(step_by_step)


@pytest.mark.parametrize("atomicity", [ROLLBACK, ATOMIC])
def test_the_client_learns_what_failed_and_that_the_rest_was_undone(atomicity: int) -> None:
    with connected() as (_, client):
        client.write((INSERT, known(1)), (INSERT, known(2)), atomicity=atomicity)
        with pytest.raises(grpc.RpcError) as caught:
            client.write((DELETE, known(1)), (INSERT, known(2)), (INSERT, known(3)), atomicity=atomicity)
        assert [found for found, _ in batch_errors(caught.value)] == [code.ABORTED, code.ALREADY_EXISTS, code.ABORTED]
        assert len(client.read_entries(KNOWN)) == 2


def test_an_unknown_atomicity_is_refused() -> None:
    with connected() as (_, client):
        with pytest.raises(grpc.RpcError) as caught:
            client.write((INSERT, known(1)), atomicity=77)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert client.read_entries(KNOWN) == []


def test_no_packet_sees_half_of_an_atomic_batch() -> None:
    """Of two sources either both or neither are known, so packets of both or neither are learned."""
    with connected() as (server, client):
        digests: list[tuple[int, ...]] = []
        pipeline = server.device.switch.pipeline
        pipeline.on_digest = lambda _name, values: digests.append(values)
        done = threading.Event()
        halves = []

        def keep_looking() -> None:
            while not done.is_set():
                digests.clear()
                # One lock for both packets, so that they see the same moment.
                with server.device.switch.lock:
                    for source in (1, 2):
                        server.device.switch.receive(0, ethernet(source), 0)
                    halves.append(len(digests) == 1)

        thread = threading.Thread(target=keep_looking)
        thread.start()
        for _ in range(100):
            client.write((INSERT, known(1)), (INSERT, known(2)), atomicity=ATOMIC)
            client.write((DELETE, known(1)), (DELETE, known(2)), atomicity=ATOMIC)
        done.set()
        thread.join()
        assert len(halves) > 10
        assert not any(halves)
