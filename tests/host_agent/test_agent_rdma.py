"""The agent registers RoCEv2 flows through a real interface; its gate. No RDMA device is used: only frames are seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_agent import AgentClient, Match, QueuePair, RequestError, Stage
from host_agent.protocol.policy_document import PolicyDocument
from host_agent.protocol.stamp import Flags, Stamp
from mfs_ctrl import policies
from tests.support.agent import INTERFACE, Agent, Capture, Host, linked, running
from tests.support.controller import eventually

HOUR_US = 1_800_000_000
FLOW = {"batch": 77, "stage": Stage.P2D, "slack_us": HOUR_US, "total_bytes": 1 << 20, "target_layer": 9}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with linked() as pair:
        yield pair


@pytest.fixture
def agent(hosts: tuple[Host, Host], tmp_path: Path) -> Iterator[Agent]:
    (tmp_path / "state").mkdir()
    document = PolicyDocument("mfs", policies.mfs().rules)
    (tmp_path / "state" / f"policy-{INTERFACE}.json").write_text(document.to_json(), "utf-8")
    with running(hosts[0], tmp_path, "--gate-bytes", "1000") as started:
        yield started


@pytest.fixture
def wire(hosts: tuple[Host, Host]) -> Iterator[Capture]:
    """What arrives at the other end."""
    capture = hosts[1].capture(outgoing=False)
    yield capture
    capture.close()


def pair(hosts: tuple[Host, Host], queue_pair: int = 0x1234) -> QueuePair:
    return QueuePair(hosts[0].address, hosts[1].address, queue_pair)


def awaited(wire: Capture, flags: Flags) -> Stamp:
    """The first registration with these flags; others are skipped."""
    found: list[Stamp] = []

    def arrived() -> bool:
        found.extend(stamp for stamp, _ in wire.stamps() if stamp.flags == flags | Flags.REGISTER)
        return bool(found)

    eventually(arrived)
    return found[0]


def test_a_flow_is_registered_repeated_and_ended(hosts: tuple[Host, Host], agent: Agent, wire: Capture) -> None:
    with agent.client() as client:
        # Until the neighbour is known, a registration cannot be sent; then it is repeated, without FIRST.
        client.open(Match(rdma=pair(hosts, 1)), **FLOW)  # type: ignore[arg-type]
        awaited(wire, Flags.NONE)
        flow = client.open(Match(rdma=pair(hosts)), **FLOW)  # type: ignore[arg-type]
        stamp = awaited(wire, Flags.FIRST)
        assert (stamp.batch, stamp.stage, stamp.reserved, stamp.target_layer) == (77, Stage.P2D, 0x1234, 9)
        assert stamp.remaining == 4096
        assert HOUR_US - 60_000_000 < stamp.slack_us <= HOUR_US
        client.advance(77, 4)
        eventually(lambda: any(stamp.current_layer == 4 for stamp, _ in wire.stamps()))
        flow.update(slack_us=1000)
        eventually(lambda: any(stamp.slack_us <= 1000 for stamp, _ in wire.stamps() if stamp.reserved == 0x1234))
        status = client.status()
        assert status["registrations"]["sent"] > 3
        assert {held["match"] for held in status["flows"]} == {str(pair(hosts, 1)), str(pair(hosts))}
        flow.close()
        assert awaited(wire, Flags.LAST).reserved == 0x1234
    # With its client, the other flow ends too.
    assert awaited(wire, Flags.LAST).reserved == 1


def test_a_restarted_agent_learns_the_flows_from_their_clients(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    with running(hosts[0], tmp_path) as first:
        client = first.client()
        flow = client.open(Match(rdma=pair(hosts)), **FLOW)  # type: ignore[arg-type]
        first.kill()
    with running(hosts[0], tmp_path):
        flow.update(beyond_bytes=256)
        [held] = client.status()["flows"]
        assert (held["match"], held["beyond_bytes"]) == (str(pair(hosts)), 256)
        client.close()


def test_a_flow_of_others_is_refused(agent: Agent) -> None:
    with agent.client() as client, pytest.raises(RequestError, match="neither address is of this interface"):
        client.open(Match(rdma=QueuePair("192.0.2.1", "192.0.2.2", 1)), **FLOW)  # type: ignore[arg-type]


def test_messages_are_permitted_in_the_order_of_levels_across_clients(hosts: tuple[Host, Host], agent: Agent) -> None:
    with agent.client() as one, AgentClient(agent.socket) as two:
        relaxed = one.open(Match(rdma=pair(hosts)), **FLOW)  # type: ignore[arg-type]
        urgent = two.open(Match(rdma=pair(hosts, 2)), **{**FLOW, "stage": Stage.KV_REUSE, "target_layer": 0})  # type: ignore[arg-type]
        first = relaxed.submit(800)
        assert one.permitted() == [first]
        later, sooner = relaxed.submit(800), urgent.submit(800)
        assert (one.permitted(), two.permitted()) == ([], [])
        waited: list[list[int]] = []
        thread = threading.Thread(target=lambda: waited.append(two.permitted(wait_us=1_000_000)))
        thread.start()
        time.sleep(0.05)
        one.complete(first)
        thread.join()
        assert waited == [[sooner]]
        assert one.status()["gate"] == {"waiting": 1, "in_flight_bytes": 800}
        # Who leaves takes its messages along.
        two.close()
        assert one.permitted(wait_us=1_000_000) == [later]
        with pytest.raises(RequestError, match=f"no message {first} of this client"):
            one.complete(first)
