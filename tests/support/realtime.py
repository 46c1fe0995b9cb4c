"""Shared by tests on the real kernel: requirements, unique names, a switch and a controller."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from mfs_ctrl import policies
from mfs_ctrl.controller import Controller
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.policy.policy import Policy
from p4src.artifact import load
from tests.support.cli import Process, started
from topologies.namespaces import Realised
from topologies.processes import free_address
from topologies.topology import Topology

_numbers = itertools.count()


def _missing() -> str:
    if os.geteuid() != 0:
        return "requires root, for network namespaces and packet sockets"
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-n", "true"], check=False, capture_output=True).returncode:
        return "this kernel or container does not allow network namespaces"
    return ""


real_kernel = pytest.mark.skipif(bool(_missing()), reason=_missing() or "nothing is missing")
needs_ping = pytest.mark.skipif(shutil.which("ping") is None, reason="ping (iputils-ping) is not installed")


def fresh_prefix() -> str:
    """A prefix for interfaces that no other test, of this or another run, is using."""
    return f"rt{os.getpid() % 10_000:x}{next(_numbers) % 256:x}"


@contextlib.contextmanager
def switch_on(rack: Realised, topology: Topology, number: int = 0, *more: str) -> Iterator[tuple[str, Process]]:
    """Run ``mfs switch`` on the ports of the rack; yield its P4Runtime address and the process once they are open."""
    address = free_address()
    with started("switch", "--address", address, *rack.switch_options(topology, number), *more) as process:
        assert "P4Runtime listens" in process.log_line()
        assert process.log_line().startswith("ports: ")
        yield address, process


@contextlib.contextmanager
def controlled(address: str, topology: Topology, policy: Policy | None = None) -> Iterator[Controller]:
    """A controller whose entries are in the switch."""
    controller = Controller(Session(address, election_id=10), load(), topology, policy or policies.mfs())
    try:
        assert controller.start() is not None
        yield controller
    finally:
        controller.stop()
