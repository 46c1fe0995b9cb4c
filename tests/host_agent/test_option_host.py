"""Stamps in a TCP option on real sockets: over a veth pair between network namespaces, with all offloads on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host_agent import AgentClient, FiveTuple, Match
from host_agent.daemon import sockets
from host_agent.daemon.hooks import attach, clean, restore
from host_agent.daemon.options import InterfaceOptions
from host_agent.daemon.state import StateFile
from host_agent.ebpf.bpf import Program, attached_to_cgroup
from host_agent.ebpf.errors import InterfaceError
from host_agent.ebpf.flows import monotonic_after
from host_agent.protocol.flow_request import FlowRequest
from host_agent.protocol.policy_document import PolicyDocument
from host_agent.protocol.stamp import TCP_OPTION_BYTES, Flags, Stage, Stamp, StampError, from_tcp_option
from mfs_ctrl import policies
from tests.support.agent import (
    INTERFACE,
    Agent,
    Capture,
    Host,
    cgroup,
    connected,
    in_child,
    ip,
    linked,
    received,
    running,
    transferred,
)
from tests.support.controller import eventually

RULES = policies.mfs().rules
RATE_BPS = 10_000_000_000
HOUR_US = 1_800_000_000
TIME_STAMP = b"\x01\x01\x08\x0a"
FULL_BYTES = 1448
"""Payload of a full segment with time stamps."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with linked() as pair:
        try:
            with sockets.opened(None):
                pass
        except InterfaceError as error:
            pytest.skip(str(error))
        for host in pair:
            ip("-n", host.name, "addr", "add", f"fd77::{host.address[-1]}/64", "dev", INTERFACE, "nodad")
        yield pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    document = PolicyDocument("mfs", RULES)
    (tmp_path / "state" / f"policy-{INTERFACE}.json").write_text(document.to_json(), "utf-8")
    return tmp_path


def set_tcp(hosts: tuple[Host, Host], name: str, value: int) -> None:
    for host in hosts:
        host.inside(lambda: Path(f"/proc/sys/net/ipv4/{name}").write_text(f"{value}\n", "ascii"))


def segments(capture: Capture) -> list[tuple[bytes, Stamp | None, int, bytes]]:
    """The TCP segments since the last call: options, stamp, payload bytes, and the frame."""
    found = []
    for frame in capture.frames():
        kind, start = frame[12:14], 34 if frame[12:14] == b"\x08\x00" else 54
        if kind not in (b"\x08\x00", b"\x86\xdd") or frame[23 if kind == b"\x08\x00" else 20] != 6:
            continue
        header = (frame[start + 12] >> 4) * 4
        options = frame[start + 20 : start + header]
        try:
            stamp = from_tcp_option(options[-TCP_OPTION_BYTES:])
        except StampError:
            stamp = None
        found.append((options, stamp, len(frame) - start - header, frame))
    return found


def opened(client: AgentClient, match: socket.socket | Match, **more: Any) -> Any:
    fields = {"batch": 77, "stage": Stage.P2D, "slack_us": HOUR_US, "total_bytes": 1 << 30, "target_layer": 4, **more}
    return client.open(match, **fields)


def counters(client: AgentClient) -> dict[str, Any]:
    found: dict[str, Any] = client.status()["counters"]
    return found


@pytest.mark.parametrize("time_stamps", [True, False])
@pytest.mark.parametrize("family", [4, 6])
def test_every_segment_of_a_flow_carries_the_option_where_the_switch_looks_for_it(
    hosts: tuple[Host, Host], folder: Path, time_stamps: bool, family: int
) -> None:
    sender, receiver = hosts
    set_tcp(hosts, "tcp_timestamps", int(time_stamps))
    data = random.Random(1).randbytes(600_000)
    before = sender.settings()
    with running(sender, folder, carrier="option") as agent, running(receiver, folder, carrier="option") as other:
        during, received_by = sender.settings(), sender.ingress()
        near, far = connected(sender, receiver, family)
        sent, heard = sender.capture(), sender.capture(outgoing=False)
        with near, far, agent.client() as client, other.client() as far_client:
            flow = opened(client, near, total_bytes=len(data))
            assert transferred(near, far, data) == data
            eventually(lambda: counters(far_client)["read"] > 0)
            status, far_counters = client.status(), counters(far_client)
        out = [each for each in segments(sent) if each[2]]
        back = segments(heard)
        sent.close()
        heard.close()
    lead = TIME_STAMP if time_stamps else b""
    assert {len(options) for options, *_ in out} == {len(lead) + (8 if time_stamps else 0) + TCP_OPTION_BYTES}
    assert all(options.startswith(lead) for options, *_ in out)
    stamps = [stamp for _, stamp, *_ in out]
    assert all(stamp is not None for stamp in stamps)
    told = [stamp for stamp in stamps if stamp is not None]
    assert {(s.stage, s.batch, s.flow, s.target_layer) for s in told} == {(Stage.P2D, 77, flow.number, 4)}
    assert told[0].flags == Flags.FIRST | Flags.BOUNDARY
    assert told[-1].flags & Flags.LAST
    assert told[0].remaining == -(-len(data) // 256)
    # Acknowledgements carry batch and progress back.
    answers = [stamp for _, stamp, length, _ in back if stamp is not None and not length]
    assert answers
    assert {(s.stage, s.batch) for s in answers} == {(Stage.NONE, 77)}
    # Nothing of the interface but queueing and the egress hook changes.
    kept = ("tx-", "segmentation", "checksum", "scope link", "1500\n")
    unchanged = [line for line in before.splitlines(keepends=True) if any(word in line for word in kept)]
    assert len(unchanged) > 20
    assert set(unchanged) <= set(during.splitlines(keepends=True))
    assert "mfs_tc_strip" in received_by
    assert "mfs_tc_ingress" not in received_by, "only shims are looked at"
    [shown] = status["flows"]
    assert (shown["sent_bytes"], shown["unstamped"]) == (len(data), 0)
    assert status["carrier"] == "option"
    assert status["counters"]["shared"] > 0, "large packets are stamped before the interface segments them"
    assert far_counters["malformed"] == 0


def test_segments_become_no_longer_than_the_link_when_a_flow_is_opened_on_a_busy_connection(
    hosts: tuple[Host, Host], folder: Path
) -> None:
    sender, receiver = hosts
    set_tcp(hosts, "tcp_timestamps", 1)
    run = ["ip", "netns", "exec", sender.name, "ethtool", "-K", INTERFACE]
    subprocess.run([*run, "tso", "off", "gso", "off"], check=True, capture_output=True)
    try:
        with running(sender, folder, carrier="option") as agent, running(receiver, folder, carrier="option"):
            near, far = connected(sender, receiver)
            capture = sender.capture()
            before = refused(sender)
            with near, far, agent.client() as client:
                done = threading.Event()

                def keep_sending() -> None:
                    while not done.is_set():
                        near.sendall(bytes(100_000))
                    near.shutdown(socket.SHUT_WR)

                thread = threading.Thread(target=keep_sending)
                reader = threading.Thread(target=lambda: all(iter(lambda: far.recv(1 << 20), b"")))
                thread.start()
                reader.start()
                for _ in range(40):
                    flow = opened(client, near)
                    time.sleep(0.01)
                    flow.close()
                    time.sleep(0.01)
                done.set()
                thread.join()
                reader.join()
            found = segments(capture)
            capture.close()
        assert max(len(frame) for *_, frame in found) <= 1514
        assert Counter(stamp is not None for _, stamp, length, _ in found if length).keys() == {True, False}
        assert refused(sender) == before
    finally:
        subprocess.run([*run, "tso", "on", "gso", "on"], check=True, capture_output=True)


def refused(host: Host) -> list[str]:
    """How many packets were too long for the link or were cut, by the host's IP."""
    text = host.inside(lambda: Path("/proc/thread-self/net/snmp").read_text("ascii"))
    names, values = (line.split() for line in text.splitlines() if line.startswith("Ip:"))
    return [values[names.index(name)] for name in ("FragOKs", "FragFails", "FragCreates")]


def test_a_connection_that_is_older_than_the_agent_leaves_unstamped_and_is_counted(
    hosts: tuple[Host, Host], folder: Path
) -> None:
    sender, receiver = hosts
    near, far = connected(sender, receiver)
    with near, far, running(sender, folder, carrier="option") as agent, agent.client() as client:
        opened(client, near)
        capture = sender.capture()
        near.sendall(bytes(5000))
        assert len(received(far, 5000)) == 5000
        assert all(stamp is None for _, stamp, *_ in segments(capture))
        capture.close()
        status = client.status()
        assert (status["counters"]["stamped"], status["counters"]["unready"] > 0) == (0, True)
        [flow] = status["flows"]
        assert (flow["unstamped"], flow["sent_bytes"]) == (status["counters"]["unready"], 5000)
        assert flow["level"] is not None, "it is ordered all the same"
        text = sender.mfs("agent", "status", "--socket", str(agent.socket)).stdout
        assert "connection older than the agent" in text


def test_flows_of_a_cgroup_and_of_addresses(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, receiver = hosts

    def send(path: Path, address: tuple[str, int]) -> None:
        (path / "cgroup.procs").write_text(str(os.getpid()), "ascii")
        with socket.create_connection(address) as near:
            for _ in range(20):
                near.sendall(bytes(500))
                near.recv(1)

    with cgroup() as path, running(sender, folder, carrier="option") as agent, agent.client() as client:
        opened(client, Match(cgroup=path.stat().st_ino), batch=3)
        capture = receiver.capture(outgoing=False)
        with receiver.inside(lambda: socket.create_server((receiver.address, 0))) as server:

            def answer() -> None:
                far, _ = server.accept()
                with far:
                    while far.recv(500):
                        far.send(b"x")

            thread = threading.Thread(target=answer)
            thread.start()
            assert sender.inside(lambda: in_child(lambda: send(path, server.getsockname()))) == "None"
            thread.join()
        data = [stamp for _, stamp, length, _ in segments(capture) if length]
        capture.close()
        # Its connections are told by what opens them; a packet that comes before leaves without.
        assert data.count(None) <= 1
        assert {stamp.batch for stamp in data if stamp is not None} == {3}
        near, far = connected(sender, receiver)
        with near, far:
            ends = FiveTuple("tcp", *near.getsockname()[:2], *near.getpeername()[:2])
            opened(client, Match(addresses=ends), batch=4)
            capture = receiver.capture(outgoing=False)
            near.sendall(bytes(3000))
            received(far, 3000)
            assert {stamp and stamp.batch for _, stamp, length, _ in segments(capture) if length} == {4}
            capture.close()


def test_a_connection_goes_from_one_flow_to_the_next_at_once(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, receiver = hosts
    with running(sender, folder, carrier="option") as agent, agent.client() as client:
        near, far = connected(sender, receiver)
        capture = sender.capture()
        with near, far:
            ends = FiveTuple("tcp", *near.getsockname()[:2], *near.getpeername()[:2])

            def batches() -> set[int | None]:
                near.sendall(bytes(5000))
                received(far, 5000)
                return {stamp and stamp.batch for _, stamp, length, _ in segments(capture) if length}

            assert batches() == {None}
            by_addresses = opened(client, Match(addresses=ends), batch=3)
            assert batches() == {3}
            by_socket = opened(client, near, batch=4)
            assert batches() == {4}, "its socket tells more than its addresses"
            by_socket.close()
            assert batches() == {3}
            by_addresses.close()
            assert batches() == {None}
            opened(client, near, batch=5)
            assert batches() == {5}
        capture.close()


def test_progress_reaches_the_sender_in_acknowledgements(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, receiver = hosts
    with ExitStack() as stack:
        agent, other = (stack.enter_context(running(host, folder, carrier="option")) for host in hosts)
        near, far = map(stack.enter_context, connected(sender, receiver))
        client, far_client = stack.enter_context(agent.client()), stack.enter_context(other.client())
        opened(client, near, batch=5, stage=Stage.KV_REUSE, message_bytes=1000, target_layer=30)

        def level() -> int:
            near.sendall(bytes(1000))
            received(far, 1000)
            return int(client.status()["flows"][0]["level"])

        before = level()
        assert client.progress(5) == 0, "what another host knows is not known before it is told"
        far_client.advance(batch=5, layer=30)
        eventually(lambda: level() > before)
        assert client.progress(5) == 30


def test_udp_leaves_unstamped_and_is_counted(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, receiver = hosts
    with running(sender, folder, carrier="option") as agent, agent.client() as client:
        with sender.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
            udp.connect((receiver.address, 9))
            opened(client, udp)
            capture = sender.capture()
            udp.send(bytes(100))
            [frame] = [frame for frame in capture.frames() if frame[23] == 17]
            capture.close()
        assert len(frame) == 142
        assert counters(client)["not_tcp"] == 1


def root_programs() -> set[int]:
    """The agents' programs at the root of the cgroups."""
    with sockets.opened(None) as descriptor:
        found = set()
        for number in attached_to_cgroup(descriptor):
            program = Program.of_id(number)
            if program.info().name == "mfs_sock_ops":
                found.add(number)
            program.close()
        return found


def test_an_agent_that_ends_or_is_killed_leaves_what_the_next_one_needs_and_nothing_else(
    hosts: tuple[Host, Host], folder: Path
) -> None:
    sender, receiver = hosts
    before, programs = sender.settings(), root_programs()
    near, far = connected(sender, receiver)
    near.close()
    far.close()
    with running(receiver, folder, carrier="option"), ExitStack() as stack:
        agent = Agent(sender, folder, carrier="option")
        near, far = map(stack.enter_context, connected(sender, receiver))
        client = stack.enter_context(agent.client())
        flow = opened(client, near)
        near.sendall(bytes(1000))
        received(far, 1000)
        agent.kill()
        capture = sender.capture()
        near.sendall(bytes(1000))
        received(far, 1000)
        assert {stamp and stamp.flow for _, stamp, length, _ in segments(capture) if length} == {flow.number}
        again = Agent(sender, folder, "--grace", "60", carrier="option")
        assert "took over" in again.said
        flow.update(slack_us=50_000)
        assert client.status()["flows"][0]["sent_bytes"] == 2000
        near.sendall(bytes(1000))
        received(far, 1000)
        assert {stamp and stamp.flow for _, stamp, length, _ in segments(capture) if length} == {flow.number}
        again.end()
        # An orderly end: the connection goes on without stamps, also with the next agent.
        near.sendall(bytes(1000))
        received(far, 1000)
        assert {stamp for _, stamp, length, _ in segments(capture) if length} == {None}
        assert sender.settings() == before
        with running(sender, folder, carrier="option") as last, last.client() as fresh:
            opened(fresh, near, batch=8)
            near.sendall(bytes(1000))
            received(far, 1000)
            assert {stamp and stamp.batch for _, stamp, length, _ in segments(capture) if length} == {8}
        capture.close()
        for cut in (False, True):
            agent = Agent(sender, folder, carrier="option")
            agent.kill()
            if cut:
                for path in (folder / "state").glob(f"{INTERFACE}-*.json"):
                    path.unlink()
                assert agent.detach().stdout == f"{INTERFACE}: detached\n"
            else:
                assert sender.inside(lambda: clean(folder / "state")) == [INTERFACE]
            assert len(root_programs() - programs) == 1, "the receiver's"
    assert root_programs() == programs


def test_the_program_of_a_killed_agent_whose_namespace_is_gone_is_cleaned_and_no_other(folder: Path) -> None:
    before = root_programs()
    with linked() as (gone, alive), running(alive, folder, carrier="option"):
        others = root_programs()
        (running_one,) = others - before
        Agent(gone, folder, carrier="option").kill()
        (left,) = root_programs() - others
        assert f"socket program {left}" not in sockets.clean()
        ip("netns", "del", gone.name)
        assert f"socket program {left}" in sockets.clean()
        # What killed agents had left before the test may have gone as well.
        assert running_one in root_programs() <= others


@pytest.mark.parametrize(("from_carrier", "to_carrier"), [("option", "shim"), ("shim", "option")])
def test_an_agent_with_another_carrier_replaces_a_killed_one(
    hosts: tuple[Host, Host], folder: Path, from_carrier: str, to_carrier: str
) -> None:
    sender, _ = hosts
    before, programs = sender.settings(), root_programs()
    agent = Agent(sender, folder, carrier=from_carrier)
    agent.kill()
    with running(sender, folder, carrier=to_carrier) as again, again.client() as client:
        assert "took over" not in again.said
        assert client.status()["carrier"] == to_carrier
        assert len(root_programs() - programs) == (to_carrier == "option")
        assert "mfs_tc_strip" in sender.ingress(), "others may still send the other carrier"
    assert sender.settings() == before
    assert root_programs() == programs


def test_auto_takes_the_option_and_a_cgroup_limits_it(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, receiver = hosts
    with running(sender, folder, carrier="auto") as agent, agent.client() as client:
        assert client.status()["carrier"] == "option"
    options = InterfaceOptions(INTERFACE, RATE_BPS, carrier="option")
    with cgroup() as path, contextlib.closing(sender.inside(lambda: StateFile(folder, INTERFACE))) as state:
        attached = sender.inside(lambda: attach(replace(options, cgroup=str(path)), state))
        try:
            near, far = connected(sender, receiver)
            with near, far:
                ends = FiveTuple("tcp", *near.getsockname()[:2], *near.getpeername()[:2])
                flow = FlowRequest(Match(addresses=ends), 9, Stage.P2D, monotonic_after(HOUR_US), 1 << 20)
                attached.table.open(flow)
                near.sendall(bytes(100))
                received(far, 100)
            found = attached.table.counters()
            assert (found.stamped, found.unready > 0) == (0, True)
        finally:
            left = state.read()
            assert left is not None
            sender.inside(lambda: restore(left))
            state.remove()
    said = sender.mfs(
        "agent", "run", "--interface", INTERFACE, "--policy-url", "http://127.0.0.1:1", "--cgroup", "/proc/self",
        "--state-dir", str(folder / "state"), "--socket", str(folder / "x.sock"), "--carrier", "option",
    )  # fmt: skip
    assert said.returncode == 1
    assert "cgroup" in said.stderr
    assert "Traceback" not in said.stderr
