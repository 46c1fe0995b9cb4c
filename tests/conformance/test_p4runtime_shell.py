"""The server controlled by an unmodified p4runtime-shell."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import grpc
import pytest

from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch
from tests.support.p4runtime import CPU_PORT, DEVICE_ID, JSON, P4INFO, ethernet, running_server

sh = pytest.importorskip("p4runtime_sh.shell", reason="p4runtime-shell (extra `shell`) is not installed")
P4RuntimeWriteException = sys.modules["p4runtime_sh.p4runtime"].P4RuntimeWriteException


@pytest.fixture
def server() -> Iterator[P4RuntimeServer]:
    with running_server(with_program=False) as server:
        sh.setup(
            device_id=DEVICE_ID,
            grpc_addr=f"127.0.0.1:{server.port}",
            election_id=(0, 1),
            config=sh.FwdPipeConfig(str(P4INFO), str(JSON)),
        )
        try:
            yield server
        finally:
            sh.teardown()


@pytest.mark.usefixtures("server")
def test_tables_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    sh.P4Objects(sh.P4Type.table)()
    assert "ingress.routes" in capsys.readouterr().out.split()


@pytest.mark.usefixtures("server")
def test_entries_are_inserted_read_modified_and_deleted() -> None:
    route = sh.TableEntry("ingress.routes")(action="ingress.forward")
    route.match["destination"] = "10.0.0.0/8"
    route.action["port"] = "2"
    route.insert()
    read = list(sh.TableEntry("ingress.routes").read())
    assert [str(item) for item in read] == [str(route)]
    route.action["port"] = "3"
    route.modify()
    route.counter_data.packet_count = 0
    assert next(iter(route.read())).counter_data.packet_count == 0
    with pytest.raises(P4RuntimeWriteException, match="ALREADY_EXISTS"):
        route.insert()
    route.delete()
    assert list(sh.TableEntry("ingress.routes").read()) == []
    with pytest.raises(P4RuntimeWriteException, match="NOT_FOUND"):
        route.delete()


@pytest.mark.usefixtures("server")
def test_every_match_kind_is_written_and_read() -> None:
    item = sh.TableEntry("ingress.classes")(action="ingress.set_class_metered")
    item.match["source"] = "10.0.0.0&&&255.0.0.0"
    item.match["length"] = "64..1500"
    item.match["protocol"] = "6"
    item.match["port"] = "1"
    item.action["value"] = "5"
    item.priority = 10
    item.meter_config.cir = 1
    item.meter_config.cburst = 2
    item.meter_config.pir = 3
    item.meter_config.pburst = 4
    item.insert()
    (read,) = list(item.read())
    assert str(read) == str(item)


@pytest.mark.usefixtures("server")
def test_action_profiles_have_members_groups_and_one_shots() -> None:
    for number in (1, 2):
        member = sh.ActionProfileMember("ingress.hops")(member_id=number, action="ingress.set_hop")
        member.action["port"] = str(number)
        member.action["destination"] = "00:00:00:00:00:01"
        member.insert()
    group = sh.ActionProfileGroup("ingress.hops")(group_id=1)
    group.add(1, weight=2).add(2)
    group.insert()
    item = sh.TableEntry("ingress.balanced")
    item.match["destination"] = "10.0.0.1"
    item.group_id = 1
    item.insert()
    assert next(iter(item.read())).group_id == 1
    item.delete()
    group.delete()
    for number in (1, 2):
        sh.ActionProfileMember("ingress.hops")(member_id=number).delete()
    one_shot = sh.TableEntry("ingress.balanced")
    one_shot.match["destination"] = "10.0.0.1"
    call = sh.Action("ingress.set_hop")
    call["port"] = "1"
    call["destination"] = "00:00:00:00:00:01"
    one_shot.oneshot.add(call, weight=2)
    one_shot.insert()
    assert str(next(iter(one_shot.read()))) == str(one_shot)


@pytest.mark.usefixtures("server")
def test_counters_and_meters_are_served_and_registers_are_not() -> None:
    cell = sh.CounterEntry("ingress.port_counter")(index=3)
    cell.packet_count = 9
    cell.modify()
    assert [item.packet_count for item in sh.CounterEntry("ingress.port_counter").read()][3] == 9
    meter = sh.MeterEntry("ingress.port_meter")(index=0, cir=1, cburst=1, pir=2, pburst=2)
    meter.modify()
    assert next(iter(meter.read())).pir == 2
    register = sh.p4runtime_pb2.Entity()
    register.register_entry.register_id = 1
    with pytest.raises(grpc.RpcError, match="registers"):
        list(sh.client.read_one(register))


def leaves(switch: Switch, port: int) -> bytes:
    """The next frame at a port, which takes a while after a message on the stream."""
    for _ in range(500):
        sent = switch.transmit(port, 0)
        if sent is not None:
            return sent[0]
        time.sleep(0.01)
    raise AssertionError(f"nothing left port {port}")


def test_packets_and_digests_are_exchanged(server: P4RuntimeServer) -> None:
    switch = server.device.switch
    out = sh.PacketOut(ethernet(), egress_port="1", padding="0")
    out.send()
    assert leaves(switch, 1) == ethernet()
    digest = sh.DigestEntry("learn_t")
    digest.ack_timeout_ns = 10
    digest.max_list_size = 1
    digest.insert()
    switch.receive(1, ethernet(source=0xAB, ether_type=0x88CC), 0)
    arrived = sh.client.get_stream_packet("packet", timeout=60)
    assert arrived.packet.payload == ethernet(source=0xAB, ether_type=0x88CC)
    learned = sh.client.get_stream_packet("digest", timeout=60)
    assert learned.digest.data[0].struct.members[0].bitstring == b"\xab"


@pytest.mark.usefixtures("server")
def test_multicast_groups_and_clone_sessions_are_written_and_read() -> None:
    group = sh.MulticastGroupEntry(3)
    group.add(1, 5).add(2, 6)
    group.insert()
    session = sh.CloneSessionEntry(4)
    session.add(CPU_PORT, 1)
    session.cos = 2
    session.packet_length_bytes = 64
    session.insert()
    assert [str(item) for item in sh.MulticastGroupEntry().read()] == [str(group)]
    assert [str(item) for item in sh.CloneSessionEntry().read()] == [str(session)]
    with pytest.raises(P4RuntimeWriteException, match="ALREADY_EXISTS"):
        group.insert()
    group.delete()
    session.delete()
    assert list(sh.MulticastGroupEntry().read()) == []


@pytest.mark.usefixtures("server")
def test_idle_timeouts_are_notified() -> None:
    known = sh.TableEntry("ingress.known_sources")(action="NoAction")
    known.match["source"] = "00:00:00:00:00:09"
    known.idle_timeout_ns = 20_000_000
    notifications = sh.IdleTimeoutNotification()
    known.insert()
    notification = notifications.notification_queue.get(timeout=60)
    (idle,) = notification.idle_timeout_notification.table_entry
    assert idle.match[0].exact.value == b"\x09"
    known.time_since_last_hit.elapsed_ns = 0
    (read,) = list(known.read())
    assert read.time_since_last_hit.elapsed_ns >= 20_000_000


@pytest.mark.usefixtures("server")
def test_the_api_version_is_reported() -> None:
    assert sh.APIVersion() == "1.4.0"
