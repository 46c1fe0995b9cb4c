"""Idle timeouts over P4Runtime, in virtual and in real time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import code_pb2 as code
from p4.v1 import p4runtime_pb2

from soft_switch.backend import backend_of_environment
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.sim.events import VirtualClock
from soft_switch.switch import Switch
from tests.support.p4runtime import (
    DELETE,
    DEVICE_ID,
    IDS,
    INSERT,
    MODIFY,
    Client,
    SetConfig,
    action,
    batch_errors,
    entry,
    error_of,
    ethernet,
    exact,
    features_config,
)

KNOWN, ROUTES = "ingress.known_sources", "ingress.routes"
MS = 1_000_000


def known(number: int, timeout_ms: float = 0, **fields: object) -> p4runtime_pb2.Entity:
    return entry(
        KNOWN,
        exact(KNOWN, "source", bytes([number])),
        call=action("NoAction"),
        idle_timeout_ns=int(timeout_ms * MS),
        **fields,
    )


class Setup:
    """A switch in virtual time, with a client that is primary."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.switch = Switch()
        self.server = P4RuntimeServer(
            self.switch, device_id=DEVICE_ID, virtual_clock=self.clock, backend=backend_of_environment()
        )
        self.server.start()
        self.client = Client(self.server.port).primary()
        self.client.set_config(SetConfig.VERIFY_AND_COMMIT, features_config())

    def packet(self, number: int) -> None:
        self.switch.receive(0, ethernet(number), self.clock.now_ns)

    def run_to(self, ms: int) -> list[tuple[float, list[bytes]]]:
        """Run the clock; return (time in ms, sources) of each notification."""
        self.clock.run(until_ns=ms * MS)
        found = []
        # The stream is in order, so everything comes before the answer to this.
        self.client.arbitrate()
        while (response := self.client.receive()).WhichOneof("update") != "arbitration":
            notification = response.idle_timeout_notification
            sources = [item.match[0].exact.value for item in notification.table_entry]
            found.append((notification.timestamp / MS, sources))
        return found


@pytest.fixture
def virtual() -> Iterator[Setup]:
    setup = Setup()
    try:
        yield setup
    finally:
        setup.client.close()
        setup.server.stop()


def test_an_idle_entry_is_notified_repeatedly(virtual: Setup) -> None:
    virtual.run_to(5)
    virtual.client.insert(known(1, 100, metadata=b"mine", controller_metadata=9), known(2, 40), known(3))
    assert virtual.run_to(130) == [(45, [b"\x02"]), (85, [b"\x02"]), (105, [b"\x01"]), (125, [b"\x02"])]
    virtual.client.delete(known(2))
    virtual.clock.run(until_ns=205 * MS)
    notification = virtual.client.receive().idle_timeout_notification
    (item,) = notification.table_entry
    expected = known(1, 100, metadata=b"mine", controller_metadata=9).table_entry
    assert item == expected
    assert notification.timestamp == 205 * MS


def test_hits_postpone_the_timeout(virtual: Setup) -> None:
    virtual.client.insert(known(1, 100), known(2, 100))
    for ms in (30, 60, 90, 120):
        assert virtual.run_to(ms) == ([(100, [b"\x02"])] if ms == 120 else [])
        virtual.packet(1)
    assert virtual.run_to(219) == [(200, [b"\x02"])]
    assert virtual.run_to(220) == [(220, [b"\x01"])]


def test_time_since_the_last_hit_is_read_on_request(virtual: Setup) -> None:
    virtual.run_to(10)
    virtual.client.insert(known(1, 1000), known(2))
    virtual.run_to(30)
    virtual.packet(2)
    virtual.run_to(60)
    asked = p4runtime_pb2.TableEntry.IdleTimeout()
    found = virtual.client.read_entries(KNOWN, time_since_last_hit=asked)
    assert [(e.idle_timeout_ns // MS, e.time_since_last_hit.elapsed_ns // MS) for e in found] == [(1000, 50), (0, 30)]
    assert not any(e.HasField("time_since_last_hit") for e in virtual.client.read_entries(KNOWN))
    everywhere = p4runtime_pb2.Entity(table_entry=p4runtime_pb2.TableEntry(time_since_last_hit=asked))
    ages = {
        e.table_entry.table_id: e.table_entry.HasField("time_since_last_hit") for e in virtual.client.read(everywhere)
    }
    assert ages == {IDS.of[KNOWN]: True, IDS.of["ingress.fixed_ports"]: False}


def test_a_timeout_can_be_changed_and_removed(virtual: Setup) -> None:
    virtual.client.insert(known(1, 1000), known(2, 50))
    virtual.run_to(10)
    virtual.client.modify(known(1, 30), known(2))
    assert virtual.run_to(55) == [(30, [b"\x01"])]
    assert [e.idle_timeout_ns for e in virtual.client.read_entries(KNOWN)] == [30 * MS, 0]


def test_a_batch_that_is_undone_leaves_the_timeouts(virtual: Setup) -> None:
    virtual.client.insert(known(1, 50))
    with pytest.raises(grpc.RpcError) as caught:
        virtual.client.write(
            (DELETE, known(1)),
            (INSERT, known(1)),
            (INSERT, known(2, 20)),
            (DELETE, known(9)),
            atomicity=p4runtime_pb2.WriteRequest.ROLLBACK_ON_ERROR,
        )
    assert batch_errors(caught.value)[3][0] == code.NOT_FOUND
    assert virtual.run_to(60) == [(50, [b"\x01"])]


@pytest.mark.parametrize(
    ("entity", "named"),
    [
        (known(1, -1), "idle_timeout_ns"),
        (known(1, time_since_last_hit=p4runtime_pb2.TableEntry.IdleTimeout()), "time_since_last_hit"),
    ],
)
def test_invalid_timeouts_are_refused(virtual: Setup, entity: p4runtime_pb2.Entity, named: str) -> None:
    for kind in (INSERT, MODIFY):
        if kind == MODIFY:
            virtual.client.insert(known(1))
        found, message = error_of(virtual.client, kind, entity)
        assert (found, named in message) == (code.INVALID_ARGUMENT, True)


def test_a_timeout_only_in_the_p4info_is_refused(virtual: Setup) -> None:
    config = features_config()
    table = next(table for table in config.p4info.tables if table.preamble.name == ROUTES)
    table.idle_timeout_behavior = table.NOTIFY_CONTROL
    with pytest.raises(grpc.RpcError, match="idle timeout"):
        virtual.client.set_config(SetConfig.VERIFY, config)


def test_digests_wait_in_virtual_time(virtual: Setup) -> None:
    digest = p4runtime_pb2.Entity()
    digest.digest_entry.digest_id = IDS.of["learn_t"]
    digest.digest_entry.config.max_list_size = 3
    digest.digest_entry.config.max_timeout_ns = 50 * MS
    virtual.client.insert(digest)
    virtual.run_to(10)
    virtual.packet(1)
    virtual.clock.run(until_ns=30 * MS)
    virtual.packet(2)
    virtual.clock.run(until_ns=100 * MS)
    message = virtual.client.receive().digest
    assert (len(message.data), message.timestamp) == (2, 60 * MS)


def test_idle_timeouts_in_real_time() -> None:
    server = P4RuntimeServer(Switch(), device_id=DEVICE_ID, backend=backend_of_environment())
    server.start()
    client = Client(server.port).primary()
    try:
        client.set_config(SetConfig.VERIFY_AND_COMMIT, features_config())
        began = time.monotonic_ns()
        before = time.time_ns()
        client.insert(known(1, 50), known(2, 3_600_000))
        notification = client.receive(timeout=30).idle_timeout_notification
        assert [item.match[0].exact.value for item in notification.table_entry] == [b"\x01"]
        assert time.monotonic_ns() - began >= 50 * MS
        assert before < notification.timestamp <= time.time_ns()
        assert client.receive(timeout=30).idle_timeout_notification.table_entry
    finally:
        client.close()
        server.stop()
