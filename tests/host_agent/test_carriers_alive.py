"""Nothing is lost, whatever becomes of an agent or its version: stamped data flows over a switch meanwhile."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from host_agent import AgentClient, Stage
from host_agent.protocol.policy_document import PolicyDocument
from mfs_ctrl import policies
from mfs_eval.live.tcp_counters import FOLDER, read_tcp_counters
from soft_switch.realtime import offloads
from tests.support import wire
from tests.support.agent import ANOTHER_BUILD, SECONDS, Agent, Host, connected, ip, running, transferred
from tests.support.controller import eventually
from tests.support.realtime import fresh_prefix, real_kernel
from tests.support.wire import Edit, Wire, wired, with_option
from topologies import bmv2, namespaces
from topologies.namespaces import Realised
from topologies.processes import Process, free_address, free_port, listening, mfs
from topologies.topology import LINK_MTU, tor

pytestmark = real_kernel

TOPOLOGY = tor(2, 1, 50_000_000)
WINDOW_BYTES = 32_768
"""So small that no queue overflows: whatever is lost is lost on account of an agent."""
FEW_SEGMENTS = WINDOW_BYTES // 1448 // 2
"""Half a window: a host that cannot receive, and an interface that is stopped for a moment, lose whole windows."""
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
        """Segments that were sent again so far and are not known to have arrived twice: a busy machine only delays."""
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


@contextlib.contextmanager
def _embedded(realised: Realised, *more: str) -> Iterator[None]:
    """The embedded switch with its program and entries."""
    address = free_address()
    options = ("--empty", "--address", address, *realised.switch_options(TOPOLOGY), *more)
    with Process([*mfs(), "switch", *options], lambda out: "ports: " in out), _controlled(address):
        yield


@contextlib.contextmanager
def _bmv2(realised: Realised) -> Iterator[None]:
    """bmv2 with the same."""
    address = free_address()
    command = bmv2.command(address, realised.ports[0], device_id=1, thrift_port=free_port())
    with Process(command, lambda _: listening(address)), _controlled(address):
        yield


@contextlib.contextmanager
def _controlled(address: str) -> Iterator[None]:
    shape = ("--servers", "2", "--nics", "1", "--rate", "50M", "--policy", "mfs")
    with Process([*mfs(), "ctrl", "--address", address, *shape], lambda out: "in force" in out):
        yield


@contextlib.contextmanager
def _bridge(realised: Realised) -> Iterator[None]:
    """A switch that knows nothing of stamps: the kernel's."""
    name = f"{realised.prefix}-br"
    ip("link", "add", name, "type", "bridge")
    ip("link", "set", name, "up")
    for interface in realised.ports[0].values():
        ip("link", "set", interface, "master", name)
    for host, other in (TOPOLOGY.hosts, TOPOLOGY.hosts[::-1]):
        # As for a switch that is no router.
        where = ("lladdr", other.mac.hex(":"), "dev", realised.interfaces[host.id])
        ip("-n", realised.namespaces[host.server], "neigh", "replace", str(other.ipv4), *where)
    yield


SWITCHES = {"embedded": _embedded, "bmv2": _bmv2, "bridge": _bridge}


def ends(realised: Realised) -> tuple[Host, Host]:
    near, far = (
        Host(realised.namespaces[host.server], str(host.ipv4), realised.interfaces[host.id]) for host in TOPOLOGY.hosts
    )
    return near, far


@pytest.fixture(scope="module")
def hosts(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Host]]:
    if request.param == "bmv2" and shutil.which(bmv2.PROGRAM) is None:
        pytest.skip("bmv2 is not installed")
    with namespaces.standing([TOPOLOGY], fresh_prefix()) as realised, SWITCHES[request.param](realised):
        yield ends(realised)


def folder_for(path: Path, hosts: tuple[Host, Host]) -> Path:
    """A folder for agents, with the policy of each."""
    (path / "state").mkdir()
    for host in hosts:
        saved = path / "state" / f"policy-{host.interface}.json"
        saved.write_text(PolicyDocument("mfs", policies.mfs().rules).to_json(), "utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path, hosts: tuple[Host, Host]) -> Path:
    return folder_for(tmp_path, hosts)


def opened(client: AgentClient, stream: Stream) -> None:
    client.open(stream.near, batch=9, stage=Stage.P2D, slack_us=1_000_000_000, total_bytes=1 << 40)


RECEIVING = [
    ("embedded", "option", "option"),
    ("embedded", "option", "shim"),
    ("embedded", "shim", "option"),
    ("embedded", "shim", "shim"),
    ("bmv2", "option", "option"),
    ("bmv2", "shim", "shim"),
    ("bridge", "option", "option"),
]


@pytest.mark.parametrize(("hosts", "mine", "yours"), RECEIVING, indirect=["hosts"])
def test_data_arrives_while_the_receivers_agent_stops_dies_returns_and_is_another(
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
        opened(client, stream)
        stream.goes_on()
        before = stream.lost()
        stamped = client.status()["counters"]["stamped"]
        other.end()
        stream.goes_on()
        other = Agent(receiver, folder, carrier=yours)
        stream.goes_on()
        other.kill()
        stream.goes_on()
        other = Agent(receiver, folder, carrier=yours, build=ANOTHER_BUILD)
        assert "took over" not in other.said
        stream.goes_on()
        other.end()
        stream.goes_on()
        eventually(lambda: stream.lost() - before < FEW_SEGMENTS)
        assert client.status()["counters"]["stamped"] > stamped


SENDING = [("embedded", "option"), ("embedded", "shim"), ("bmv2", "option"), ("bridge", "option")]


@pytest.mark.parametrize(("hosts", "carrier"), SENDING, indirect=["hosts"])
def test_data_arrives_while_the_senders_agent_stops_dies_returns_and_is_another(
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
        client = stack.enter_context(agent.client())
        opened(client, stream)
        stream.goes_on()
        before = stream.lost()
        agent.kill()
        stream.goes_on()
        agent = Agent(sender, folder, carrier=carrier)
        stream.goes_on()
        assert client.status()["flows"], "the flow is resumed"
        agent.kill()
        agent = Agent(sender, folder, carrier=carrier, build=ANOTHER_BUILD)
        assert "took over" not in agent.said
        stream.goes_on()
        with agent.client() as fresh:
            opened(fresh, stream)
            eventually(lambda: fresh.status()["counters"]["stamped"] > 0)
            stream.goes_on()
        # The sender's own queue outlives all of them.
        eventually(lambda: stream.lost() - before < FEW_SEGMENTS)
        before, window = stream.lost(), stream.window_segments()
        agent.end()
        stream.goes_on()
        # The kernel stops the interface while the queue is removed: what waits is lost, and some of it once more.
        eventually(lambda: stream.lost() - before <= 2 * window)


@pytest.mark.parametrize("hosts", SWITCHES, indirect=True)
def test_a_host_that_never_had_an_agent_receives_options(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, receiver = hosts
    with ExitStack() as stack:
        agent = Agent(sender, folder, carrier="option")
        stack.callback(agent.detach)
        stack.callback(agent.end)
        stream = Stream(sender, receiver)
        stack.callback(stream.close)
        client = stack.enter_context(agent.client())
        opened(client, stream)
        before = stream.lost()
        stream.goes_on()
        eventually(lambda: stream.lost() - before < FEW_SEGMENTS)
        assert client.status()["counters"]["stamped"] > 0


@pytest.fixture(scope="module")
def rewritten() -> Iterator[tuple[tuple[Host, Host], Wire]]:
    """Two hosts and the embedded switch; between the first host and the switch, frames can be changed."""
    with namespaces.standing([TOPOLOGY], fresh_prefix()) as realised, ExitStack() as stack:
        port = TOPOLOGY.hosts[0].port
        near, far = f"{realised.prefix}-wa", f"{realised.prefix}-wb"
        mtu = ("mtu", str(LINK_MTU))
        ip("link", "add", near, *mtu, "type", "veth", "peer", "name", far, *mtu)
        for name in (near, far):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1", "ascii")
            offloads.turn_off(name)
            ip("link", "set", name, "up")
        between = stack.enter_context(wired(realised.ports[0][port], near))
        ports = {**realised.ports[0], port: far}
        stack.enter_context(_embedded(Realised(realised.prefix, ports=(ports,))))
        yield ends(realised), between


@pytest.mark.parametrize("edit", [wire.another_version, wire.shorter, wire.longer])
@pytest.mark.parametrize("newer", ["sender", "receiver"])
def test_a_stamp_of_another_version_or_length_is_none_and_nothing_is_lost(
    rewritten: tuple[tuple[Host, Host], Wire], tmp_path: Path, edit: Edit, newer: str
) -> None:
    (sender, receiver), between = rewritten
    folder = folder_for(tmp_path, (sender, receiver))
    with ExitStack() as stack:
        agents = []
        for host in (sender, receiver):
            agent = Agent(host, folder, carrier="option")
            stack.callback(agent.detach)
            stack.callback(agent.end)
            agents.append(agent)
        stream = Stream(sender, receiver)
        stack.callback(stream.close)
        client, far_client = (stack.enter_context(agent.client()) for agent in agents)
        opened(client, stream)
        before = stream.lost()
        stream.goes_on()
        assert [one.status()["counters"]["malformed"] for one in (client, far_client)] == [0, 0]
        reader = far_client if newer == "sender" else client
        if newer == "sender":
            between.onward = with_option(edit)
        else:
            between.back = with_option(edit)
        stack.callback(setattr, between, "onward", wire.same)
        stack.callback(setattr, between, "back", wire.same)
        eventually(lambda: reader.status()["counters"]["malformed"] > 0)
        read = reader.status()["counters"]["read"]
        stream.goes_on()
        assert reader.status()["counters"]["read"] == read
        eventually(lambda: stream.lost() - before < FEW_SEGMENTS)
        # When both are of one version again, stamps count again.
        between.onward = between.back = wire.same
        eventually(lambda: reader.status()["counters"]["read"] > read)


SHALLOW_BYTES = 20_000


@pytest.fixture(scope="module")
def lossy() -> Iterator[tuple[Host, Host]]:
    """Two hosts whose TCP uses time stamps, and a switch whose queues are so short that TCP overflows them."""
    with (
        namespaces.standing([TOPOLOGY], fresh_prefix(), time_stamps=True) as realised,
        _embedded(realised, "--queue-bytes", str(SHALLOW_BYTES)),
    ):
        yield ends(realised)


@pytest.mark.parametrize("both_ways", [False, True])
def test_lost_packets_are_repaired_by_selective_acknowledgements_which_leave_unstamped_and_are_counted(
    lossy: tuple[Host, Host], tmp_path: Path, both_ways: bool
) -> None:
    folder = folder_for(tmp_path, lossy)
    data = [random.Random(seed).randbytes(3_000_000) for seed in (1, 2)]
    with ExitStack() as stack:
        clients = []
        for host in lossy:
            agent = stack.enter_context(running(host, folder, carrier="option"))
            clients.append(stack.enter_context(agent.client()))
        captures = [host.capture() for host in lossy]
        stack.callback(lambda: [each.close() for each in captures])
        sockets = connected(*lossy)
        for one in sockets:
            stack.enter_context(one)
        directions = [(0, 1), (1, 0)][: 1 + both_ways]
        for near, _ in directions:
            open_flow = clients[near].open
            open_flow(sockets[near], batch=9 + near, stage=Stage.P2D, slack_us=1_000_000_000, total_bytes=1 << 40)
        before = [host.inside(read_tcp_counters).retransmitted for host in lossy]
        with ThreadPoolExecutor() as pool:
            got = [pool.submit(transferred, sockets[near], sockets[far], data[near]) for near, far in directions]
            assert [each.result() for each in got] == data[: len(directions)]
        after = [host.inside(read_tcp_counters).retransmitted for host in lossy]
        frames = [capture.frames() for capture in captures]
        found = [client.status()["counters"] for client in clients]
    assert after[0] > before[0], "the path loses packets"
    assert any(SACK_BLOCK in options_of(frame) for frame in frames[1])
    assert found[1]["no_room"] > 0
    assert min(each["stamped"] for each in found) > 0
    # Room that comes and goes with the blocks makes no packet too long.
    assert max(len(frame) for each in frames for frame in each) <= 1514


SACK_BLOCK = b"\x01\x01\x05"
"""How Linux begins blocks of selective acknowledgement."""


def options_of(frame: bytes) -> bytes:
    """The bytes of TCP's options in a frame of IPv4; of none otherwise."""
    if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
        return b""
    return frame[54 : 34 + (frame[46] >> 4) * 4]
