"""Several switches under one controller, each by itself; a second controller takes over from a killed one."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from host_agent.ebpf.policy import PolicySource
from host_agent.http_endpoint import Listen
from host_agent.protocol.agent_header import AgentIdentity
from mfs_ctrl import fabric_file, policies
from mfs_ctrl.cli import mfs
from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.p4rt.entries import ActionCall, Entity, Exact, TableEntry
from mfs_ctrl.p4rt.reader import Reader
from mfs_ctrl.service import Described, Settings, run
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch
from tests.support.cli import Process, message, started
from tests.support.controller import INDEX, eventually, packet, probes, serving
from tests.support.realtime import fresh_prefix, needs_ping, real_kernel, switch_on
from topologies import catalogue, namespaces
from topologies.processes import free_address

LETTERS = "abcdefgh"


def described(addresses: dict[str, str], policy: str = "static", **parameters: str) -> str:
    """The file of a fabric: racks that are not linked, with two hosts each; more lines by switch.

    The policy is one that is not tuned, so that ticks read few counters.
    """
    parts = [f'[fabric]\npolicy = "{policy}"\nrate = "1G"\n']
    for name, address in addresses.items():
        number = LETTERS.index(name) + 1
        parts.append(f'[[switch]]\nname = "{name}"\naddress = "{address}"\nmac = "02:00:00:00:ff:{number:02}"\n')
        parts.append(parameters.get(name, ""))
        parts += [
            f'[[host]]\nswitch = "{name}"\nport = {port}\nmac = "{mac(name, port)}"\nipv4 = "10.{number}.0.{port}"\n'
            for port in (1, 2)
        ]
    return "\n".join(parts)


def mac(name: str, port: int) -> str:
    return f"02:00:00:00:{LETTERS.index(name) + 1:02}:{port:02}"


def replace(path: Path, text: str) -> None:
    """Write as an editor does: beside, and renamed."""
    beside = path.with_suffix(".new")
    beside.write_text(text, "utf-8")
    beside.rename(path)


def held(address: str) -> set[Entity]:
    """What the switch at ``address`` holds, read without taking part in the election."""
    with Reader(address) as reader:
        return set(reader.read_state(INDEX))


def rules_of(address: str) -> int:
    return len(levels_of(address))


def levels_of(address: str) -> list[int]:
    """The levels that the rules of the policy in the switch give."""
    rows = [entity for entity in held(address) if isinstance(entity, TableEntry) and entity.table == "rmlq"]
    return [row.target.args[0] for row in rows if isinstance(row.target, ActionCall)]


class Switches:
    """Embedded switches by name, and how many write requests each has had."""

    def __init__(self) -> None:
        self.writes: Counter[str] = Counter()
        self.addresses: dict[str, str] = {}
        self._stacks: dict[str, ExitStack] = {}
        self.switches: dict[str, Switch] = {}

    def start(self, name: str, address: str = "127.0.0.1:0") -> None:
        stack = self._stacks[name] = ExitStack()
        self.switches[name], server = stack.enter_context(serving(address))
        self.addresses[name] = server.address
        self._count(name, server)

    def stop(self, name: str) -> None:
        self._stacks.pop(name).close()

    def close(self) -> None:
        for name in list(self._stacks):
            self.stop(name)

    def _count(self, name: str, server: P4RuntimeServer) -> None:
        write = server.device.write

        def counted(request: Any) -> Any:
            self.writes[name] += 1
            return write(request)

        server.device.write = counted  # type: ignore[method-assign]


@pytest.fixture
def switches() -> Iterator[Switches]:
    made = Switches()
    yield made
    made.close()


class Controller:
    """A running controller of the fabric in ``path``."""

    def __init__(self, path: Path, log: Callable[[], str]) -> None:
        self.log = log
        self._stop = threading.Event()
        settings = Settings(interval_s=0.2, listen=Listen("0"))
        read = Described(lambda: fabric_file.read(path), path)
        self._thread = threading.Thread(target=run, args=(read, settings), kwargs={"stop": self._stop})
        self._thread.start()
        try:
            eventually(lambda: "serving the policy at" in log())
        except BaseException:
            self._stop.set()
            raise
        found = re.search(r"serving the policy at (\S+)/policy", log())
        assert found is not None
        self.url = found[1]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            text: str = answer.read().decode()
            return text

    def switch(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status"))["switches"].get(name, {})
        return found

    def is_primary(self, *names: str) -> bool:
        return all(self.switch(name).get("ticks", 0) > 0 for name in names)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextmanager
def controlled(path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Controller]:
    caplog.set_level(logging.INFO, "mfs_ctrl")
    made = Controller(path, lambda: caplog.text)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fabric.toml"


def test_adding_removing_restarting_and_losing_a_switch_touches_no_other(
    switches: Switches, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abc":
        switches.start(name)
    addresses = {**switches.addresses, "d": free_address()}
    replace(path, described(addresses))
    with controlled(path, caplog) as controller:
        eventually(lambda: controller.is_primary("a", "b", "c"))
        before = switches.writes["a"], controller.switch("a")["ticks"]
        # One that does not answer is said once, with its name, and keeps nobody waiting.
        eventually(lambda: "d: no P4Runtime server answers" in caplog.text)
        assert rules_of(addresses["c"]) == len(policies.static().rules)

        switches.stop("b")
        eventually(lambda: "switch" in controller.switch("b")["conditions"])
        switches.start("b", addresses["b"])
        eventually(lambda: f"b: connected again to {addresses['b']}: policy static in force, program" in caplog.text)
        assert rules_of(addresses["b"]) == len(policies.static().rules)

        switches.start("d", addresses["d"])
        switches.start("e")
        replace(path, described({name: switches.addresses[name] for name in "abde"}))
        eventually(lambda: "c: no longer controlled; it keeps its entries" in caplog.text)
        eventually(lambda: controller.is_primary("d", "e"))
        assert controller.switch("c") == {}
        assert rules_of(addresses["c"]) == len(policies.static().rules)

        writes, ticks = before
        eventually(lambda: controller.switch("a")["ticks"] > ticks + 2)
        assert switches.writes["a"] == writes
        assert controller.switch("a")["conditions"] == {}
        metrics = controller.get("/metrics")
        assert 'mfs_controller_switch_losses_total{switch="a"} 0.0' in metrics
        assert 'mfs_controller_switch_losses_total{switch="b"} 1.0' in metrics
        assert controller.get("/readyz") == "ok\n"
    assert sum("d: no P4Runtime server answers" in line for line in caplog.messages) == 1
    of_switches = [record for record in caplog.records if record.name == "mfs_ctrl.control_loop"]
    assert all(re.match(r"[a-e]: ", record.getMessage()) for record in of_switches)
    assert caplog.messages[-1] == "stopped; the switches keep their entries"


def test_a_change_of_the_file_reaches_the_switches_that_it_is_about(
    switches: Switches, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        switches.start(name)
    replace(path, described(switches.addresses))
    with controlled(path, caplog) as controller:
        eventually(lambda: controller.is_primary("a", "b"))
        writes = dict(switches.writes)
        replace(path, described(switches.addresses, a="[switch.parameters]\nuntrusted_ports = [2]\n"))
        eventually(lambda: "a: changed: policy static, " in caplog.text)
        distrusted = TableEntry("edge", (("ingress_port", Exact(2)),), ActionCall("distrust", (0,)))
        assert distrusted in held(switches.addresses["a"])
        assert distrusted not in held(switches.addresses["b"])
        assert switches.writes["a"] > writes["a"]
        assert switches.writes["b"] == writes["b"]

        replace(path, described(switches.addresses).replace("[[host]]", "[[hosts]]", 1))
        eventually(lambda: "everything stays as it was before" in caplog.text)
        [wrong] = json.loads(controller.get("/status"))["conditions"].values()
        assert "[hosts]: unknown table; the tables are fabric, switch, host" in wrong
        status = CliRunner().invoke(mfs, ["status", "--controller", controller.url, "--run-dir", str(path.parent)])
        assert status.exit_code == 1
        assert f"  primary   of a ({switches.addresses['a']}), policy static" in status.output
        assert f"switch      b ({switches.addresses['b']}): mfs_v1model; 4 ports" in status.output
        assert "unknown table" in status.output

        replace(path, described(switches.addresses, policy="fifo"))
        for name in "ab":
            eventually(lambda name=name: f"{name}: changed: policy fifo" in caplog.text)
            assert rules_of(switches.addresses[name]) == len(policies.fifo().rules)
            identity = AgentIdentity(mac(name, 1), "eth0", "option", "0.2.0")
            eventually(lambda identity=identity: fetched(controller, identity) == policies.fifo().rules)
        assert json.loads(controller.get("/status"))["conditions"] == {}
        done = CliRunner().invoke(mfs, ["doctor", "--fabric", str(path), "--policy-url", controller.url])
        assert f"ok   fabric       {path}: 2 switches to control, policy fifo" in done.output
        assert f"ok   switch       b: {switches.addresses['b']} answers, 4 ports, runs this version's" in done.output
        assert f"primary of a ({switches.addresses['a']}) (policy fifo)" in done.output
        top = ["top", "--controller", controller.url, "--switch", "b", "--once", "--interval", "0.1"]
        assert f"mfs top  b ({switches.addresses['b']})" in CliRunner().invoke(mfs, top).output


def fetched(controller: Controller, identity: AgentIdentity) -> object:
    document = PolicySource(controller.url, identity=identity).fetch()
    return None if document is None else document.rules


def test_an_agent_gets_the_policy_of_its_switch(
    switches: Switches, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        switches.start(name)
    text = (
        described(switches.addresses)
        + '[[host]]\nswitch = "b"\nport = 4\nmac = "02:00:00:00:99:01"\nipv4 = "10.9.0.1"\n'
    )
    replace(path, text)
    with controlled(path, caplog) as controller:
        eventually(lambda: controller.is_primary("a", "b"))
        biases = {}
        for address in (mac("a", 2), mac("b", 1), "02:00:00:00:99:01", "02:00:00:00:77:77"):
            document = PolicySource(controller.url, identity=AgentIdentity(address, "eth0", "option", "1")).fetch()
            assert document is not None
            biases[address] = set(document.biases)
    assert list(biases.values())[:3] == [{1, 2}, {1, 2, 4}, {1, 2, 4}]
    # Agents of no known switch get a policy too.
    assert biases["02:00:00:00:77:77"] in ({1, 2}, {1, 2, 4})


def test_readiness_names_each_switch_that_is_lost(
    switches: Switches, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    switches.start("a")
    addresses = {**switches.addresses, "b": free_address(), "c": free_address()}
    replace(path, described(addresses))
    with controlled(path, caplog) as controller:
        eventually(lambda: controller.is_primary("a"))
        eventually(lambda: all("switch" in controller.switch(name)["conditions"] for name in "bc"))
        with pytest.raises(urllib.error.HTTPError, match="503") as caught:
            controller.get("/readyz")
        lines = caught.value.read().decode().splitlines()
        assert [line.split(": no P4Runtime server answers")[0] for line in lines] == ["b", "c"]


def test_an_unexpected_error_ends_the_control_of_no_switch(
    switches: Switches, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick, failures = ControlLoop.tick, ["a"]

    def failing(loop: ControlLoop, now_ns: int) -> None:
        if loop.ticks and loop.name in failures:
            failures.remove(loop.name)
            raise ZeroDivisionError("a mistake in the program")
        tick(loop, now_ns)

    monkeypatch.setattr(ControlLoop, "tick", failing)
    for name in "ab":
        switches.start(name)
    replace(path, described(switches.addresses))
    with controlled(path, caplog) as controller:
        eventually(lambda: "a: unexpected error" in caplog.text)
        eventually(lambda: "a: connected again" in caplog.text)
        eventually(lambda: controller.switch("a")["primary"] and not controller.switch("a")["conditions"])
        assert 'losses_total{switch="b"} 0.0' in controller.get("/metrics")
    assert "ZeroDivisionError: a mistake in the program" in caplog.text


def lines_of(process: Process, wanted: set[str]) -> None:
    """Read the log until it has had each of these messages."""
    while wanted:
        line = message(process.process.stderr.readline())  # type: ignore[union-attr]
        assert line, f"the log ended without {wanted}"
        wanted = {text for text in wanted if not line.startswith(text)}


def test_a_second_controller_takes_over_each_switch_from_a_killed_one_under_load(
    switches: Switches, path: Path
) -> None:
    for name in "abc":
        switches.start(name)
    (path.parent / "own.toml").write_text(policy_text(level=3), "utf-8")
    replace(path, described(switches.addresses, policy="own.toml"))
    done = threading.Event()

    def load() -> None:
        # Packets of hosts cross all switches all the time.
        while not done.wait(0.001):
            for switch in switches.switches.values():
                with switch.lock:
                    switch.receive(1, packet(probes()[0]), 0)

    loading = threading.Thread(target=load)
    options = ("ctrl", "--fabric", str(path), "--interval", "60")
    with started(*options, "--election-id", "2") as primary:
        in_force = {f"{name}: connected to {switches.addresses[name]}: policy own in force" for name in "abc"}
        lines_of(primary, set(in_force))
        loading.start()
        try:
            with started(*options) as backup:
                lines_of(backup, {f"{name}: connected to {switches.addresses[name]}: as backup" for name in "abc"})
                writes = dict(switches.writes)
                primary.process.kill()
                lines_of(backup, {f"{name}: primary now, 0 entries written" for name in "abc"})
                assert switches.writes == writes
                # The policy's own file has changed, which SIGHUP tells.
                (path.parent / "own.toml").write_text(policy_text(level=5), "utf-8")
                os.kill(backup.process.pid, signal.SIGHUP)
                lines_of(backup, {f"{name}: changed: policy own" for name in "abc"})
                for name in "abc":
                    assert set(levels_of(switches.addresses[name])) == {5}
                # The restarted first controller does not disturb the second.
                writes = dict(switches.writes)
                with started(*options, "--election-id", "2") as again:
                    lines_of(again, {f"{name}: connected to {switches.addresses[name]}: as backup" for name in "abc"})
                    assert switches.writes == writes
        finally:
            done.set()
            loading.join(60)


def policy_text(level: int) -> str:
    stages = '"NONE", "KV_REUSE", "COLLECTIVE", "P2D"'
    return f'name = "own"\ndescription = "one level"\nrules = [{{ stage = [{stages}], level = {level} }}]\n'


@real_kernel
@needs_ping
def test_a_leaf_spine_in_namespaces_carries_packets_under_one_controller_also_while_it_is_replaced(path: Path) -> None:
    topologies = catalogue.switches("leaf-spine", servers=4)
    text = (Path(__file__).parents[2] / "examples" / "fabric.toml").read_text("utf-8")
    with ExitStack() as stack:
        rack = stack.enter_context(namespaces.standing(list(topologies.values()), fresh_prefix()))
        for number, topology in enumerate(topologies.values()):
            address, _ = stack.enter_context(switch_on(rack, topology, number))
            text = text.replace(f'"127.0.0.1:{9559 + number}"', f'"{address}"')
        path.write_text(text, "utf-8")

        def ping(source: int, target: int, *options: str) -> list[str]:
            return ["ip", "netns", "exec", rack.namespaces[source - 1], "ping", *options, f"10.0.{target}.1"]

        primary = stack.enter_context(started("ctrl", "--fabric", str(path), "--election-id", "2"))
        lines_of(primary, {f"{name}: connected to " for name in topologies})
        # Within a rack, and over the spines in both directions.
        for source, target in ((1, 2), (1, 3), (4, 2)):
            subprocess.run(ping(source, target, "-c", "2", "-i", "0.2", "-W", "5"), check=True, capture_output=True)
        backup = stack.enter_context(started("ctrl", "--fabric", str(path)))
        lines_of(backup, {f"{name}: connected to " for name in topologies})
        pinging = subprocess.Popen(ping(1, 3, "-c", "60", "-i", "0.05", "-W", "5"), stdout=subprocess.PIPE, text=True)
        primary.process.kill()
        lines_of(backup, {f"{name}: primary now, 0 entries written" for name in topologies})
        out, _ = pinging.communicate(timeout=60)
        assert "60 received, 0% packet loss" in out
