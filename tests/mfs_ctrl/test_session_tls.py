"""Sessions over TLS."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from host_agent.ebpf.errors import PolicyError
from host_agent.ebpf.policy import ClientTls, PolicySource
from mfs_ctrl.errors import SessionError, SwitchUnreachableError
from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.p4rt.session import Session
from soft_switch.p4runtime.server import TLS, P4RuntimeServer
from soft_switch.switch import Switch
from tests.support.certificates import self_signed
from tests.support.cli import finished, started
from topologies.processes import free_address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"), "server", "client")


def test_a_session_over_tls_with_certificates_on_both_sides(folder: Path) -> None:
    server = P4RuntimeServer(
        Switch(), tls=TLS(folder / "server.pem", folder / "server.key", client_ca=folder / "client.pem")
    )
    server.start()
    try:
        session = Session(
            server.address, tls=TlsFiles(folder / "server.pem", folder / "client.pem", folder / "client.key")
        )
        assert session.connect()
        session.close()
        for tls in (None, TlsFiles(folder / "client.pem"), TlsFiles(folder / "server.pem")):
            with pytest.raises(SwitchUnreachableError):
                Session(server.address, timeout_s=1.0, tls=tls).connect()
    finally:
        server.stop(0)


def test_new_certificates_of_a_switch_are_used_without_a_restart_and_broken_ones_are_not(tmp_path: Path) -> None:
    self_signed(tmp_path, "server", "renewed")
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"

    def trusts(name: str) -> bool:
        session = Session(server.address, timeout_s=2.0, tls=TlsFiles(tmp_path / f"{name}.pem"))
        try:
            return session.connect()
        except SwitchUnreachableError:
            return False
        finally:
            session.close()

    shutil.copy(certificate, tmp_path / "former.pem")
    server = P4RuntimeServer(Switch(), tls=TLS(certificate, key))
    server.start()
    try:
        assert trusts("former")
        certificate.write_text("not a certificate")
        assert trusts("former")
        os.replace(tmp_path / "renewed.key", key)
        assert trusts("former")
        shutil.copy(tmp_path / "renewed.pem", certificate)
        assert trusts("renewed")
        assert not trusts("former")
        certificate.unlink()
        assert trusts("renewed")
    finally:
        server.stop(0)


def test_a_tls_file_that_cannot_be_read_is_named(folder: Path) -> None:
    session = Session("127.0.0.1:1", tls=TlsFiles(folder / "missing.pem"))
    with pytest.raises(SessionError, match=r"cannot read the TLS file .*missing\.pem: No such file"):
        session.connect()


def test_mfs_ctrl_reaches_mfs_switch_over_tls_with_certificates_on_both_sides(folder: Path) -> None:
    address = free_address()
    served = ("--tls-cert", folder / "server.pem", "--tls-key", folder / "server.key")
    client = ("--tls-cert", folder / "client.pem", "--tls-key", folder / "client.key")
    small = ("--address", address, "--servers", "2", "--nics", "1")
    with started(
        "switch", "--address", address, *map(str, served), "--tls-client-ca", f"{folder}/client.pem"
    ) as switch:
        assert f"listens on {address} (TLS)" in switch.log_line()
        with started("ctrl", *small, "--tls-ca", f"{folder}/server.pem", *map(str, client)) as controller:
            assert f"connected to {address}: policy mfs in force" in controller.log_line()
        refused = finished("ctrl", *small, "--tls-ca", f"{folder}/server.pem")
        assert refused.returncode == 1
        assert address in refused.stderr


FABRIC = """
[fabric]
rate = "1G"
tls_ca = "server.pem"
tls_cert = "client.pem"
tls_key = "client.key"

[policy_server]
listen = "127.0.0.1:0"
tls_cert = "server.pem"
tls_key = "server.key"
tls_client_ca = "client.pem"

[[switch]]
name = "leaf"
address = "{address}"
mac = "02:00:00:00:00:fe"

[[host]]
switch = "leaf"
port = 1
mac = "02:00:00:00:00:01"
ipv4 = "10.1.0.1"
"""


def test_the_file_of_a_fabric_has_certificates_for_switches_and_for_agents(folder: Path) -> None:
    tls = TLS(folder / "server.pem", folder / "server.key", client_ca=folder / "client.pem")
    server = P4RuntimeServer(Switch(), tls=tls)
    server.start()
    try:
        path = folder / "fabric.toml"
        path.write_text(FABRIC.format(address=server.address))
        with started("ctrl", "--fabric", str(path)) as controller:
            url = controller.log_line().split()[-1].removesuffix("/policy")
            assert url.startswith("https://127.0.0.1:")
            assert f"leaf: connected to {server.address}: policy mfs in force" in controller.log_line()
            own = ClientTls(folder / "server.pem", folder / "client.pem", folder / "client.key")
            document = PolicySource(url, tls=own).fetch()
            assert document is not None
            assert document.name == "mfs"
            with pytest.raises(PolicyError, match="cannot be reached"):
                PolicySource(url, tls=ClientTls(folder / "server.pem")).fetch()
        # An option takes precedence.
        with started("ctrl", "--fabric", str(path), "--policy-listen", "0") as controller:
            assert "serving the policy at http://127.0.0.1:" in controller.log_line()
    finally:
        server.stop(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("switch", "--tls-cert", "a.pem"), "--tls-cert and --tls-key go together."),
        (("switch", "--tls-client-ca", "a.pem"), "--tls-client-ca needs --tls-cert and --tls-key."),
        (("ctrl", "--tls-key", "a.key"), "--tls-cert and --tls-key go together."),
        (("ctrl", "--tls-cert", "a.pem", "--tls-key", "a.key"), "--tls-cert needs --tls-ca."),
    ],
)
def test_incomplete_tls_options_are_refused(arguments: tuple[str, ...], message: str) -> None:
    done = finished(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
