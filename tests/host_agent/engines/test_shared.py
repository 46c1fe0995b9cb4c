"""Flows on connections that transfers share, against a real agent on a link between network namespaces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from host_agent import AgentClient
from host_agent.engines.errors import ParamsError
from host_agent.engines.flows import Announcer
from host_agent.engines.params import PeerParams
from host_agent.engines.shared import SharedConnections, SharedTransfer
from tests.support.agent import Host, connected, linked, running
from tests.support.controller import eventually

SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with linked() as pair:
        yield pair


def flows(client: AgentClient) -> list[tuple[str, int]]:
    """Whose deadline each open flow has, and its bytes."""
    return sorted(
        ("loose" if flow["slack_us"] > 1_000_000_000 else "tight", flow["total_bytes"] + flow["beyond_bytes"])
        for flow in client.status()["flows"]
    )


def test_a_shared_connection_has_the_deadline_of_its_most_urgent_transfer(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    peer, now_ns = hosts[1].address, time.monotonic_ns()
    loose = SharedTransfer(peer, now_ns + 1800 * SECOND_NS, 1000)
    tight = SharedTransfer(peer, now_ns + 600 * SECOND_NS, 300)
    with ExitStack() as stack:
        agent = stack.enter_context(running(hosts[0], tmp_path))
        watcher = stack.enter_context(agent.client())
        announcer = Announcer(str(agent.socket))
        stack.callback(announcer.stop)
        shared = SharedConnections(announcer)
        for _ in range(2):
            for end in connected(*hosts):
                stack.enter_context(end)
        shared.begin("loose", loose)
        eventually(lambda: flows(watcher) == [("loose", 500)] * 2)
        shared.begin("tight", tight)
        eventually(lambda: flows(watcher) == [("tight", 650)] * 2)
        # A connection that is made during the transfers gets its share of them.
        late, far = connected(*hosts)
        eventually(lambda: flows(watcher) == [("tight", 433), ("tight", 650), ("tight", 650)])
        shared.end("tight")
        shared.end("nobody")
        eventually(lambda: flows(watcher) == [("loose", 433), ("loose", 650), ("loose", 650)])
        assert {flow["stage"] for flow in watcher.status()["flows"]} == {"P2D"}
        late.close()
        far.close()
        shared.begin("another", loose)
        eventually(lambda: flows(watcher) == [("loose", 1150)] * 2)
        shared.end("loose")
        shared.end("another")
        eventually(lambda: flows(watcher) == [])
        shared.begin("again", tight)
        eventually(lambda: flows(watcher) == [("tight", 150)] * 2)
        shared.stop()
        assert flows(watcher) == []


def test_without_an_agent_nothing_happens(tmp_path: Path) -> None:
    announcer = Announcer(str(tmp_path / "nobody.sock"))
    shared = SharedConnections(announcer)
    shared.begin("one", SharedTransfer("10.0.0.1", 1, 1))
    shared.end("one")
    shared.stop()
    announcer.stop()


def test_the_reader_and_the_deadline_of_a_request_are_read() -> None:
    assert PeerParams.from_request(None) == PeerParams.from_request({"do_remote_decode": True}) == PeerParams()
    given = {"mfs": {"to": "fd00:0::1", "deadline_ms": 800}}
    assert PeerParams.from_request(given) == PeerParams("fd00::1", 800.0)
    for wrong, words in (
        ({"to": "10.0.3.1:7100"}, "is not an IP address"),
        ({"deadline_ms": 0}, "deadline_ms 0"),
        ({"transfer": "x"}, "the fields to, deadline_ms"),
        (5, "the fields to, deadline_ms"),
    ):
        with pytest.raises(ParamsError, match=words):
            PeerParams.from_request({"mfs": wrong})
