"""Parts of the previous release beside those of this one, over stamped traffic: upgraded one by one, and back."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from host_agent import AgentClient, Stage
from tests.host_agent.test_carriers_alive import TOPOLOGY, Stream, ends
from tests.support.agent import MAIN, Host
from tests.support.cli import COMMAND
from tests.support.controller import eventually
from tests.support.realtime import fresh_prefix, real_kernel
from topologies import namespaces
from topologies.namespaces import Realised
from topologies.processes import Process, free_address

ROOT = Path(__file__).parents[2]
PREVIOUS = "v0.2.0"
Previous = Callable[[str], list[str]]
"""The command that runs Python code with the previous release."""
POLICY = """
from host_agent.protocol.policy_document import PolicyDocument
from mfs_ctrl import policies
print(PolicyDocument("mfs", policies.mfs().rules).to_json())
"""
READ = """
import sys
from host_agent.protocol.policy_document import PolicyDocument
print(PolicyDocument.from_json(sys.stdin.read()).to_json())
"""

pytestmark = real_kernel


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Previous:
    done = subprocess.run(["git", "-C", ROOT, "archive", PREVIOUS], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this checkout has no tag {PREVIOUS}")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder, filter="data")
    return lambda code: [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]


class Rack:
    """Two hosts behind a switch; each part is of a version that may be changed while the others run."""

    def __init__(self, realised: Realised, folder: Path, previous: Previous) -> None:
        self.hosts = ends(realised)
        self._commands = {"previous": previous(MAIN), "this": [*COMMAND]}
        self._realised = realised
        self._folder = folder
        self._address = free_address()
        self._running: dict[str, Process] = {}

    def start(self, part: str, version: str) -> Process:
        """Kill the part if it runs, and start it in a version."""
        if part in self._running:
            self._running[part].kill()
        words: dict[str, Callable[[], tuple[list[str], str, str | None]]] = {
            "switch": lambda: (
                ["switch", "--empty", "--address", self._address, *self._realised.switch_options(TOPOLOGY)],
                "ports: ",
                None,
            ),
            "controller": lambda: (
                [
                    *("ctrl", "--address", self._address, "--servers", "2", "--nics", "1", "--rate", "50M"),
                    *(["--replace"] if version == "this" else []),
                ],
                "in force",
                None,
            ),
            "sender": lambda: self._agent(self.hosts[0]),
            "receiver": lambda: self._agent(self.hosts[1]),
        }
        command, ready, namespace = words[part]()
        process = Process([*self._commands[version], *command], lambda out: ready in out, namespace).wait_ready()
        self._running[part] = process
        return process

    def _agent(self, host: Host) -> tuple[list[str], str, str]:
        # The controller is in another namespace; that agents read its policy is a test of its own.
        command = ["agent", "run", "--interface", host.interface, "--policy-url", "http://127.0.0.1:1"]
        return [*command, "--socket", str(self.socket(host)), "--state-dir", str(self._folder)], "serving", host.name

    def detach(self, host: Host) -> None:
        """Take off everything that this version's agent has on a host."""
        part = "sender" if host is self.hosts[0] else "receiver"
        self._running.pop(part).stop()
        host.mfs("agent", "detach", "--interface", host.interface, "--state-dir", str(self._folder))

    def socket(self, host: Host) -> Path:
        return self._folder / f"{host.name}.sock"

    def close(self) -> None:
        for process in self._running.values():
            process.stop()


@pytest.fixture
def rack(previous: Previous, tmp_path: Path) -> Iterator[Rack]:
    with namespaces.standing([TOPOLOGY], fresh_prefix()) as realised:
        made = Rack(realised, tmp_path, previous)
        try:
            yield made
        finally:
            made.close()


def test_each_part_is_upgraded_and_taken_back_while_stamped_data_flows(rack: Rack) -> None:
    with ExitStack() as stack:
        for part in ("switch", "controller", "receiver", "sender"):
            rack.start(part, "previous")
        stream = Stream(*rack.hosts)
        stack.callback(stream.close)
        for version in ("this", "previous"):
            for part in ("receiver", "sender", "controller", "switch"):
                if version == "previous" and part in ("receiver", "sender"):
                    # The previous release does not read the newer state of an interface, and says so.
                    rack.detach(rack.hosts[part == "receiver"])
                rack.start(part, version)
                stream.goes_on()
                # The engine is of this release. An option needs a connection that is younger than the agent.
                with AgentClient(rack.socket(rack.hosts[0])) as client, closing(Stream(*rack.hosts)) as fresh:
                    client.open(fresh.near, batch=9, stage=Stage.P2D, slack_us=1_000_000_000, total_bytes=1 << 40)
                    fresh.goes_on()
                    eventually(lambda: client.status()["counters"]["stamped"] > 0)


def test_each_release_reads_the_policy_of_the_other(previous: Previous) -> None:
    def this(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    for writer, reader in ((previous, this), (this, previous)):
        written = subprocess.run(writer(POLICY), capture_output=True, text=True, check=True).stdout
        done = subprocess.run(reader(READ), input=written, capture_output=True, text=True, check=True)
        assert '"mfs"' in done.stdout
