"""What serving engines ask for: flows on connections that have one, connections of a process, many requests at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from host_agent import AgentClient, AgentError, FlowRequest, Match, RequestError, Stage
from host_agent.daemon import sockets
from host_agent.ebpf.errors import InterfaceError
from host_agent.ebpf.layout import FLOWS_MAX
from host_agent.protocol.policy_document import PolicyDocument
from mfs_ctrl import policies
from tests.host_agent.test_option_host import segments
from tests.support.agent import INTERFACE, Agent, Host, connected, in_child, linked, received, running

FLOW: dict[str, Any] = {"stage": Stage.P2D, "slack_us": 1_800_000_000, "total_bytes": 1 << 20}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with linked() as pair:
        yield pair


@pytest.fixture(scope="module")
def agent(hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "state").mkdir()
    document = PolicyDocument("mfs", policies.mfs().rules)
    (folder / "state" / f"policy-{INTERFACE}.json").write_text(document.to_json(), "utf-8")
    try:
        with sockets.opened(None):
            carrier = "option"
    except InterfaceError:
        carrier = "shim"
    with running(hosts[0], folder, carrier=carrier) as started:
        yield started


def test_a_flow_replaces_the_one_of_its_connection_and_no_packet_goes_without_a_stamp(
    hosts: tuple[Host, Host], agent: Agent
) -> None:
    near, far = connected(*hosts)
    with near, far, agent.client() as client, agent.client() as other:
        if client.status()["carrier"] != "option":
            pytest.skip("stamps travel in the shim here; the room for an option is not needed")
        first = client.open(near, batch=1, **FLOW)
        first.submit(1000)
        near.sendall(bytes(1000))
        assert len(received(far, 1000)) == 1000
        capture = hosts[0].capture()
        for batch in range(2, 12):
            # Every second one is another client's.
            (client, other)[batch % 2].open(near, batch=batch, **FLOW)
            near.sendall(bytes(1000))
            assert len(received(far, 1000)) == 1000
        sent = [stamp for _, stamp, payload, _ in segments(capture) if payload]
        capture.close()
        assert [None if stamp is None else (stamp.batch, stamp.remaining) for stamp in sent] == [
            (batch, (1 << 20) // 256) for batch in range(2, 12)
        ]
        [flow] = client.status()["flows"]
        assert (flow["batch"], flow["unstamped"]) == (11, 0)
        with pytest.raises(AgentError, match="no flow -1 is open"):
            first.close()
        # Its message does not stand in the way of others.
        assert client.status()["gate"] == {"waiting": 0, "in_flight_bytes": 0}
        assert client.open(Match(cookie=5), batch=1, **FLOW).submit(1000)


def test_a_replacement_needs_no_room_for_another_flow(agent: Agent) -> None:
    with agent.client() as client:
        for start in range(0, FLOWS_MAX, 256):
            request = FlowRequest(Match(cookie=1), 1, Stage.P2D, 1, 1)
            client.open_all([request_with(request, cookie) for cookie in range(start + 1, start + 257)])
        client.open(Match(cookie=7), batch=9, **FLOW)
        with pytest.raises(RequestError, match=f"all {FLOWS_MAX} flows are in use"):
            client.open(Match(cookie=FLOWS_MAX + 1), batch=9, **FLOW)


def request_with(request: FlowRequest, cookie: int) -> FlowRequest:
    return FlowRequest(Match(cookie=cookie), request.batch, request.stage, request.deadline_ns, request.total_bytes)


def test_the_connections_of_a_process_to_a_peer_are_found(hosts: tuple[Host, Host], agent: Agent) -> None:
    sender, receiver = hosts
    with ExitStack() as stack:
        pairs = [connected(sender, receiver) for _ in range(2)]
        back = connected(receiver, sender)
        for pair in (*pairs, back):
            for end in pair:
                stack.enter_context(end)
        client = stack.enter_context(agent.client())
        # This process has both ends of all three; the agent sees those of its own namespace.
        nears = {Match.of_socket(near) for near, _ in pairs}
        assert set(client.connections(receiver.address)) == nears | {Match.of_socket(back[1])}
        port = pairs[0][0].getpeername()[1]
        assert client.connections(receiver.address, port, pid=os.getpid()) == [Match.of_socket(pairs[0][0])]
        assert client.connections("10.99.0.1") == []

        def in_another_process() -> list[Match]:
            with socket.socket(fileno=os.dup(pairs[1][0].fileno())), AgentClient(str(agent.socket)) as mine:
                for pair in (pairs[0], back):
                    for end in pair:
                        end.close()
                return mine.connections(receiver.address)

        # Without a process id, it is the one that asks.
        assert in_child(in_another_process) == str([Match.of_socket(pairs[1][0])])
        for fields, words in (
            ({"destination": "10.99"}, "destination '10.99' is not an IPv4 or IPv6 address"),
            ({"destination": "10.99.0.1", "destination_port": 65_536}, "destination_port 65536"),
            ({"destination": "10.99.0.1", "pid": 0}, "pid 0"),
            ({"destination": "10.99.0.1", "pid": 1 << 22}, "the sockets of process 4194304: No such file"),
        ):
            with pytest.raises(RequestError, match=words):
                client.ask("connections", **fields)


def test_many_requests_in_one_line_are_answered_one_by_one(agent: Agent) -> None:
    flow = {"op": "open", "match": {"cookie": 71}, "batch": 9, "stage": 3, "slack_us": 5, "total_bytes": 1}
    with agent.client() as client, agent.client() as other:
        theirs = other.open(Match(cookie=8), batch=1, **FLOW)
        number = client.status()["flows"][0]["flow"]
        requests = [flow, {"op": "advance", "batch": 9, "layer": 3}, {"op": "close", "flow": number}, {}, 5]
        answers = client.ask("batch", requests=[*requests, {"op": "progress", "batch": 9}])["answers"]
        assert [answer["ok"] for answer in answers] == [True, True, False, False, False, True]
        assert "another client" in answers[2]["error"]
        assert answers[5]["layer"] == 3
        assert len(client.status()["flows"]) == 2
        theirs.close()
        refused: tuple[object, ...] = ({}, None, [{"op": "batch", "requests": []}])
        for wrong in refused:
            with pytest.raises(RequestError, match=r"requests is a list|does not take a batch"):
                client.ask("batch", requests=wrong)


def test_flows_are_opened_changed_and_closed_together(agent: Agent) -> None:
    with agent.client() as client, agent.client() as watcher:

        def open_flows() -> dict[int, int]:
            return {flow["batch"]: flow["slack_us"] for flow in watcher.status()["flows"]}

        requests = [FlowRequest(Match(cookie=batch), batch, Stage.COLLECTIVE, 0, 10) for batch in (1, 2, 3)]
        flows = client.open_all(requests)
        client.update_all(flows[:2], slack_us=1_000_000_000)
        assert [slack > 0 for _, slack in sorted(open_flows().items())] == [True, True, False]
        # Either all or none: the agent knows no such cgroup.
        refused = FlowRequest(Match(cgroup="no/such/cgroup"), 5, Stage.COLLECTIVE, 0, 10)
        with pytest.raises(RequestError, match="no cgroup"):
            client.open_all([FlowRequest(Match(cookie=4), 4, Stage.COLLECTIVE, 0, 10), refused])
        assert open_flows().keys() == {1, 2, 3}
        flows[0].close()
        with pytest.raises(RequestError, match="no flow -1 is open"):
            client.update_all(flows, pruned=True)
        assert [flow["pruned"] for flow in watcher.status()["flows"]] == [True, True]
        client.close_all(flows[1:])
        assert open_flows() == {}
        with pytest.raises(RequestError, match="use several"):
            client.open_all([refused] * 1000)
