"""The agent's socket against clients that mean harm, or are broken: limits, others' sockets, half requests."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_agent import AgentClient, FiveTuple, Match, RequestError, Stage
from host_agent.daemon import access
from host_agent.daemon.access import CLIENTS_PER_USER, Access
from host_agent.daemon.service import LINE_S
from host_agent.daemon.socket_diag import owner_of
from host_agent.protocol.flow_request import FlowRequest
from tests.support.agent import SECONDS, Host, as_nobody, connected, linked, running

NOBODY = 65534
REQUEST = FlowRequest(Match(cookie=1), 1, Stage.P2D, 1, 1)


def test_one_user_cannot_take_all_connections_or_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "CLIENTS_PER_USER", 2)
    monkeypatch.setattr(access, "FLOWS_PER_USER", 2)
    monkeypatch.setattr(access, "owner_of", lambda *_: None)
    held = Access()
    assert [bool(held.connected(7)) for _ in range(3)] == [False, False, True]
    assert not held.connected(8)
    held.disconnected(7)
    assert not held.connected(7)
    for flow in (1, 2):
        held.check_open(7, REQUEST)
        held.opened(flow, 7)
    # A flow that is opened again counts once.
    held.opened(2, 7)
    with pytest.raises(RequestError, match="user 7 has 2 flows open"):
        held.check_open(7, REQUEST)
    held.check_open(8, REQUEST)
    for flow in (3, 4, 5):
        held.check_open(0, REQUEST)  # root may do everything
        held.opened(flow, 0)
    held.closed(1)
    held.check_open(7, REQUEST)


def test_flows_of_others_are_changed_by_root_alone() -> None:
    held = Access()
    held.opened(1, 7)
    held.check_change(1, 7)
    held.check_change(1, 0)
    # Of a flow that an earlier process left, nobody knows the user.
    held.check_change(2, 8)
    with pytest.raises(RequestError, match="flow 1 belongs to another user"):
        held.check_change(1, 8)


def test_connections_of_a_process_are_told_to_its_user_and_to_root() -> None:
    held = Access()
    held.check_process(os.getpid(), 0)
    held.check_process(os.getpid(), os.getuid())
    with pytest.raises(RequestError, match=f"process {os.getpid()} is not user 8's"):
        held.check_process(os.getpid(), 8)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with linked() as pair:
        yield pair


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own is closed again by each session that starts."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_the_kernel_tells_whose_a_socket_is(hosts: tuple[Host, Host]) -> None:
    near, far = connected(*hosts)
    with near, far:
        cookie = Match.of_socket(near).cookie
        here, there = near.getsockname(), near.getpeername()
        addresses = FiveTuple("tcp", here[0], here[1], there[0], there[1])
        ask = hosts[0].inside
        assert ask(lambda: owner_of(cookie, None)) == ask(lambda: owner_of(None, addresses)) == 0
        os.fchown(near.fileno(), NOBODY, -1)
        assert ask(lambda: owner_of(cookie, None)) == ask(lambda: owner_of(cookie, addresses)) == NOBODY
        # Addresses of one's own do not make another's socket one's own.
        with ask(lambda: socket.create_server((hosts[0].address, 0))) as other:
            theirs = Match.of_socket(other).cookie
            assert ask(lambda: owner_of(theirs, addresses)) == 0
        assert ask(lambda: owner_of(1 << 60, None)) is None
    with hosts[0].inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams:
        datagrams.bind((hosts[0].address, 0))
        cookie = Match.of_socket(datagrams).cookie
        assert hosts[0].inside(lambda: owner_of(cookie, None)) in (0, None)  # None without udp_diag


def test_an_engine_cannot_stamp_the_packets_of_another_users_socket(hosts: tuple[Host, Host], folder: Path) -> None:
    near, far = connected(*hosts)
    here, there = near.getsockname(), near.getpeername()
    by_cookie = Match.of_socket(near)
    by_addresses = Match(addresses=FiveTuple("tcp", here[0], here[1], there[0], there[1]))
    by_cgroup = Match(cgroup="/")

    def open_flow(match: Match) -> str:
        with AgentClient(str(folder / f"{hosts[0].name}.sock")) as client:
            client.open(match, batch=1, stage=Stage.P2D, slack_us=1_000_000, total_bytes=1)
        return "opened"

    with near, far, running(hosts[0], folder, "--mode", "0666"):
        for match in (by_cookie, by_addresses):
            assert "socket of user 0; open its flow as that user, or as root" in as_nobody(lambda m=match: open_flow(m))  # type: ignore[misc]
            assert open_flow(match) == "opened"
        assert "is not user 65534's" in as_nobody(lambda: open_flow(by_cgroup))
        os.fchown(near.fileno(), NOBODY, -1)
        for match in (by_cookie, by_addresses):
            assert as_nobody(lambda m=match: open_flow(m)) == "opened"  # type: ignore[misc]


def test_half_open_clients_and_endless_lines_keep_no_other_waiting(hosts: tuple[Host, Host], folder: Path) -> None:
    with running(hosts[0], folder, "--mode", "0666") as agent, contextlib.ExitStack() as clients:

        def connect() -> socket.socket:
            opened = clients.enter_context(socket.socket(socket.AF_UNIX))
            # Blocking, to wait while the agent accepts others.
            opened.connect(str(agent.socket))
            opened.settimeout(SECONDS)
            return opened

        began_s = time.monotonic()
        half = connect()
        half.sendall(b'{"op": ')
        for _ in range(CLIENTS_PER_USER - 1):
            connect()
        answer = json.loads(connect().makefile("rb").readline())
        assert (answer["ok"], "the most that one may have" in answer["error"]) == (False, True)
        # Another user is served meanwhile.
        assert as_nobody(lambda: AgentClient(str(agent.socket)).progress(1)) == "0"
        # The half request is refused in the end, which makes room.
        said = half.makefile("rb").read()
        assert f"{LINE_S:g} s at most".encode() in said
        assert time.monotonic() - began_s >= LINE_S
        with agent.client() as client:
            assert client.progress(1) == 0
    with running(hosts[0], folder) as agent, agent.client() as client:
        endless = socket.socket(socket.AF_UNIX)
        endless.settimeout(SECONDS)
        endless.connect(str(agent.socket))
        with endless, contextlib.suppress(OSError):
            # 1 GB, of which 64 KiB are read.
            for _ in range(1024):
                endless.sendall(bytes(1 << 20))
        assert client.progress(1) == 0
        assert memory_mb(agent.process.pid) < 500


def memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no memory of {pid}")
