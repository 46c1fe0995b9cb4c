"""An agent holds TCP flows over a veth pair between network namespaces; the applications know nothing of it."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from host_agent import AgentClient, FiveTuple, Match, OpenFlow, Stage
from host_agent.protocol.level import LevelRule
from host_agent.protocol.policy_document import PolicyDocument
from tests.support.agent import INTERFACE, Agent, Host, connected, ip, linked, received, running, transferred
from tests.support.controller import eventually

HOUR_US = 1_800_000_000
# Stages alone decide, so that a test chooses levels.
RULES = (LevelRule(Stage.KV_REUSE, 6), LevelRule(Stage.P2D, 2))
BIG = 1 << 30


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with linked() as pair:
        for host in pair:
            ip("netns", "exec", host.name, "sysctl", "-qw", "net.ipv4.tcp_slow_start_after_idle=0")
        yield pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / f"policy-{INTERFACE}.json").write_text(PolicyDocument("two", RULES).to_json(), "utf-8")
    return tmp_path


def counter(host: Host, name: str) -> int:
    """A counter of TCP of this host."""

    def read() -> int:
        heads, values = (line.split() for line in Path("/proc/thread-self/net/netstat").read_text().splitlines()[:2])
        return int(values[heads.index(name)])

    return host.inside(read)


class Blocker:
    """A flow of a higher level that has the budget of its destination: its receiver reads nothing."""

    def __init__(self, sender: Host, receiver: Host, client: AgentClient) -> None:
        self.near, self.far = connected(sender, receiver)
        self.flow = client.open(self.near, batch=1, stage=Stage.KV_REUSE, slack_us=HOUR_US, total_bytes=BIG)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        received(self.far, 20_000)
        self._reader = threading.Thread(target=self._receive)
        self._reader.start()

    def _send(self) -> None:
        data = bytes(1 << 14)
        try:
            while not self._ended.is_set():
                self.near.send(data)
        except OSError:
            pass

    def _receive(self) -> None:
        try:
            while self.far.recv(1 << 16):
                pass
        except OSError:
            pass

    def close(self) -> None:
        self._ended.set()
        self.near.shutdown(socket.SHUT_RDWR)
        self.far.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._reader.join()
        self.near.close()
        self.far.close()


def opened(client: AgentClient, near: socket.socket | Match, total: int = BIG, stage: Stage = Stage.P2D) -> OpenFlow:
    return client.open(near, batch=2, stage=stage, slack_us=HOUR_US, total_bytes=total)


def arrives_within(far: socket.socket, seconds: float) -> float | None:
    """Seconds until data arrives; None if none does."""
    began = time.monotonic()
    far.settimeout(seconds)
    try:
        far.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return None
    return time.monotonic() - began


@pytest.fixture
def scene(hosts: tuple[Host, Host], folder: Path) -> Iterator[tuple[ExitStack, Agent, AgentClient]]:
    """Agents on both hosts, the sender's holds."""
    sender, receiver = hosts
    with ExitStack() as stack:
        agent = stack.enter_context(running(sender, folder, "--rate", "20M", "--hold"))
        stack.enter_context(running(receiver, folder, "--rate", "20M"))
        client = stack.enter_context(agent.client())
        yield stack, agent, client


@pytest.mark.parametrize("how", ["socket", "addresses", "cookie"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_held_flow_sends_nothing_until_a_kick(
    hosts: tuple[Host, Host], scene: tuple[ExitStack, Agent, AgentClient], how: str, kept: bool
) -> None:
    sender, receiver = hosts
    stack, _, client = scene
    near, far = map(stack.enter_context, connected(sender, receiver))
    if kept:
        assert transferred(near, far, b"earlier") == b"earlier"
    ends = FiveTuple("tcp", *near.getsockname(), *near.getpeername())
    match = {"socket": near, "addresses": Match(addresses=ends), "cookie": Match.of_socket(near)}[how]
    before = counter(sender, "TCPTimeouts")
    blocker = Blocker(sender, receiver, client)
    data = random.Random(1).randbytes(200_000)
    flow = opened(client, match, len(data))
    writer = threading.Thread(target=near.sendall, args=(data,))
    writer.start()
    assert arrives_within(far, 2) is None
    status = client.status()
    assert status["hold"]["held"] == 1
    assert status["hold"]["without_scale"] == 0
    assert counter(sender, "TCPTimeouts") == before
    blocker.flow.close()
    took = arrives_within(far, 5)
    assert took is not None
    assert took < 0.05
    far.settimeout(20)
    assert received(far, len(data)) == data
    writer.join()
    eventually(lambda: client.status()["hold"]["held"] == 0)
    assert client.status()["hold"]["kicks"] > 0
    assert client.status()["counters"]["lowered"] > 0
    flow.close()
    blocker.close()


def test_closing_a_held_flow_and_stopping_the_agent_release(
    hosts: tuple[Host, Host], scene: tuple[ExitStack, Agent, AgentClient]
) -> None:
    sender, receiver = hosts
    stack, agent, client = scene
    pairs = [tuple(map(stack.enter_context, connected(sender, receiver))) for _ in range(2)]
    blocker = Blocker(sender, receiver, client)
    flows = [opened(client, near) for near, _ in pairs]
    for near, _ in pairs:
        near.sendall(b"x" * 1000)
    assert arrives_within(pairs[0][1], 0.3) is None
    flows[0].close()
    took = arrives_within(pairs[0][1], 5)
    assert took is not None
    assert took < 0.05
    assert arrives_within(pairs[1][1], 0.1) is None
    agent.process.send_signal(signal.SIGTERM)
    took = arrives_within(pairs[1][1], 5)
    assert took is not None
    assert took < 0.5
    blocker.close()


def test_a_killed_agent_holds_nothing_for_long_and_the_next_one_holds_again(
    hosts: tuple[Host, Host], folder: Path
) -> None:
    sender, receiver = hosts
    with ExitStack() as stack:
        stack.enter_context(running(receiver, folder, "--rate", "20M"))
        agent = Agent(sender, folder, "--rate", "20M", "--hold")
        client = stack.enter_context(agent.client())
        near, far = map(stack.enter_context, connected(sender, receiver))
        blocker = Blocker(sender, receiver, client)
        opened(client, near)
        near.sendall(bytes(1000))
        assert arrives_within(far, 0.3) is None
        agent.kill()
        # The lease, and the next probe of the closed window.
        took = arrives_within(far, 5)
        assert took is not None
        assert took < 2
        received(far, 1000)
        with running(sender, folder, "--rate", "20M", "--hold") as again:
            assert "took over" in again.said

            def held() -> bool:
                return client.status()["hold"]["held"] == 1

            eventually(held)
            near.sendall(bytes(1000))
            assert arrives_within(far, 0.3) is None
            blocker.flow.close()
            took = arrives_within(far, 5)
            assert took is not None
            assert took < 0.05
        blocker.close()


def test_a_flow_without_data_leaves_its_budget_to_others(
    hosts: tuple[Host, Host], scene: tuple[ExitStack, Agent, AgentClient]
) -> None:
    sender, receiver = hosts
    stack, _, client = scene
    idle, _ = map(stack.enter_context, connected(sender, receiver))
    near, far = map(stack.enter_context, connected(sender, receiver))
    opened(client, idle, stage=Stage.KV_REUSE)
    opened(client, near)
    near.sendall(bytes(1000))
    took = arrives_within(far, 5)
    assert took is not None
    assert took < 0.1


def test_packets_of_a_cgroup_are_not_held_and_counted(
    scene: tuple[ExitStack, Agent, AgentClient], hosts: tuple[Host, Host]
) -> None:
    _, agent, client = scene
    opened(client, Match(cgroup=77))
    assert client.status()["hold"] == {"held": 0, "kicks": 0, "without_scale": 1}
    done = hosts[0].mfs("agent", "status", "--socket", str(agent.socket))
    assert "1  flows not held" in done.stdout
