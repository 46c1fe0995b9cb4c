"""P4Runtime sessions over gRPC: arbitration, takeover, permission to write, capabilities, TLS, addresses."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.server import TLS, P4RuntimeServer, ServerError, serve
from soft_switch.p4runtime.sessions import MAX_STREAMS
from soft_switch.switch import Switch
from tests.support.certificates import self_signed
from tests.support.p4runtime import DEVICE_ID, JSON, P4INFO, Client, action, entry, ethernet, exact, running_server

ROUTE = entry("ingress.known_sources", exact("ingress.known_sources", "source", b"\x01"), call=action("NoAction"))


@pytest.fixture
def server() -> Iterator[P4RuntimeServer]:
    with running_server() as server:
        yield server


def status_of(call: object, *args: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args)
    return caught.value.code(), caught.value.details()


def test_a_second_client_is_backup_and_takes_over_with_a_higher_id(server: P4RuntimeServer) -> None:
    first = Client(server.port).primary(10)
    second = Client(server.port).open()
    second.arbitrate(5)
    assert second.standing() == (code_pb2.ALREADY_EXISTS, 10)
    assert status_of(second.insert, ROUTE)[0] == grpc.StatusCode.PERMISSION_DENIED
    second.arbitrate(11)
    assert second.standing() == (code_pb2.OK, 11)
    assert first.standing() == (code_pb2.ALREADY_EXISTS, 11)
    second.insert(ROUTE)
    code, message = status_of(first.delete, ROUTE)
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert "10" in message


def test_a_backup_is_told_when_the_primary_disconnects_and_can_take_over(server: P4RuntimeServer) -> None:
    first = Client(server.port).primary(10)
    backup = Client(server.port).open()
    backup.arbitrate(5)
    assert backup.standing()[0] == code_pb2.ALREADY_EXISTS
    first.close()
    assert backup.standing() == (code_pb2.NOT_FOUND, 10)
    assert status_of(backup.insert, ROUTE)[0] == grpc.StatusCode.PERMISSION_DENIED
    backup.arbitrate(10)
    assert backup.standing() == (code_pb2.OK, 10)
    backup.insert(ROUTE)


def test_a_restarted_controller_returns_with_its_old_id(server: P4RuntimeServer) -> None:
    Client(server.port).primary(1).close()
    again = Client(server.port)
    for _ in range(50):  # The server notices the broken channel shortly after.
        again = Client(server.port).open()
        again.arbitrate(1)
        answer = again.inbox.get(timeout=60)
        if isinstance(answer, p4runtime_pb2.StreamMessageResponse):
            break
        time.sleep(0.05)
    again.insert(ROUTE)


def test_election_ids_have_128_bits(server: P4RuntimeServer) -> None:
    low = Client(server.port).primary((1 << 64) - 1)
    high = Client(server.port).open()
    high.arbitrate(1 << 64)
    assert high.standing() == (code_pb2.OK, 1 << 64)
    assert low.standing() == (code_pb2.ALREADY_EXISTS, 1 << 64)


def test_an_election_id_in_use_ends_the_stream(server: P4RuntimeServer) -> None:
    first = Client(server.port).primary(10)
    second = Client(server.port).open()
    second.arbitrate(10)
    assert second.ended_with() == grpc.StatusCode.INVALID_ARGUMENT
    first.insert(ROUTE)


def test_a_standby_without_election_id_never_becomes_primary(server: P4RuntimeServer) -> None:
    standby = Client(server.port, election_id=None).open()
    standby.arbitrate()
    assert standby.standing() == (code_pb2.NOT_FOUND, None)
    assert status_of(standby.insert, ROUTE)[0] == grpc.StatusCode.PERMISSION_DENIED
    zero = Client(server.port).open()
    zero.arbitrate(0)
    assert zero.standing() == (code_pb2.OK, 0)
    assert standby.standing() == (code_pb2.ALREADY_EXISTS, 0)


def test_an_unknown_device_is_not_found(server: P4RuntimeServer) -> None:
    client = Client(server.port).open()
    client.arbitrate(1, device_id=99)
    assert client.ended_with() == grpc.StatusCode.NOT_FOUND
    code, message = status_of(lambda: client.write(device_id=99))
    assert code == grpc.StatusCode.NOT_FOUND
    assert str(DEVICE_ID) in message
    read = p4runtime_pb2.ReadRequest(device_id=99)
    assert status_of(lambda: list(client.stub.Read(read)))[0] == grpc.StatusCode.NOT_FOUND


def test_a_stream_cannot_change_its_device_or_role(server: P4RuntimeServer) -> None:
    client = Client(server.port).primary(1)
    client.arbitrate(1, device_id=99)
    assert client.ended_with() == grpc.StatusCode.FAILED_PRECONDITION
    other = Client(server.port).primary(2)
    other.arbitrate(2, role="operator")
    assert other.ended_with() == grpc.StatusCode.FAILED_PRECONDITION


def test_writing_requires_a_session(server: P4RuntimeServer) -> None:
    stranger = Client(server.port, election_id=10)
    assert status_of(stranger.insert, ROUTE)[0] == grpc.StatusCode.PERMISSION_DENIED
    first, backup = Client(server.port).primary(10), Client(server.port).open()
    backup.arbitrate(5)
    assert backup.standing()[0] == code_pb2.ALREADY_EXISTS
    first.insert(ROUTE)
    first.close()
    assert backup.standing()[0] == code_pb2.NOT_FOUND
    # The election id of a disconnected primary is not accepted.
    assert status_of(stranger.delete, ROUTE)[0] == grpc.StatusCode.PERMISSION_DENIED
    assert len(backup.read_entries("ingress.known_sources")) == 1


def test_reading_requires_no_session(server: P4RuntimeServer) -> None:
    assert Client(server.port, election_id=None).read_entries("ingress.known_sources") == []


def test_too_many_streams_are_refused(server: P4RuntimeServer) -> None:
    channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
    clients = []
    for number in range(1, MAX_STREAMS + 1):
        client = Client(server.port, channel=channel).open()
        client.arbitrate(number)
        assert client.standing()[0] == code_pb2.OK
        clients.append(client)
    assert Client(server.port, channel=channel).open().ended_with() == grpc.StatusCode.RESOURCE_EXHAUSTED
    clients[-1].insert(ROUTE)  # Short calls are still served.
    channel.close()


def test_a_thousand_silent_connections_keep_no_client_waiting(server: P4RuntimeServer) -> None:
    with contextlib.ExitStack() as silent:
        for _ in range(1000):
            silent.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        client = Client(server.port).open()
        client.arbitrate(1)
        assert client.standing()[0] == code_pb2.OK
        client.insert(ROUTE)


def test_capabilities_name_the_version(server: P4RuntimeServer) -> None:
    reply = Client(server.port).stub.Capabilities(p4runtime_pb2.CapabilitiesRequest())
    assert reply.p4runtime_api_version == "1.4.0"


def test_an_address_in_use_is_refused_by_name(server: P4RuntimeServer) -> None:
    with pytest.raises(ServerError, match=re.escape(f"127.0.0.1:{server.port}")):
        P4RuntimeServer(Switch(), address=f"127.0.0.1:{server.port}")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", ":9559"])
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(ServerError, match="HOST:PORT"):
        P4RuntimeServer(Switch(), address=address)


def test_serve_logs_where_it_listens_and_loads_the_program(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "soft_switch"):
        server = serve(Switch(), device_config=JSON, p4info=P4INFO, address="127.0.0.1:0")
    try:
        assert f"127.0.0.1:{server.port}" in caplog.text
        client = Client(server.port)
        request = p4runtime_pb2.GetForwardingPipelineConfigRequest(device_id=1)
        assert client.stub.GetForwardingPipelineConfig(request).config.p4_device_config == JSON.read_bytes()
    finally:
        server.stop()


def test_serve_names_the_file_that_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"missing\.json"):
        serve(Switch(), device_config=tmp_path / "missing.json", p4info=P4INFO, address="127.0.0.1:0")
    with pytest.raises(ServerError, match="both files"):
        serve(Switch(), device_config=JSON, address="127.0.0.1:0")
    broken = tmp_path / "broken.txtpb"
    broken.write_text("tables {")
    with pytest.raises(ServerError, match="text format"):
        serve(Switch(), device_config=JSON, p4info=broken, address="127.0.0.1:0")
    with pytest.raises(ServerError, match="TLS key"):
        serve(Switch(), address="127.0.0.1:0", tls=TLS(P4INFO, tmp_path / "key.pem"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, and one for a client."""
    return self_signed(tmp_path_factory.mktemp("tls"), "server", "client")


@pytest.mark.parametrize("mutual", [False, True])
def test_clients_connect_with_tls(certificates: Path, mutual: bool) -> None:
    tls = TLS(certificates / "server.pem", certificates / "server.key", certificates / "client.pem" if mutual else None)
    server = P4RuntimeServer(Switch(), tls=tls)
    server.start()
    try:
        roots = (certificates / "server.pem").read_bytes()
        anonymous = grpc.ssl_channel_credentials(roots)
        known = grpc.ssl_channel_credentials(
            roots, (certificates / "client.key").read_bytes(), (certificates / "client.pem").read_bytes()
        )
        for credentials, welcome in ((known, True), (anonymous, not mutual)):
            channel = grpc.secure_channel(f"localhost:{server.port}", credentials)
            stub = Client(server.port, channel=channel).stub
            if welcome:
                assert stub.Capabilities(p4runtime_pb2.CapabilitiesRequest(), timeout=60).p4runtime_api_version
            else:
                with pytest.raises(grpc.RpcError):
                    stub.Capabilities(p4runtime_pb2.CapabilitiesRequest(), timeout=5)
            channel.close()
    finally:
        server.stop()


def test_reads_see_all_or_nothing_of_a_batch(server: P4RuntimeServer) -> None:
    client = Client(server.port).primary()
    table = "ingress.known_sources"
    batch = [entry(table, exact(table, "source", bytes((n,))), call=action("NoAction")) for n in range(8)]
    done = threading.Event()
    seen: set[int] = set()

    def keep_reading() -> None:
        reader = Client(server.port)
        while not done.is_set():
            seen.add(len(reader.read_entries(table)))
        reader.close()

    def keep_forwarding() -> None:
        while not done.is_set():
            server.device.switch.receive(0, ethernet(), 0)

    threads = [threading.Thread(target=work) for work in (keep_reading, keep_reading, keep_forwarding)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        client.insert(*batch)
        client.delete(*batch)
    done.set()
    for thread in threads:
        thread.join()
    assert seen <= {0, 8}
