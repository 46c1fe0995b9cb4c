"""Sessions over TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfs_ctrl.errors import SessionError, SwitchUnreachableError
from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.p4rt.session import Session
from soft_switch.p4runtime.server import TLS, P4RuntimeServer
from soft_switch.switch import Switch
from tests.support.certificates import self_signed


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


def test_a_tls_file_that_cannot_be_read_is_named(folder: Path) -> None:
    session = Session("127.0.0.1:1", tls=TlsFiles(folder / "missing.pem"))
    with pytest.raises(SessionError, match=r"cannot read the TLS file .*missing\.pem: No such file"):
        session.connect()
