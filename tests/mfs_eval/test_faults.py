"""Processes killed under load, and what survives: controllers, the switch, and all of ``mfs live``."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from mfs_ctrl.p4rt.entries import TableEntry
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.p4rt.updates import DELETE, Update
from mfs_eval.live.live_network import LiveNetwork, Place
from tests.support.cli import finished, started
from tests.support.controller import INDEX, eventually
from tests.support.realtime import fresh_prefix, real_kernel
from tests.topologies.test_topologies import standing
from topologies import namespaces
from topologies.namespaces import Realised
from topologies.processes import Process, free_address, mfs
from topologies.topology import tor

pytestmark = real_kernel

TOPOLOGY = tor(3, 1, 20_000_000)
FLOW_BYTES = 20_000
WITHIN_S = 60.0


class Traffic:
    """Every host sends one flow after another to the next host."""

    def __init__(self, network: LiveNetwork) -> None:
        self.completed = 0
        self._network = network
        for host in TOPOLOGY.hosts:
            self._next(host.id)

    def _next(self, source: int) -> None:
        def completed(_now_ns: int) -> None:
            self.completed += 1
            self._next(source)

        target = (source + 1) % len(TOPOLOGY.hosts)
        self._network.start_flow(source, FlowSpec(target, 1, Stage.P2D, 0, FLOW_BYTES), completed)

    def continues(self, until: Callable[[], bool] = lambda: True) -> None:
        """Run until the condition holds, and then until 30 more flows have completed."""
        deadline = time.monotonic() + WITHIN_S
        self._run(until, deadline)
        enough = self.completed + 30
        self._run(lambda: self.completed >= enough, deadline)

    def _run(self, until: Callable[[], bool], deadline: float) -> None:
        self._network.run(lambda: until() or time.monotonic() > deadline)
        assert until(), "the condition did not hold in time"


@dataclass
class Rack:
    realised: Realised
    address: str
    traffic: Callable[[], Traffic]

    def switch(self) -> Process:
        options = ["--empty", "--address", self.address, *self.realised.switch_options(TOPOLOGY)]
        return Process([*mfs(), "switch", *options], lambda out: "ports: " in out)

    def controller(self, *options: str) -> Process:
        shape = ["--servers", "3", "--nics", "1", "--rate", "20M", "--policy", "fifo", "--interval", "0.1"]
        command = [*mfs(), "ctrl", "--address", self.address, *shape, *options]
        return Process(command, lambda out: "connected to" in out)


@pytest.fixture
def rack() -> Iterator[Rack]:
    with (
        namespaces.standing([TOPOLOGY], fresh_prefix()) as realised,
        LiveNetwork(
            {host.id: Place(realised.namespaces[host.server], str(host.ipv4)) for host in TOPOLOGY.hosts}
        ) as network,
    ):
        yield Rack(realised, free_address(), lambda: Traffic(network))


def test_traffic_survives_the_controller_and_the_next_one_writes_the_difference(rack: Rack) -> None:
    with rack.switch():
        with rack.controller() as controller:
            traffic = rack.traffic()
            traffic.continues()
            controller.kill()
        traffic.continues()
        # Two rows are lost while there is no controller.
        session = Session(rack.address, election_id=1000)
        session.connect()
        rows = [entity for entity in session.read_state(INDEX) if isinstance(entity, TableEntry)]
        lost = [row for row in rows if row.table == "port_bias"][:2]
        session.write([Update(DELETE, row) for row in lost], INDEX)
        session.close()
        with rack.controller() as controller:
            assert "policy fifo in force, 2 entries written" in controller.output()
            traffic.continues()


def test_a_restarted_switch_gets_its_program_and_entries_again(rack: Rack) -> None:
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(rack.switch())
        controller = stack.enter_context(rack.controller())
        done = controller.output().split(" in force, ")[1].splitlines()[0]
        traffic = rack.traffic()
        traffic.continues()
        switch.kill()
        stack.enter_context(rack.switch())
        again = f"connected again to {rack.address}: policy fifo in force, {done}"
        traffic.continues(lambda: again in controller.output())


def test_a_backup_takes_over_from_a_killed_controller(rack: Rack) -> None:
    with rack.switch(), rack.controller("--election-id", "5") as primary, rack.controller() as backup:
        assert "as backup: another controller is primary" in backup.output()
        traffic = rack.traffic()
        primary.kill()
        traffic.continues(lambda: "primary now, 0 entries written" in backup.output())
        # The restarted controller finds a primary, although its election id is higher than the backup's first.
        with rack.controller("--election-id", "5") as again:
            assert "as backup" in again.output()


def test_live_leaves_nothing_behind_on_sigterm_and_clean_removes_what_a_kill_leaves() -> None:
    prefix = fresh_prefix()
    command = ("live", "--no-stamps", "--policy", "fifo", "--requests", "100", "--prefix", prefix)
    try:
        with started(*command) as process:
            assert "fifo in force" in process.log_line()
            status, _, errors = process.end(signal.SIGTERM)
            assert (status, errors) == (128 + signal.SIGTERM, "")
            assert standing(prefix) == ""
        with started(*command) as process:
            assert "fifo in force" in process.log_line()
            children = children_of(process.process.pid)
            process.end(signal.SIGKILL)
            eventually(lambda: not any(alive(child) for child in children))
            assert standing(prefix) != ""
            assert f"{prefix}-s1" in finished("clean", "--prefix", prefix).stdout
            assert standing(prefix) == ""
    finally:
        namespaces.clean(prefix)


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
