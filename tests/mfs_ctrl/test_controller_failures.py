"""Covers mfs_ctrl/p4rt and service.py where things go wrong: lost switches, rivals, refusals, discards, signals."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mfs_ctrl import policies
from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.controller import Controller
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.dry_run import difference
from mfs_ctrl.errors import (
    NotPrimaryError,
    ProgramInUseError,
    SessionError,
    SwitchUnreachableError,
    WriteFailedError,
)
from mfs_ctrl.p4rt.entries import ActionCall, Exact, TableEntry
from mfs_ctrl.p4rt.reader import Reader
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.p4rt.updates import INSERT, MODIFY, Update
from mfs_ctrl.port_rates import differences
from soft_switch.examples import dscp_queues
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch
from tests.support.controller import (
    ARTIFACT,
    INDEX,
    MILLISECOND_NS,
    TOPOLOGY,
    controller,
    controller_thread,
    eventually,
    level_of,
    packet,
    probes,
    run_controller,
    serving,
    state,
)
from topologies.topology import tor


@pytest.fixture
def running() -> Iterator[tuple[Switch, P4RuntimeServer]]:
    with serving() as pair:
        yield pair


class TestFailures:
    def test_an_unreachable_switch_is_reported(self) -> None:
        session = Session("127.0.0.1:1", timeout_s=0.3)
        with pytest.raises(SwitchUnreachableError, match=r"no P4Runtime server answers at 127\.0\.0\.1:1 .* running"):
            Controller(session, ARTIFACT, TOPOLOGY, policies.mfs()).start()
        assert not session.connected

    def test_a_wrong_device_id_is_refused(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        _, server = running
        with pytest.raises(SessionError, match=r"refuses the session.*device"):
            Session(server.address, device_id=7).connect()

    def test_a_lower_election_id_cannot_write(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        _, server = running
        first, second = controller(server, election_id=10), controller(server, policies.fifo(), election_id=9)
        first.start()
        held = state(server)
        assert second.start() is None
        assert second.tick(MILLISECOND_NS) is None
        assert second.set_policy(policies.static()) is None
        row = TableEntry("edge", (("ingress_port", Exact(99)),), ActionCall("distrust", (3,)))
        with pytest.raises(NotPrimaryError, match=r"another controller is primary, not the one with election id 9"):
            second.session.write([Update(INSERT, row)], INDEX)
        assert state(server) == held
        first.stop()
        second.stop()

    def test_a_higher_election_id_takes_over(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        _, server = running
        first, second = controller(server, election_id=10), controller(server, policies.fifo(), election_id=11)
        first.start()
        report = second.start()
        assert report is not None
        assert report.inserts == len(policies.fifo().rules)
        eventually(lambda: not first.session.primary)
        assert first.tick(MILLISECOND_NS) is None
        first.stop()
        second.stop()

    def test_a_refused_update_is_named_and_the_rest_is_applied(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        _, server = running
        one = controller(server)
        one.start()
        new = TableEntry("edge", (("ingress_port", Exact(99)),), ActionCall("distrust", (3,)))
        port = TOPOLOGY.ports[0]
        held = TableEntry("edge", (("ingress_port", Exact(port)),), ActionCall("distrust", (3,)))
        with pytest.raises(WriteFailedError, match=rf"1 of 2 updates: insert edge\[ingress_port={port}\]") as caught:
            one.session.write([Update(INSERT, new), Update(INSERT, held)], INDEX)
        assert [refusal.code for refusal in caught.value.refusals] == ["ALREADY_EXISTS"]
        one.stop()
        assert new in state(server)

    def test_a_restarted_switch_gets_its_entries_again(self) -> None:
        with serving() as (_, server):
            one = controller(server)
            one.start(0)
            address = server.address
        with pytest.raises(SwitchUnreachableError):
            one.tick(MILLISECOND_NS)
        with serving(address) as (switch, server):
            report = one.start(2 * MILLISECOND_NS)
            assert report is not None
            assert report.inserts > 0
            assert level_of(switch, probes()[0]) is not None
            assert one.tick(3 * MILLISECOND_NS) is not None
            one.stop()


class TestOtherPrograms:
    """A switch that runs something else, by mistake of the address for instance."""

    @pytest.fixture
    def elsewhere(self) -> Iterator[P4RuntimeServer]:
        with serving() as (_, server):
            folder = Path(dscp_queues.__file__).parent
            server.load((folder / "dscp_queues.json").read_bytes(), (folder / "dscp_queues.p4info.txtpb").read_text())
            yield server

    def test_another_program_is_not_replaced_unasked(self, elsewhere: P4RuntimeServer) -> None:
        with Reader(elsewhere.address) as reader:
            before = reader.program()
            with pytest.raises(
                ProgramInUseError,
                match=r"runs the program with the tables RouterIngress\.route.*not mfs_v1model.*--replace",
            ):
                controller(elsewhere).start()
            assert reader.program() == before

    def test_it_is_replaced_on_request_and_both_are_named(self, elsewhere: P4RuntimeServer) -> None:
        one = controller(elsewhere, replace=True)
        assert one.start() is not None
        assert re.fullmatch(r"program mfs_v1model loaded over the program with .*RouterIngress\.route.*", one.loaded)
        assert one.start() is not None
        assert one.loaded == ""
        one.stop()

    def test_a_program_that_the_switch_was_started_with_is_kept(self) -> None:
        with serving() as (_, server):
            server.load(ARTIFACT.config, ARTIFACT.p4info)
            one = controller(server)
            one.start()
            assert one.loaded == ""
            one.stop()


class TestDryRun:
    def test_it_shows_what_a_controller_then_writes_and_writes_nothing(
        self, running: tuple[Switch, P4RuntimeServer]
    ) -> None:
        _, server = running
        arguments = ARTIFACT, TOPOLOGY, policies.mfs(), SwitchParameters()
        with Reader(server.address) as reader:
            empty = difference(reader, *arguments)
            assert reader.program() is None
            assert empty.program == "none; mfs_v1model would be loaded"
            one = controller(server)
            report = one.start()
            assert report is not None
            assert Counter(update.operation for update in empty.updates) == Counter(
                {INSERT: report.inserts, MODIFY: report.modifies}
            )
            same = difference(reader, *arguments)
            assert (same.program, same.updates, same.rates) == ("mfs_v1model, as wanted", (), "")
            port = TOPOLOGY.ports[0]
            unaware = SwitchParameters(stamp_unaware_ports=frozenset({port}))
            held = state(server)
            changed = difference(reader, *arguments[:-1], unaware)
            assert [str(update) for update in changed.updates] == [
                f"modify last_hop[egress_port={port}] -> remove_stamp()"
            ]
            assert list(changed.lines())[-1] == "0 to insert, 1 to modify, 0 to delete; nothing was written"
            assert state(server) == held
            # The controller was primary all along.
            assert one.tick(MILLISECOND_NS) is not None
            one.stop()


class TestRates:
    def test_a_switch_with_other_rates_is_reported_once_with_the_way_out(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "mfs_ctrl")
        with serving() as (_, server):
            session = Session(server.address)
            loop = ControlLoop(Controller(session, ARTIFACT, tor(2, 3, 100_000_000_000), policies.mfs()), "here")
            loop.start(0)
            loop.tick(MILLISECOND_NS)
            session.close()
            loop.connected = False
            loop.tick(2 * MILLISECOND_NS)
            loop.controller.stop()
        [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert line == (
            "the switch has no port 5-6; it has 1-4; port 1-4: the controller assumes 100 Gb/s, the switch sends at "
            "1 Gb/s; urgencies are 6.6 octaves too low; correct --rate, --servers and --nics, or the file given with "
            "--config"
        )
        assert list(loop.conditions) == ["rates"]

    def test_equal_rates_and_switches_that_tell_none_are_not_reported(self) -> None:
        assert differences({1: 10, 2: 20}, {1: 10, 2: 20, 3: 5}) == ""
        assert differences({1: 10, 2: 20}, {}) == ""


class TestService:
    def test_a_lost_switch_is_found_again(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "mfs_ctrl")
        with contextlib.ExitStack() as first:
            _, server = first.enter_context(serving())
            with controller_thread(server.address, 1, TOPOLOGY, policies.mfs()):
                eventually(lambda: "in force" in caplog.text)
                first.close()
                eventually(lambda: "trying again" in caplog.text)
                with serving(server.address) as (switch, _):
                    eventually(lambda: "connected again" in caplog.text)
                    assert level_of(switch, probes()[0]) is not None
        assert caplog.messages[-1] == "stopped; the switch keeps its entries"

    def test_discarded_packets_are_logged_once_for_each_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "mfs_ctrl")
        with serving() as (switch, server), controller_thread(server.address, 1, TOPOLOGY, policies.mfs()):
            eventually(lambda: "in force" in caplog.text)

            def discarded(reason: str, data: bytes) -> None:
                with switch.lock:
                    switch.receive(TOPOLOGY.hosts[0].port, data, 0)
                eventually(lambda: reason in caplog.text)

            discarded("no route", packet(None, to="198.51.100.1"))
            with switch.lock:
                switch.receive(TOPOLOGY.hosts[0].port, packet(None, to="198.51.100.1"), 0)
            discarded("time to live", packet(None, ttl=1))
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings == [
            "the switch discards packets: no route (1 since the last tick)",
            "the switch discards packets: time to live expired (1 since the last tick)",
        ]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("by_another_thread", [False, True])
    def test_signals_end_the_controller_in_an_orderly_way(
        self, number: int, by_another_thread: bool, running: tuple[Switch, P4RuntimeServer]
    ) -> None:
        _, server = running
        # A signal that another thread takes does not interrupt the wait of the main thread.
        program = f"""
import logging, signal, sys, threading
from mfs_ctrl import policies
from tests.support.controller import run_controller
from topologies.topology import tor

def take():
    if sys.stdin.readline():
        signal.pthread_kill(threading.get_ident(), {int(number)})

threading.Thread(target=take).start()
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
run_controller({server.address!r}, 1, tor(2, 2, {TOPOLOGY.rate_bps}), policies.mfs(), 60)
"""
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert process.stdout is not None
        assert "in force" in process.stdout.readline()
        if not by_another_thread:
            process.send_signal(number)
        out, err = process.communicate("now\n" if by_another_thread else None, timeout=30)
        assert (process.returncode, out, err) == (0, "stopped; the switch keeps its entries\n", "")

    def test_the_interval_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match="above 0 s"):
            run_controller("127.0.0.1:1", 1, TOPOLOGY, policies.mfs(), interval_s=0)
