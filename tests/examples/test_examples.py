"""Every file in examples/ runs as its docstring says."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from host_agent.protocol.policy_document import PolicyDocument
from mfs_ctrl import config, fabric_file, policies
from mfs_eval.advise import cluster_file
from mfs_eval.serving.placement import HotPrefixes
from tests.support.agent import INTERFACE, linked, running
from topologies import catalogue

ROOT = Path(__file__).parents[2]


def output_of(example: str, *arguments: str) -> str:
    """Standard output of an example, run in a separate Python process."""
    finished = subprocess.run(
        [sys.executable, f"examples/{example}", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_experiment_compares_two_policies() -> None:
    shares = {
        name: int(share) for name, share in re.findall(r"^(\w+) +in time (\d+)%", output_of("experiment.py"), re.M)
    }
    assert shares.keys() == {"mfs", "fifo"}
    assert shares["mfs"] > shares["fifo"]


def test_an_engine_sends_unstamped_where_no_agent_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(_all_bytes, server)
        port = str(server.getsockname()[1])
        said = output_of("engine_flows.py", "127.0.0.1", port, "--socket", str(tmp_path / "none.sock"))
        assert said.startswith("sent, not stamped: ")
        assert arriving.result(60) == 4 * 64 * 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_an_engine_sends_stamped_where_an_agent_runs(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    document = PolicyDocument("mfs", policies.mfs().rules)
    (tmp_path / "state" / f"policy-{INTERFACE}.json").write_text(document.to_json(), "utf-8")
    with linked() as (sender, receiver), running(sender, tmp_path) as agent, running(receiver, tmp_path):
        server = receiver.inside(lambda: socket.create_server((receiver.address, 0)))
        with server, ThreadPoolExecutor(1) as pool:
            arriving = pool.submit(_all_bytes, server)
            port = str(server.getsockname()[1])
            arguments = (receiver.address, port, "--socket", str(agent.socket))
            assert sender.inside(lambda: output_of("engine_flows.py", *arguments)) == "sent, stamped\n"
            assert arriving.result(60) == 4 * 64 * 1024
        with agent.client() as client:
            counters = client.status()["counters"]
    assert counters["stamped"] > 0
    assert sum(counters["level_bytes"]) >= 4 * 64 * 1024


def test_the_rack_is_a_switch_with_two_hosts() -> None:
    described = config.read(ROOT / "examples" / "rack.toml")
    assert [(host.port, str(host.ipv4)) for host in described.topology.hosts] == [(1, "10.0.1.1"), (2, "10.0.2.1")]
    assert described.parameters.untrusted_ports == {2}
    assert described.tuner == {"mlu": {"late_target": 0.02}}


def test_the_fabric_is_the_built_in_one_of_two_racks() -> None:
    built_in = catalogue.switches("leaf-spine", servers=4)
    described = {spec.name: spec.topology for spec in fabric_file.read(ROOT / "examples" / "fabric.toml")}
    assert {name: topology.rates for name, topology in described.items()} == {
        name: topology.rates for name, topology in built_in.items()
    }


def test_the_cluster_has_a_unit_that_holds_what_others_fetch() -> None:
    scenario = cluster_file.read(ROOT / "examples" / "cluster.toml").scenario
    assert scenario.hot_prefixes == HotPrefixes(unit=0, share=0.4)
    assert (len(scenario.cluster.units), len(scenario.cluster.decode_servers)) == (4, 4)


def _all_bytes(server: socket.socket) -> int:
    connection, _ = server.accept()
    with connection:
        return sum(map(len, iter(lambda: connection.recv(65536), b"")))
