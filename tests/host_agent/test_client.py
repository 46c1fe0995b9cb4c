"""The client's parameters, and the requests that they become; no agent with root rights is needed."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import host_agent
from host_agent import (
    AgentClient,
    AgentError,
    AgentGoneError,
    FiveTuple,
    FlowRequest,
    Match,
    RequestError,
    Stage,
)
from host_agent.ebpf import layout
from host_agent.ebpf.build import layout_header
from host_agent.protocol.flow_request import Connection, FlowUpdate
from tests.support.imports import modules_loaded_by

ADDRESSES = FiveTuple("tcp", "10.0.1.1", 7000, "10.0.2.1", 7001)
FLOW: dict[str, Any] = {"batch": 7, "stage": Stage.P2D, "total_bytes": 1000, "deadline_ns": 5_000}


class Recorder:
    """A socket that answers like an agent and keeps the requests."""

    def __init__(self, path: Path) -> None:
        self.requests: list[dict[str, Any]] = []
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                self.requests.append(json.loads(line))
                stream.write(b'{"ok": true, "flow": %d, "number": 9, "layer": 0}\n' % len(self.requests))
                stream.flush()

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path / "agent.sock")
    yield recorder
    recorder.close()


def test_the_public_names_need_only_the_standard_library() -> None:
    modules = modules_loaded_by(f"from host_agent import {', '.join(host_agent.__all__)}")
    loaded = {name.partition(".")[0] for name in modules}
    assert loaded & {"host_agent"} == {"host_agent"}
    assert loaded & {"click", "pyroute2", "scapy", "google", "grpc"} == set()
    assert set(host_agent.__all__) <= set(dir(host_agent))
    with pytest.raises(AttributeError, match="no attribute 'Agent'"):
        _ = host_agent.Agent


def test_a_request_names_the_fields_as_the_client_does(agent: Recorder) -> None:
    with AgentClient(agent.path) as client:
        flow = client.open(
            Match(addresses=ADDRESSES), **FLOW, target_layer=32, beyond_bytes=2, message_bytes=3, number=4, keep=True
        )
        flow.update(beyond_bytes=0, pruned=True)
        flow.close()
    opened, updated, closed = agent.requests
    assert opened == {
        "op": "open",
        "match": {
            "addresses": {
                "protocol": "tcp",
                "source": "10.0.1.1",
                "source_port": 7000,
                "destination": "10.0.2.1",
                "destination_port": 7001,
            }
        },
        **FLOW,
        "stage": "P2D",
        "target_layer": 32,
        "beyond_bytes": 2,
        "message_bytes": 3,
        "number": 4,
        "keep": True,
    }
    assert updated == {"op": "update", "flow": 1, "beyond_bytes": 0, "pruned": True}
    assert closed == {"op": "close", "flow": 1}
    assert (flow.number, flow.request.beyond_bytes, flow.request.pruned) == (9, 0, True)


def test_slack_becomes_a_deadline_on_the_monotonic_clock(agent: Recorder) -> None:
    before = time.monotonic_ns()
    with AgentClient(agent.path) as client:
        flow = client.open(Match(cookie=5), batch=0, stage=Stage.KV_REUSE, total_bytes=1, slack_us=1_000_000)
        assert before + 10**9 <= flow.request.deadline_ns <= time.monotonic_ns() + 10**9
        flow.update(slack_us=-(1 << 31))
    assert "slack_us" not in agent.requests[0]
    assert flow.request.deadline_ns < before + 10**9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": "7"}, "batch '7' is not an integer in 0..4294967295"),
        ({"batch": 1 << 32}, "batch 4294967296 is not an integer"),
        ({"batch": True}, "batch True is not an integer"),
        ({"stage": 3}, "stage 3 is not one of KV_REUSE, COLLECTIVE, P2D"),
        ({"stage": Stage.NONE}, "is not one of KV_REUSE"),
        ({"total_bytes": 0}, "total_bytes 0 is not an integer in 1.."),
        ({"total_bytes": 1.5}, "total_bytes 1.5 is not an integer"),
        ({"beyond_bytes": -1}, "beyond_bytes -1 is not an integer in 0.."),
        ({"message_bytes": None}, "message_bytes None is not an integer"),
        ({"target_layer": 256}, "target_layer 256 is not an integer in 0..255"),
        ({"number": 65_536}, "number 65536 is not an integer in 0..65535"),
        ({"pruned": 1}, "pruned is true or false, not 1"),
        ({"keep": "yes"}, "keep is true or false, not 'yes'"),
        ({"deadline_ns": None}, "a flow needs its deadline"),
        ({"deadline_ns": -1}, "deadline_ns -1 is not an integer in 0.."),
        ({"slack_us": 5}, "give one of them"),
        ({"deadline_ns": None, "slack_us": 1 << 31}, "slack_us 2147483648 is not an integer in -2147483648.."),
        ({"match": {"cookie": 5}}, "neither a socket nor a Match"),
    ],
)
def test_open_refuses_wrong_types_and_ranges_before_asking(
    agent: Recorder, fields: dict[str, Any], message: str
) -> None:
    arguments = {"match": Match(cookie=5), **FLOW, **fields}
    with AgentClient(agent.path) as client, pytest.raises(RequestError) as error:
        client.open(**arguments)
    assert message in str(error.value)
    assert isinstance(error.value, AgentError)
    assert agent.requests == []


def test_update_refuses_wrong_types_and_ranges_and_changes_nothing(agent: Recorder) -> None:
    with AgentClient(agent.path) as client:
        flow = client.open(Match(cookie=5), **FLOW)
        before = flow.request
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"beyond_bytes": "1"}, "beyond_bytes '1' is not an integer"),
            ({"pruned": 0}, "pruned is true or false"),
            ({"slack_us": 1, "deadline_ns": 1}, "give one of them"),
            ({"slack_us": 0.5}, "slack_us 0.5 is not an integer"),
        ]
        for fields, message in wrong:
            with pytest.raises(RequestError, match=message):
                flow.update(**fields)
        with pytest.raises(TypeError, match="total_bytes"):
            flow.update(total_bytes=5)  # type: ignore[call-arg]
        with pytest.raises(RequestError, match="batch 0"):
            client.advance(0, 1)
        with pytest.raises(RequestError, match="layer 256"):
            client.advance(7, 256)
    assert flow.request is before
    assert len(agent.requests) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Match(), "exactly one"),
        (lambda: Match(cookie=1, cgroup=2), "exactly one"),
        (lambda: Match(cookie=0), "cookie 0"),
        (lambda: Match(cgroup=2.5), "cgroup 2.5"),
        (lambda: Match(addresses=("tcp",)), "not a FiveTuple"),
        (lambda: FiveTuple("sctp", "10.0.0.1", 1, "10.0.0.2", 2), "protocol 'sctp' is not tcp or udp"),
        (lambda: FiveTuple("tcp", "10.0.0", 1, "10.0.0.2", 2), "source '10.0.0' is not an IPv4 or IPv6 address"),
        (lambda: FiveTuple("tcp", "10.0.0.1", 1, 5, 2), "destination 5 is not an IPv4"),
        (lambda: FiveTuple("tcp", "10.0.0.1", 65_536, "10.0.0.2", 2), "source_port 65536"),
        (lambda: FiveTuple("udp", "10.0.0.1", 1, "fd00::2", 2), "one address is IPv4, the other IPv6"),
    ],
)
def test_an_impossible_match_is_refused(make: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make()


def test_a_socket_matches_by_its_cookie() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        assert Match.of_socket(one) == Match.of_socket(one) != Match.of_socket(two)


def test_a_flow_that_another_replaced_cannot_close_it(agent: Recorder) -> None:
    with AgentClient(agent.path) as client:
        first, second = (client.open(Match(cookie=5), **FLOW) for _ in range(2))
        first.close()
        second.close()
    assert [request["flow"] for request in agent.requests[2:]] == [-1, 2]


def test_a_missing_agent_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentGoneError, match=r"no agent answers at .*nobody\.sock: No such file"):
        AgentClient(tmp_path / "nobody.sock")


@pytest.mark.parametrize(
    "match", [Match(cookie=5), Match(cgroup=77), Match(cgroup="system.slice"), Match(addresses=ADDRESSES)]
)
def test_requests_survive_json(match: Match) -> None:
    whole = FlowRequest(match, 7, Stage.COLLECTIVE, 5_000, 100, 3, 2, 1, 0, True, True)
    plain = FlowRequest(match, 0, Stage.P2D, 0, 1)
    for request in (whole, plain):
        assert FlowRequest.from_json(json.loads(json.dumps(request.to_json())), now_ns=0) == request
    update = FlowUpdate(deadline_ns=3, pruned=False)
    assert FlowUpdate.from_json(update.to_json(), now_ns=0) == update
    assert FlowUpdate.from_json({"slack_us": 2}, now_ns=1_000).applied_to(plain).deadline_ns == 3_000


@pytest.mark.parametrize(
    "match",
    [
        Match(cookie=5),
        Match(cgroup=77),
        Match(addresses=ADDRESSES),
        Match(addresses=FiveTuple("udp", "::1", 1, "fd00::2", 2)),
    ],
)
def test_requests_survive_the_kernels_layout(match: Match) -> None:
    request = FlowRequest(match, (1 << 32) - 1, Stage.P2D, 1 << 62, 1 << 62, 255, 3, 4, 65_535, True, True)
    found = layout.decode_match(*layout.encode_match(match))
    assert layout.decode_flow(found, layout.encode_flow(request)) == request


def test_the_c_source_has_the_fields_of_a_request() -> None:
    body = layout_header().partition("struct flow {")[2].partition("};")[0]
    # What packets the flow has, and on which connection, is in other maps.
    for name in FlowRequest.__dataclass_fields__.keys() - {"match", "connection"}:
        assert f" {name};" in body


def test_a_struct_that_a_compiler_would_pad_is_refused() -> None:
    with pytest.raises(ValueError, match="b at byte 1 is not aligned"):
        layout.CStruct("gap", (layout.Field("u8", "a"), layout.Field("u32", "b")))
    with pytest.raises(ValueError, match="ends at byte 5"):
        layout.CStruct("tail", (layout.Field("u32", "a"), layout.Field("u8", "b")))


def test_a_socket_tells_the_agent_its_connection(agent: Recorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        with AgentClient(agent.path) as client:
            client.open(near, **FLOW)
        ends = FiveTuple("tcp", *near.getsockname(), *near.getpeername())
        told = agent.requests[0]["connection"]
        assert told["addresses"] == asdict(ends)
        assert Connection.from_json(told) == Connection.of_socket(near)
    for wrong in ({}, {**told, "window_scale": 15}, {**told, "addresses": {**told["addresses"], "protocol": "udp"}}):
        with pytest.raises(RequestError):
            Connection.from_json(wrong)
    with socket.socket() as unconnected, socket.socket(socket.AF_UNIX) as local:
        assert Connection.of_socket(unconnected) is Connection.of_socket(local) is None
