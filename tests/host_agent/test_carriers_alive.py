"""Nothing is lost, whatever becomes of an agent: stamped data flows over the embedded switch meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from host_agent import Stage
from host_agent.protocol.policy_document import PolicyDocument
from mfs_ctrl import policies
from mfs_eval.live.tcp_counters import FOLDER, read_tcp_counters
from tests.support.agent import SECONDS, Agent, Host
from tests.support.realtime import fresh_prefix, real_kernel
from topologies import namespaces
from topologies.processes import Process, free_address, mfs
from topologies.topology import tor

pytestmark = real_kernel

TOPOLOGY = tor(2, 1, 50_000_000)
WINDOW_BYTES = 32_768
"""So small that no queue overflows: whatever is lost is lost on account of an agent."""
FEW_SEGMENTS = WINDOW_BYTES // 1448 // 2
"""Half a window. Agents add and remove queue disciplines, which drop what they hold; a host that cannot receive loses
whole windows."""
STEP_BYTES = 400_000
SEND_WINDOW_OFFSET = 228


class Stream:
    """A connection that sends all the time."""

    def __init__(self, sender: Host, receiver: Host) -> None:
        self.got = 0
        self._sender = sender
        with receiver.inside(lambda: socket.socket()) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
            server.bind((receiver.address, 0))
            server.listen()
            address = server.getsockname()
            self.near = sender.inside(lambda: socket.create_connection(address, timeout=SECONDS))
            self.far, _ = server.accept()
        self.far.settimeout(SECONDS)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                self.near.send(bytes(16_384))
            self.near.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while part := self.far.recv(1 << 16):
                self.got += len(part)

    def goes_on(self) -> None:
        """Wait until more has arrived."""
        enough, deadline = self.got + STEP_BYTES, time.monotonic() + SECONDS
        while self.got < enough:
            assert time.monotonic() < deadline, "nothing arrives any more"
            time.sleep(0.01)

    def lost(self) -> int:
        """Segments that were sent again so far, and that did not arrive twice: a busy machine only delays."""
        found = self._sender.inside(lambda: (FOLDER / "netstat").read_text("ascii")).splitlines()
        names, values = (line.split() for line in found if line.startswith("TcpExt:"))
        twice = int(values[names.index("TCPDSACKRecvSegs")])
        return self._sender.inside(read_tcp_counters).retransmitted - twice

    def window_segments(self) -> int:
        """Segments of the window that the receiver announces now (``tcpi_snd_wnd`` of linux/tcp.h)."""
        told = self.near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SEND_WINDOW_OFFSET + 4)
        (window,) = struct.unpack_from("=I", told, SEND_WINDOW_OFFSET)
        return int(-(-window // self.near.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)))

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.near.close()
        self.far.close()


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    address = free_address()
    with namespaces.standing([TOPOLOGY], fresh_prefix()) as realised, ExitStack() as stack:
        options = ("--empty", "--address", address, *realised.switch_options(TOPOLOGY))
        stack.enter_context(Process([*mfs(), "switch", *options], lambda out: "ports: " in out))
        shape = ("--servers", "2", "--nics", "1", "--rate", "50M", "--policy", "mfs")
        stack.enter_context(Process([*mfs(), "ctrl", "--address", address, *shape], lambda out: "in force" in out))
        ends = [
            Host(realised.namespaces[host.server], str(host.ipv4), realised.interfaces[host.id])
            for host in TOPOLOGY.hosts
        ]
        yield ends[0], ends[1]


@pytest.fixture
def folder(tmp_path: Path, hosts: tuple[Host, Host]) -> Path:
    (tmp_path / "state").mkdir()
    for host in hosts:
        saved = tmp_path / "state" / f"policy-{host.interface}.json"
        saved.write_text(PolicyDocument("mfs", policies.mfs().rules).to_json(), "utf-8")
    return tmp_path


CARRIERS = ("option", "shim")


@pytest.mark.parametrize(("mine", "yours"), list(itertools.product(CARRIERS, CARRIERS)))
def test_data_arrives_while_the_receivers_agent_stops_dies_and_returns(
    hosts: tuple[Host, Host], folder: Path, mine: str, yours: str
) -> None:
    sender, receiver = hosts
    with ExitStack() as stack:
        agent = Agent(sender, folder, carrier=mine)
        stack.callback(agent.detach)
        stack.callback(agent.end)
        other = Agent(receiver, folder, carrier=yours)
        stack.callback(other.detach)
        stream = Stream(sender, receiver)
        stack.callback(stream.close)
        client = stack.enter_context(agent.client())
        client.open(stream.near, batch=9, stage=Stage.P2D, slack_us=1_000_000_000, total_bytes=1 << 40)
        stream.goes_on()
        before = stream.lost()
        stamped = client.status()["counters"]["stamped"]
        other.end()
        stream.goes_on()
        other = Agent(receiver, folder, carrier=yours)
        stream.goes_on()
        other.kill()
        stream.goes_on()
        other = Agent(receiver, folder, carrier=yours)
        stream.goes_on()
        other.end()
        stream.goes_on()
        assert stream.lost() - before < FEW_SEGMENTS
        assert client.status()["counters"]["stamped"] > stamped


@pytest.mark.parametrize("carrier", CARRIERS)
def test_data_arrives_while_the_senders_agent_stops_dies_and_returns(
    hosts: tuple[Host, Host], folder: Path, carrier: str
) -> None:
    sender, receiver = hosts
    with ExitStack() as stack:
        other = Agent(receiver, folder, carrier=carrier)
        stack.callback(other.detach)
        stack.callback(other.end)
        agent = Agent(sender, folder, carrier=carrier)
        stack.callback(agent.detach)
        stream = Stream(sender, receiver)
        stack.callback(stream.close)
        opened = {"batch": 9, "stage": Stage.P2D, "slack_us": 1_000_000_000, "total_bytes": 1 << 40}
        client = stack.enter_context(agent.client())
        client.open(stream.near, **opened)
        stream.goes_on()
        before, window = stream.lost(), stream.window_segments()
        agent.kill()
        stream.goes_on()
        agent = Agent(sender, folder, carrier=carrier)
        stream.goes_on()
        assert client.status()["flows"], "the flow is resumed"
        agent.end()
        stream.goes_on()
        # The sender's own queue, which its agent takes away, may hold all that is on its way.
        assert stream.lost() - before <= window


def test_a_host_that_never_had_an_agent_receives_options(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, receiver = hosts
    with ExitStack() as stack:
        agent = Agent(sender, folder, carrier="option")
        stack.callback(agent.detach)
        stack.callback(agent.end)
        stream = Stream(sender, receiver)
        stack.callback(stream.close)
        client = stack.enter_context(agent.client())
        client.open(stream.near, batch=9, stage=Stage.P2D, slack_us=1_000_000_000, total_bytes=1 << 40)
        before = stream.lost()
        stream.goes_on()
        assert stream.lost() - before < FEW_SEGMENTS
        assert client.status()["counters"]["stamped"] > 0
