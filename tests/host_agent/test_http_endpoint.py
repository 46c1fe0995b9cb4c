"""The HTTP server of policy, metrics and health: TLS on both sides, new certificates, addresses, slow handshakes."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from host_agent import http_endpoint
from host_agent.ebpf.errors import PolicyError
from host_agent.ebpf.policy import ClientTls, PolicySource
from host_agent.http_endpoint import EndpointError, HttpEndpoint, Reply, ServerTls, health_routes
from host_agent.protocol.policy_document import PolicyDocument
from mfs_ctrl import policies
from mfs_ctrl.policy_server import PolicyServer
from tests.support.certificates import self_signed
from tests.support.controller import eventually


def body(url: str, context: ssl.SSLContext | None = None) -> str:
    with urllib.request.urlopen(url, timeout=5, context=context) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize("address", ["0", ":0"])
def test_a_port_alone_is_of_the_loopback_interface(address: str) -> None:
    with HttpEndpoint(address, {"/": lambda _: Reply("here")}) as endpoint:
        assert endpoint.url.startswith("http://127.0.0.1:")
        assert body(f"{endpoint.url}/?query") == "here"


def test_health_tells_whether_the_process_answers_and_whether_it_works() -> None:
    why = "no policy yet"
    with HttpEndpoint("0", health_routes(lambda: why)) as endpoint:
        assert body(f"{endpoint.url}/healthz") == "ok\n"
        with pytest.raises(urllib.error.HTTPError) as refused:
            body(f"{endpoint.url}/readyz")
        assert (refused.value.code, refused.value.read()) == (503, b"no policy yet\n")
        refused.value.close()
        why = ""
        assert body(f"{endpoint.url}/readyz") == "ok\n"


def test_an_agent_believes_only_a_controller_whose_certificate_it_knows(tmp_path: Path) -> None:
    self_signed(tmp_path, "controller", "stranger")
    tls = ServerTls(tmp_path / "controller.pem", tmp_path / "controller.key")
    with PolicyServer("127.0.0.1:0", tls) as server:
        server.publish(policies.mfs(), {})
        assert server.url.startswith("https://")
        trusting = PolicySource(server.url, tls=ClientTls(tmp_path / "controller.pem"))
        assert trusting.fetch() == PolicyDocument("mfs", policies.mfs().rules)
        for url, known in ((server.url, "stranger"), (server.url, None)):
            source = PolicySource(url, tls=ClientTls(tmp_path / f"{known}.pem") if known else None)
            with pytest.raises(PolicyError, match="CERTIFICATE_VERIFY_FAILED"):
                source.fetch()
        with pytest.raises(PolicyError, match="cannot be reached"):
            PolicySource(server.url.replace("https", "http")).fetch()


def test_a_controller_that_requires_client_certificates_refuses_others(tmp_path: Path) -> None:
    self_signed(tmp_path, "controller", "agent")
    certificate, key = tmp_path / "controller.pem", tmp_path / "controller.key"
    with PolicyServer("127.0.0.1:0", ServerTls(certificate, key, tmp_path / "agent.pem")) as server:
        server.publish(policies.mfs(), {})
        with pytest.raises(PolicyError, match="cannot be reached"):
            PolicySource(server.url, tls=ClientTls(certificate)).fetch()
        own = ClientTls(certificate, tmp_path / "agent.pem", tmp_path / "agent.key")
        assert PolicySource(server.url, tls=own).fetch() is not None


def test_a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not(tmp_path: Path) -> None:
    self_signed(tmp_path, "controller", "renewed")
    certificate, key = tmp_path / "controller.pem", tmp_path / "controller.key"

    def trusts(name: str) -> bool:
        try:
            body(f"{server.url}/", ssl.create_default_context(cafile=tmp_path / f"{name}.pem"))
        except (urllib.error.URLError, OSError):
            return False
        return True

    shutil.copy(certificate, tmp_path / "former.pem")
    with HttpEndpoint("127.0.0.1:0", {"/": lambda _: Reply("here")}, ServerTls(certificate, key)) as server:
        assert trusts("former")
        certificate.write_text("not a certificate")
        time.sleep(1.2)
        assert trusts("former")
        os.replace(tmp_path / "renewed.key", key)
        shutil.copy(tmp_path / "renewed.pem", certificate)
        eventually(lambda: trusts("renewed"))
        assert not trusts("former")


def test_new_certificates_and_authorities_are_used_without_a_restart_of_either_side(tmp_path: Path) -> None:
    self_signed(tmp_path, "controller", "agent", "controller-2", "agent-2")

    def renew(name: str) -> None:
        for kind in ("key", "pem"):
            os.replace(tmp_path / f"{name}-2.{kind}", tmp_path / f"{name}.{kind}")

    def answers(source: PolicySource) -> bool:
        with contextlib.suppress(PolicyError):
            source.fetch()
            return True
        return False

    files = [tmp_path / name for name in ("controller.pem", "controller.key", "agent.pem", "agent.key")]
    for kind in ("pem", "key"):
        shutil.copy(tmp_path / f"agent.{kind}", tmp_path / f"former.{kind}")
    with PolicyServer("127.0.0.1:0", ServerTls(*files[:3])) as server:
        server.publish(policies.mfs(), {})
        agent = PolicySource(server.url, tls=ClientTls(files[0], *files[2:]))
        assert answers(agent)
        renew("agent")
        # The agent shows its new certificate at once, and the controller trusts it once it has read it.
        eventually(lambda: answers(agent))
        former = ClientTls(files[0], tmp_path / "former.pem", tmp_path / "former.key")
        assert not answers(PolicySource(server.url, tls=former))
        renew("controller")
        eventually(lambda: answers(agent) and server_certificate(server.url) == files[0].read_text())
        files[3].write_text("not a key")
        assert answers(agent)


def server_certificate(url: str) -> str:
    """The certificate that is shown at ``url``."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def test_clients_that_never_shake_hands_are_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_endpoint, "CONNECTION_S", 0.2)
    self_signed(tmp_path, "controller")
    tls = ServerTls(tmp_path / "controller.pem", tmp_path / "controller.key")
    trusted = ssl.create_default_context(cafile=tls.certificate)

    def answers(url: str) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            return body(f"{url}/", trusted) == "here"
        return False

    with HttpEndpoint("127.0.0.1:0", {"/": lambda _: Reply("here")}, tls) as server, contextlib.ExitStack() as clients:
        address = "127.0.0.1", int(server.url.rpartition(":")[2])
        silent = [clients.enter_context(socket.create_connection(address)) for _ in range(http_endpoint.CONNECTIONS)]
        eventually(lambda: answers(server.url))
        silent[0].settimeout(5)
        with contextlib.suppress(ConnectionError):
            assert silent[0].recv(1) == b""


def test_thousands_of_silent_clients_turn_no_other_away() -> None:
    count = int(os.environ.get("MFS_SILENT_CLIENTS", "2000"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 2 * http_endpoint.CONNECTIONS + 500
    if needed > hard:
        pytest.skip(f"{count} connections need {needed} open files, and only {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        with HttpEndpoint("127.0.0.1:0", {"/": lambda _: Reply("here")}) as server, contextlib.ExitStack() as clients:
            address = "127.0.0.1", int(server.url.rpartition(":")[2])
            for number in range(count):
                clients.enter_context(socket.create_connection(address, timeout=10))
                if number % 100 == 99:
                    assert body(f"{server.url}/") == "here", f"beside {number + 1} silent clients"
            eventually(lambda: threading.active_count() < 1.5 * http_endpoint.CONNECTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_unusable_files_and_addresses_are_named(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=r"nowhere.*HOST:PORT"):
        HttpEndpoint("nowhere", {})
    with pytest.raises(EndpointError, match=r"missing\.pem"):
        HttpEndpoint("0", {}, ServerTls(tmp_path / "missing.pem", tmp_path / "missing.key"))
    with pytest.raises(PolicyError, match=r"missing\.pem"):
        PolicySource("https://127.0.0.1:1", tls=ClientTls(tmp_path / "missing.pem"))
    with pytest.raises(PolicyError, match="does not start with https://"):
        PolicySource("http://127.0.0.1:1", tls=ClientTls(tmp_path / "missing.pem"))
