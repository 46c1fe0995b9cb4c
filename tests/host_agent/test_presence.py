"""The agent notices when its interface goes down, disappears, or is made again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import INTERFACE, Host, ip, linked, running


@pytest.fixture
def host() -> Iterator[Host]:
    with linked() as (first, _):
        yield first


def test_an_interface_that_goes_down_and_up_is_mentioned_once_each(host: Host, tmp_path: Path) -> None:
    with running(host, tmp_path, "--rate", "1G") as agent:
        ip("-n", host.name, "link", "set", INTERFACE, "down")
        agent.until(f"{INTERFACE} is down: nothing leaves it; run: ip link set {INTERFACE} up")
        ip("-n", host.name, "link", "set", INTERFACE, "up")
        assert "is down" not in agent.until(f"{INTERFACE} is up again")


@pytest.mark.parametrize("again", [False, True])
def test_the_agent_ends_when_its_interface_is_gone(host: Host, tmp_path: Path, again: bool) -> None:
    with running(host, tmp_path, "--rate", "1G") as agent:
        ip("-n", host.name, "link", "del", INTERFACE)
        if again:
            ip("-n", host.name, "link", "add", INTERFACE, "type", "veth", "peer", "name", "other")
        said = agent.until(f"error: {INTERFACE} is gone or was made again; start the agent again when it is back")
        assert "Traceback" not in said
        assert agent.process.wait(30) == 1
        assert not agent.socket.exists()
        if again:
            # Nothing of the earlier one is in the way.
            with running(host, tmp_path, "--rate", "1G") as second:
                assert second.process.poll() is None
            shown = ("ip", "netns", "exec", host.name, "tc", "qdisc", "show", "dev", INTERFACE)
            assert "htb" not in subprocess.run(shown, capture_output=True, text=True, check=True).stdout
