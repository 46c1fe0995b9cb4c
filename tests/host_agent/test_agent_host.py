"""The agent on real interfaces: TCP over a veth pair between network namespaces, and its socket."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from host_agent import AgentClient, AgentError, AgentGoneError, Match
from host_agent.daemon.hooks import clean
from host_agent.daemon.netlink import link_rate_bps
from host_agent.daemon.options import InterfaceOptions, ServiceOptions
from host_agent.daemon.service import run_agent
from host_agent.http_endpoint import ServerTls
from host_agent.protocol.level import bias_code, decide, level_key
from host_agent.protocol.policy_document import PolicyDocument
from host_agent.protocol.stamp import LEVELS, SCAVENGER, TOP_LEVEL, Flags, Stage
from mfs_ctrl import policies
from mfs_ctrl.policy_server import PolicyServer
from tests.support.agent import (
    INTERFACE,
    SECONDS,
    Agent,
    Host,
    as_nobody,
    cgroup,
    connected,
    in_child,
    ip,
    linked,
    received,
    running,
    transferred,
)
from tests.support.certificates import self_signed
from tests.support.controller import eventually
from topologies.processes import free_port

RULES = policies.mfs().rules
RATE_BPS = 10_000_000_000
HOUR_US = 1_800_000_000


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with linked() as pair:
        yield pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a policy as an agent saves it, so that no controller is needed."""
    (tmp_path / "state").mkdir()
    document = PolicyDocument("mfs", RULES)
    (tmp_path / "state" / f"policy-{INTERFACE}.json").write_text(document.to_json(), "utf-8")
    return tmp_path


@pytest.mark.parametrize(("segmentation", "ingress"), [("kernel", "filter"), ("each", "xdp")])
def test_tcp_is_stamped_in_the_kernel_and_arrives_intact(
    hosts: tuple[Host, Host], folder: Path, segmentation: str, ingress: str
) -> None:
    sender, receiver = hosts
    data = random.Random(1).randbytes(400_000)
    with (
        running(sender, folder, "--segmentation", segmentation) as agent,
        running(receiver, folder, "--ingress", ingress),
    ):
        near, far = connected(sender, receiver)
        capture = sender.capture()
        with near, far, agent.client() as client:
            client.open(near, batch=77, stage=Stage.P2D, slack_us=HOUR_US, total_bytes=len(data), target_layer=4)
            assert transferred(near, far, data) == data
            status = client.status()
        found = [(stamp, rest) for stamp, rest in capture.stamps() if stamp.stage is Stage.P2D]
        capture.close()
    assert all(len(rest) <= 1476 for _, rest in found)
    assert len(found) >= len(data) // 1436
    first, last = found[0][0], found[-1][0]
    assert {(stamp.batch, stamp.target_layer, stamp.next_type) for stamp, _ in found} == {(77, 4, 0x0800)}
    assert first.remaining == -(-len(data) // 256)
    assert (first.flags, last.flags & Flags.LAST) == (Flags.FIRST | Flags.BOUNDARY, Flags.LAST)
    remaining = [stamp.remaining for stamp, _ in found]
    if segmentation == "each":
        assert len(set(remaining)) > len(data) // 1500
    assert HOUR_US - 60_000_000 < first.slack_us <= HOUR_US
    [flow] = status["flows"]
    expected = decide(RULES, level_key(Stage.P2D, 4, first.slack_us, first.remaining, bias_code(RATE_BPS)))
    assert flow["level"] == expected
    assert status["counters"]["level_packets"][expected] > 0
    # Acknowledgements are stamped too.
    assert status["counters"]["removed"] > 0
    assert flow["sent_bytes"] == len(data)


def test_the_rate_of_a_link_is_that_of_this_network_namespace(hosts: tuple[Host, Host]) -> None:
    sender, _ = hosts
    # Entered without a new /sys, as by nsenter --net: it shows the interfaces of the first namespace.
    assert sender.inside(lambda: link_rate_bps(sender.interface)) == RATE_BPS
    assert link_rate_bps("lo") is None
    assert link_rate_bps("nosuch") is None


def test_everything_a_cgroup_sends_arrives_stamped_at_a_host_without_an_agent(
    hosts: tuple[Host, Host], folder: Path
) -> None:
    sender, receiver = hosts

    def send(path: Path) -> None:
        (path / "cgroup.procs").write_text(str(os.getpid()), "ascii")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for _ in range(3):
                udp.sendto(bytes(500), (receiver.address, 9))

    with cgroup() as path, running(sender, folder) as agent, agent.client() as client:
        match = Match(cgroup=path.stat().st_ino)
        client.open(match, batch=3, stage=Stage.COLLECTIVE, total_bytes=1500, slack_us=HOUR_US)
        capture = receiver.capture(outgoing=False)
        assert sender.inside(lambda: in_child(lambda: send(path))) == "None"
        stamps = capture.stamps()
        capture.close()
    assert [(stamp.batch, stamp.remaining, stamp.stage) for stamp, _ in stamps] == [
        (3, units, Stage.COLLECTIVE) for units in (6, 4, 2)
    ]
    assert [len(rest) for _, rest in stamps] == [528] * 3


def test_progress_known_to_the_receiver_promotes_the_senders_flow(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, receiver = hosts
    message = bytes(1000)
    with ExitStack() as stack:
        agent, other = (stack.enter_context(running(host, folder)) for host in hosts)
        near, far = map(stack.enter_context, connected(sender, receiver))
        client, far_client = stack.enter_context(agent.client()), stack.enter_context(other.client())
        client.open(
            near,
            batch=5,
            stage=Stage.KV_REUSE,
            slack_us=HOUR_US,
            total_bytes=1 << 20,
            message_bytes=len(message),
            target_layer=30,
        )

        def level() -> int:
            near.sendall(message)
            received(far, len(message))
            return int(client.status()["flows"][0]["level"])

        before = level()
        far_client.advance(batch=5, layer=30)
        eventually(lambda: level() > before)
        assert client.progress(5) == 30


def test_a_higher_level_leaves_first(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, receiver = hosts
    with ExitStack() as stack:
        agent = stack.enter_context(running(sender, folder, "--rate", "50M"))
        stack.enter_context(running(receiver, folder))
        client = stack.enter_context(agent.client())
        pairs = [connected(sender, receiver) for _ in range(2)]
        for (near, far), stage, pruned in zip(pairs, (Stage.COLLECTIVE, Stage.P2D), (False, True), strict=True):
            stack.enter_context(near)
            stack.enter_context(far)
            client.open(near, batch=6, stage=stage, pruned=pruned, slack_us=HOUR_US, total_bytes=1 << 40)
        got = [0, 0]
        until = threading.Event()

        def push(near: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while not until.is_set():
                    near.send(bytes(1 << 14))

        def pull(index: int) -> None:
            with contextlib.suppress(OSError):
                while not until.is_set():
                    got[index] += len(pairs[index][1].recv(1 << 16))
                    if sum(got) > 6_000_000:
                        until.set()

        threads = [threading.Thread(target=push, args=(near,)) for near, _ in pairs]
        threads += [threading.Thread(target=pull, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        assert until.wait(SECONDS)
        for near, far in pairs:
            near.shutdown(socket.SHUT_RDWR)
            far.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        levels = {flow["level"] for flow in client.status()["flows"]}
    assert SCAVENGER in levels
    assert len(levels) == 2
    assert got[0] > 4 * got[1]


def test_the_controllers_policy_is_fetched_and_outlives_the_controller(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    sender, _ = hosts
    server = sender.inside(lambda: PolicyServer("127.0.0.1:0"))
    server.publish(policies.mfs(), {})
    with running(sender, tmp_path, "--interval", "0.05", policy_url=server.url) as agent, agent.client() as client:
        assert "policy mfs in force" in agent.said
        server.publish(policies.static(), {})
        agent.until("policy static in force")
        server.close()
        agent.until("cannot be reached")
        assert client.status()["policy"]["name"] == "static"
    with running(sender, tmp_path, policy_url=server.url) as agent:
        assert "policy static in force" in agent.said


def test_a_controller_that_returns_with_the_same_policy_answers_again(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    sender, _ = hosts
    address = f"127.0.0.1:{sender.inside(free_port)}"

    def serving() -> PolicyServer:
        server = sender.inside(lambda: PolicyServer(address))
        server.publish(policies.mfs(), {})
        return server

    with (
        serving() as server,
        running(sender, tmp_path, "--interval", "0.1", policy_url=server.url) as agent,
        agent.client() as client,
    ):

        def said() -> str:
            return str(client.status()["policy"]["controller"])

        assert said() == "answers"
        server.close()
        eventually(lambda: "cannot be reached" in said())
        with serving():
            eventually(lambda: said() == "answers")


def test_policy_over_tls_metrics_and_health(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    sender, _ = hosts
    self_signed(tmp_path, "controller")
    tls = ServerTls(tmp_path / "controller.pem", tmp_path / "controller.key")

    def get(agent: Agent, path: str) -> str:
        [url] = re.findall(r"serving metrics at (\S+)/metrics", agent.said)

        def ask() -> str:
            with urllib.request.urlopen(url + path, timeout=SECONDS) as answer:
                text: str = answer.read().decode()
                return text

        return sender.inside(ask)

    with sender.inside(lambda: PolicyServer("0", tls)) as server:
        server.publish(policies.mfs(), {})
        words = ("--policy-ca", str(tls.certificate), "--metrics-listen", "0")
        with running(sender, tmp_path, *words, policy_url=server.url) as agent:
            assert "policy mfs in force" in agent.said
            [heard] = server.agents.alive()
            assert (heard.interface, heard.carrier) == (sender.interface, "shim")
            assert get(agent, "/readyz") == "ok\n"
            metrics = get(agent, "/metrics")
            names = {family.name for family in text_string_to_metric_families(metrics)}
            assert {"mfs_agent_stamped_packets", "mfs_agent_flows", "process_open_fds"} <= names
            assert f'mfs_agent_controller_reachable{{interface="{sender.interface}"}} 1.0' in metrics
    with running(sender, tmp_path / "other", "--metrics-listen", "0") as agent:
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(agent, "/readyz")
        assert get(agent, "/healthz") == "ok\n"


def test_file_permissions_decide_who_may_open_flows(hosts: tuple[Host, Host], folder: Path) -> None:
    for mode, allowed in (("0660", False), ("0666", True)):
        with running(hosts[0], folder, "--mode", mode) as agent:
            # Each session of pytest that starts closes its folder to others again.
            for parent in (folder, *folder.parents[:-2]):
                os.chmod(parent, 0o755)
            said = as_nobody(lambda: AgentClient(str(agent.socket)).progress(1))
            assert said == "0" if allowed else said.endswith("Permission denied")


def test_bad_requests_get_an_answer_and_change_nothing(hosts: tuple[Host, Host], folder: Path) -> None:
    addresses = {"protocol": "udp", "source": "10.0.0.1", "source_port": 1, "destination": "10.0.0.2"}
    whole = {"match": {"cookie": 5}, "batch": 1, "stage": "P2D", "slack_us": 1, "total_bytes": 1}
    cases: list[tuple[object, str]] = [
        ([], "JSON object"),
        ({"op": "fly"}, "unknown operation"),
        ({"op": "status", "verbose": 1}, "does not take verbose"),
        ({"op": "open"}, "deadline"),
        ({"op": "open", **whole, "stage": "P3D"}, "unknown stage"),
        ({"op": "open", **whole, "stage": 0}, "stage"),
        ({"op": "open", **whole, "match": {"port": 5}}, "unknown match"),
        ({"op": "open", **whole, "match": {"addresses": addresses}}, "exactly these fields"),
        (
            {"op": "open", **whole, "match": {"addresses": {**addresses, "destination_port": "x"}}},
            "destination_port 'x'",
        ),
        ({"op": "open", **whole, "match": {"cgroup": "/no/such"}}, "no cgroup"),
        ({"op": "open", **whole, "total_bytes": 0}, "total_bytes"),
        ({"op": "open", **whole, "batch": 1 << 32}, "batch"),
        ({"op": "open", **whole, "deadline_ns": 5}, "give one"),
        ({"op": "update", "flow": 3}, "no flow 3"),
        ({"op": "close", "flow": "3"}, "number"),
        ({"op": "advance", "batch": 1, "layer": 256}, "layer"),
    ]
    with running(hosts[0], folder) as agent, agent.client() as client:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(SECONDS)
            raw.connect(str(agent.socket))
            answers = raw.makefile("rb")
            for request, words in cases:
                raw.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(answers.readline())
                assert not answer["ok"]
                assert words in answer["error"], answer
            for text in (b"{", b"[" * 60_000):
                raw.sendall(text + b"\n")
                assert "not JSON" in json.loads(answers.readline())["error"]
            raw.sendall(b"x" * (1 << 17) + b"\n")
            assert "bytes at most" in json.loads(answers.readline())["error"]
            answers.close()
        assert client.status()["flows"] == []


def test_flows_end_with_their_client_unless_kept(hosts: tuple[Host, Host], folder: Path) -> None:
    with running(hosts[0], folder) as agent, agent.client() as watcher:
        client = agent.client()
        for cookie, keep in ((1, False), (2, True)):
            match = Match(cookie=cookie)
            client.open(match, batch=1, stage=Stage.P2D, slack_us=HOUR_US, total_bytes=10, keep=keep)
        owned, kept = (flow["flow"] for flow in watcher.status()["flows"])
        with pytest.raises(AgentError, match="another client"):
            watcher.ask("close", flow=owned)
        client.close()
        eventually(lambda: len(watcher.status()["flows"]) == 1)
        watcher.ask("close", flow=kept)
        assert watcher.status()["flows"] == []


def test_a_killed_agents_programs_continue_and_the_next_agent_takes_them_over(
    hosts: tuple[Host, Host], folder: Path
) -> None:
    sender, receiver = hosts
    before = sender.settings()
    with running(receiver, folder), ExitStack() as stack:
        near, far = map(stack.enter_context, connected(sender, receiver))
        agent = Agent(sender, folder)
        client = stack.enter_context(agent.client())
        flow = client.open(near, batch=9, stage=Stage.P2D, slack_us=HOUR_US, total_bytes=1 << 30)
        near.sendall(bytes(1000))
        assert len(received(far, 1000)) == 1000
        agent.kill()
        capture = sender.capture()
        near.sendall(bytes(1000))
        assert len(received(far, 1000)) == 1000
        assert [stamp.flow for stamp, rest in capture.stamps() if stamp.stage] == [flow.number]
        capture.close()
        with pytest.raises(AgentGoneError):
            client.status()
        with running(sender, folder, "--grace", "60") as again, again.client() as watcher:
            assert "took over" in again.said
            # The first packets still count.
            flow.update(slack_us=50_000)
            [found] = client.status()["flows"]
            assert (found["sent_bytes"], found["number"], found["owner"]) == (2000, flow.number, "client")
            assert found["slack_us"] <= 50_000
            again.kill()
        with running(sender, folder, "--grace", "0.1") as last, last.client() as watcher:
            eventually(lambda: watcher.status()["flows"] == [])
    assert sender.settings() == before


@pytest.mark.parametrize("carrier", ["shim", "option"])
def test_an_agent_with_another_rate_keeps_the_queue_and_sets_its_rate(
    hosts: tuple[Host, Host], folder: Path, carrier: str
) -> None:
    sender, receiver = hosts
    before = sender.settings()
    agent = Agent(sender, folder, "--rate", "50M", "--segmentation", "each", carrier=carrier)
    near, far = connected(sender, receiver)
    with near, far:
        assert transferred(near, far, bytes(1000)) == bytes(1000)
    agent.kill()
    sent = sent_packets(sender)
    agent = Agent(sender, folder, "--rate", "80M", "--segmentation", "each", carrier=carrier)
    assert "took over" not in agent.said
    assert sent_packets(sender) >= sent > 0, "a queue that was added again counts from 0"
    rates = {line.split()[2]: line.split()[line.split().index("ceil") + 1] for line in traffic_classes(sender)}
    assert len(rates) == LEVELS + 1
    assert {rate[:2] for rate in rates.values()} <= {"80", "79", "78"}
    agent.kill()
    # Without an order of its own, the next one removes it.
    agent = Agent(sender, folder, "--no-order", carrier=carrier)
    assert traffic_classes(sender) == []
    agent.end()
    agent.detach()
    assert sender.settings() == before


def sent_packets(host: Host) -> int:
    """Packets that the root qdisc has sent."""
    shown = tc(host, "-s", "qdisc", "show", "dev", INTERFACE, "root")
    return int(re.findall(r"Sent \d+ bytes (\d+) pkt", shown)[0])


def traffic_classes(host: Host) -> list[str]:
    return tc(host, "class", "show", "dev", INTERFACE).splitlines()


def tc(host: Host, *words: str) -> str:
    return ip("netns", "exec", host.name, "tc", *words)


def test_sigterm_and_detach_restore_everything(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, _ = hosts
    ip("-n", sender.name, "route", "add", "10.78.0.0/16", "via", "10.77.0.2", "metric", "7", "mtu", "1490")
    ip("-n", sender.name, "route", "add", "10.79.0.0/16", "via", "10.77.0.2", "table", "100", "advmss", "1400")
    before = sender.settings()
    for segmentation in ("kernel", "each"):
        agent = Agent(sender, folder, "--segmentation", segmentation)
        during = sender.settings()
        assert during.count("mtu 1476") == 3
        assert all(word in during for word in ("htb", "clsact", "mfs_egress"))
        with agent.client() as client:
            client.status()
            said = agent.end()
        assert said.endswith("detached\n")
        assert "Traceback" not in said
        # Others may go on sending stamps to it.
        assert "mfs_tc_strip" in sender.ingress()
        assert agent.detach().stdout == f"{INTERFACE}: detached\n"
        assert sender.settings() == before
        assert not list((folder / "state").glob(f"{INTERFACE}-*.json"))
    agent = Agent(sender, folder, "--segmentation", "each")
    assert "is running" in agent.detach().stderr
    agent.kill()
    assert agent.detach().stdout == f"{INTERFACE}: detached\n"
    assert sender.settings() == before
    assert "no agent left anything" in agent.detach().stdout
    agent = Agent(sender, folder)
    assert sender.inside(lambda: clean(folder / "state")) == [], "a running agent is not touched"
    agent.kill()
    assert sender.inside(lambda: clean(folder / "state")) == [INTERFACE]
    assert sender.settings() == before
    # Even without the state file, programs and classes are removed.
    agent = Agent(sender, folder)
    agent.kill()
    for path in (folder / "state").glob(f"{INTERFACE}-*.json"):
        path.unlink()
    agent.detach()
    left = sender.settings()
    assert not any(word in left for word in ("htb", "clsact", "mfs_egress", "xdp"))
    for words in (("10.77.0.0/24", "src", "10.77.0.1", "scope", "link", "proto", "kernel"),):
        ip("-n", sender.name, "route", "change", *words, "dev", INTERFACE)


def test_the_shortest_timeout_of_routes_is_raised_and_restored(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, _ = hosts
    before = sender.settings()
    agent = Agent(sender, folder, "--rto-min", "1.5")
    assert "rto_min lock 1.5s" in sender.settings()
    agent.end()
    agent.detach()
    assert sender.settings() == before


def test_time_stamps_of_tcp_are_warned_of(hosts: tuple[Host, Host], folder: Path) -> None:
    sender, _ = hosts
    setting = Path("/proc/sys/net/ipv4/tcp_timestamps")
    for value, warned in (("1", True), ("0", False)):
        sender.inside(lambda value=value: setting.write_text(value))  # type: ignore[misc]
        agent = Agent(sender, folder)
        with agent.client() as client:
            assert client.status()["tcp_timestamps"] is warned
        agent.end()
        assert ("sysctl -w net.ipv4.tcp_timestamps=0" in agent.said) is warned


def error_of(host: Host, folder: Path, *arguments: str) -> str:
    words = ("--policy-url", "http://127.0.0.1:1", "--socket", str(folder / "s"), "--state-dir", str(folder / "state"))
    done = host.mfs("agent", "run", *words, *arguments)
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    return lines[0]


def test_a_failed_start_says_why_in_one_line_and_changes_nothing(hosts: tuple[Host, Host], folder: Path) -> None:
    host = hosts[1]
    here = ("--interface", INTERFACE)
    assert "no interface 'eth9'" in error_of(host, folder, "--interface", "eth9")
    assert "not an Ethernet" in error_of(host, folder, "--interface", "lo")
    assert "http://" in error_of(host, folder, *here, "--policy-url", "controller")
    untouched = host.settings()
    assert "no group" in error_of(host, folder, *here, "--group", "no-such-group")
    assert "cannot serve" in error_of(host, folder, *here, "--socket", str(folder / "no" / "such" / "s"))
    assert not (folder / "no").exists()
    assert "not a socket" in error_of(host, folder, *here, "--socket", str(folder / "state"))
    assert host.settings() == untouched
    ip("netns", "exec", host.name, "tc", "qdisc", "add", "dev", INTERFACE, "root", "handle", "1:", "htb")
    ip("netns", "exec", host.name, "tc", "qdisc", "add", "dev", INTERFACE, "clsact")
    before = host.settings()
    assert "root qdisc already (htb)" in error_of(host, folder, *here)
    assert host.settings() == before
    with running(host, folder, "--no-order") as agent:
        assert "is running" in error_of(host, folder, *here)
        assert "mfs_egress" in agent.host.settings()
    assert host.settings() == before
    ip("netns", "exec", host.name, "tc", "qdisc", "del", "dev", INTERFACE, "root")
    ip("netns", "exec", host.name, "tc", "qdisc", "del", "dev", INTERFACE, "clsact")
    service = ServiceOptions("http://127.0.0.1:1", folder / "s", 0o660, None, Path("/run"), 1, 1, False)
    assert "root" in as_nobody(lambda: run_agent(InterfaceOptions(INTERFACE), service))
    os.chmod(folder / "state", 0o777)
    service = dataclasses.replace(service, state_directory=folder / "state")
    said = host.inside(lambda: as_nobody(lambda: run_agent(InterfaceOptions(INTERFACE), service)))
    assert "root" in said


def test_status_is_readable(hosts: tuple[Host, Host], folder: Path) -> None:
    with running(hosts[0], folder, "--statistics") as agent, agent.client() as client:
        client.open(Match(cgroup=77), batch=1, stage=Stage.COLLECTIVE, slack_us=HOUR_US, total_bytes=10)
        done = hosts[0].mfs("agent", "status", "--socket", str(agent.socket))
    assert done.returncode == 0
    assert "policy mfs" in done.stdout
    assert "cgroup 77" in done.stdout
    assert [line for line in done.stdout.splitlines() if line.split()[:1] == [str(TOP_LEVEL)]]
    gone = hosts[0].mfs("agent", "status", "--socket", str(agent.socket))
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert "no agent answers" in gone.stderr
