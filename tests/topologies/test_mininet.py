"""Topologies in Mininet, through its Python API and its command, with pings between hosts under the controller."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.realtime import real_kernel
from topologies.errors import TopologyError
from topologies.processes import Process, free_address, mfs
from topologies.topology import tor

try:
    from topologies import mininet_network
except TopologyError as missing:
    pytest.skip(str(missing), allow_module_level=True)

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    return int(free_address().rpartition(":")[2])


@real_kernel
@pytest.mark.parametrize(
    "switch",
    [
        mininet_network.EmbeddedSwitch,
        pytest.param(
            mininet_network.Bmv2Switch,
            marks=pytest.mark.skipif(shutil.which("simple_switch_grpc") is None, reason="bmv2 is not installed"),
        ),
    ],
)
def test_hosts_ping_each_other_under_the_controller(switch: type[mininet_network.P4RuntimeSwitch]) -> None:
    with mininet_network.running("tor", servers=2, switch=switch, p4runtime_port=free_port()) as network:
        assert network.pingAll(timeout="3") == 0
        target = str(tor(2, 1).hosts[1].ipv6)
        assert " 1 received" in network.get("h1").cmd(f"ping -c 1 -W 3 {target}")


# On failure, mn kills processes by name, removes links by name and logs to /tmp, so it runs in its own namespaces.
CONFINED = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec"]
SCRIPT = """
mount --bind "$1" /mnt
mount -t tmpfs tmpfs /tmp
# Commands of the virtual environment contain its path, which may be below /tmp.
mkdir -p "$1"
mount --bind /mnt "$1"
ip link set lo up
cd "$1"
exec mn --custom topologies/mininet_topologies.py --topo tor,servers=2 --switch mfs --controller mfs --test pingall
"""


@real_kernel
@pytest.mark.skipif(shutil.which("mn") is None, reason="the command mn is not installed")
def test_the_command_mn_runs_the_topologies() -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*CONFINED, SCRIPT, "sh", str(ROOT)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "0% dropped (2/2 received)" in done.stderr + done.stdout, done.stderr + done.stdout


def test_a_switch_that_does_not_start_is_reported_with_its_last_output() -> None:
    with pytest.raises(TopologyError, match=r"mfs switch --address did not start: error: '127.0.0.1:1x' is not"):
        Process([*mfs(), "switch", "--address", "127.0.0.1:1x"], lambda _: False).wait_ready()


def test_host_commands_add_each_neighbour_once() -> None:
    commands = mininet_network.host_commands([tor(3, 2)])
    assert set(commands) == {0, 1, 2}
    routes = [line for line in commands[0] if " route replace " in line]
    # Four interfaces of other servers; each of the two own interfaces reaches two of them, by IPv4 and IPv6.
    assert len(set(routes)) == len(routes) == 8
