"""mfs_ctrl/controller.py with session and writer, against the embedded switch over gRPC.

The switch runs the compiled MFS program. Tests look at its entries and at what happens to packets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from host_agent.protocol.level import bias_code, decide, level_key, log2_code
from host_agent.protocol.stamp import LEVELS, SCAVENGER, Flags, Stage, Stamp
from mfs_ctrl import policies
from mfs_ctrl.controller import Controller
from mfs_ctrl.counters import COMPLETION, CompletionCell
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.p4rt.entries import (
    ActionCall,
    DefaultAction,
    Entity,
    Exact,
    GroupRef,
    MeterConfig,
    ProfileGroup,
    ProfileMember,
    TableEntry,
)
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.p4rt.updates import DELETE, INSERT, Update
from mfs_ctrl.policy.policy import Policy
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch
from tests.support.controller import (
    ARTIFACT,
    INDEX,
    MILLISECOND_NS,
    TOPOLOGY,
    controller,
    level_of,
    open_session,
    packet,
    pass_through,
    probes,
    serving,
    state,
)
from tests.support.mfs_levels import COLLECTIVE_TIGHT, LAST_TIGHT


@pytest.fixture
def running() -> Iterator[tuple[Switch, P4RuntimeServer]]:
    with serving() as pair:
        yield pair


class TestStart:
    def test_a_fresh_switch_gets_its_program_and_entries(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        one = controller(server)
        report = one.start()
        one.stop()
        assert report is not None
        assert report.inserts == len(
            [item for item in state(server) if not isinstance(item, DefaultAction | MeterConfig)]
        )
        bias = bias_code(TOPOLOGY.rate_bps)
        for probe in probes():
            key = level_key(probe.stage, probe.target_layer, probe.slack_us, probe.remaining, bias)
            assert level_of(switch, probe) == decide(policies.mfs().rules, key)

    def test_a_second_start_writes_nothing(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        _, server = running
        parameters = SwitchParameters(ecn_frames=(64,) * LEVELS, stamp_unaware_ports=frozenset({1}))
        for expected in (True, False, False):
            one = controller(server, parameters=parameters)
            report = one.start()
            one.stop()
            assert report is not None
            assert bool(report.updates) == expected
            assert bool(report.requests) == expected

    def test_entries_that_others_left_are_removed(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        _, server = running
        one = controller(server)
        one.start()
        one.stop()
        before = state(server)
        port = TOPOLOGY.hosts[0].port
        row = next(item for item in before if isinstance(item, TableEntry) and item.table == "port_bias")
        with open_session(server) as session:
            session.write(
                [Update(INSERT, ProfileMember("next_hop_selector", 77, ActionCall("forward", (1, 2, 3))))], INDEX
            )
            session.write([Update(INSERT, ProfileGroup("next_hop_selector", 77, ((77, 1),), 4))], INDEX)
            session.write(
                [
                    Update(INSERT, TableEntry("next_hop", (("group", Exact(77)),), GroupRef(77))),
                    Update(INSERT, TableEntry("edge", (("ingress_port", Exact(99)),), ActionCall("distrust", (3,)))),
                    Update(
                        INSERT,
                        TableEntry(
                            "rmlq", (("epoch", Exact(1)), ("stage", Exact(3))), ActionCall("set_level", (7,)), 99
                        ),
                    ),
                    Update(DELETE, row),
                    Update(INSERT, DefaultAction("edge", ActionCall("trust", (7, 8, 0)))),
                    Update(INSERT, MeterConfig("police", port, 1, 1, 1, 1)),
                    Update(INSERT, MeterConfig("police", 200, 1, 1, 1, 1)),
                ],
                INDEX,
            )
        assert state(server) != before
        one.start()
        one.stop()

        def without_epochs(entities: set[Entity]) -> set[Entity]:
            return {
                item for item in entities if not (isinstance(item, TableEntry | DefaultAction) and _of_policy(item))
            }

        after = state(server)
        assert without_epochs(after) == without_epochs(before)
        assert len(after) == len(before)

    def test_a_running_program_is_not_loaded_again(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        one = controller(server)
        one.start()
        pipeline = switch.pipeline
        one.stop()
        one.start()
        one.stop()
        assert switch.pipeline is pipeline

    def test_untagged_traffic_gets_the_configured_level(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        one = controller(server, parameters=SwitchParameters(untagged_level=3))
        one.start()
        one.stop()
        assert level_of(switch, None) == 3


def _of_policy(entity: TableEntry | DefaultAction) -> bool:
    return entity.table in ("rmlq", "epoch")


class OneByOne(Session):
    """Sends updates one by one, and passes packets through the switch after each."""

    def watch(self, switch: Switch, allowed: Mapping[Stamp, set[int]]) -> None:
        self.switch = switch
        self.allowed = allowed
        self.checked = 0

    def write(self, updates: Sequence[Update], index: P4InfoIndex) -> int:
        if not hasattr(self, "switch"):
            return super().write(updates, index)
        for update in updates:
            super().write([update], index)
            for probe, levels in self.allowed.items():
                assert level_of(self.switch, probe) in levels, f"after {update.entity}"
                self.checked += 1
        return len(updates)


class TestPolicyChange:
    @pytest.mark.parametrize(
        "after", [policies.static(), policies.edf([80, 120]), policies.fifo()], ids=lambda p: p.name
    )
    def test_every_packet_sees_either_the_old_policy_or_the_new_one(
        self, after: Policy, running: tuple[Switch, P4RuntimeServer]
    ) -> None:
        switch, server = running
        session = OneByOne(server.address, election_id=10)
        one = Controller(session, ARTIFACT, TOPOLOGY, policies.mfs(), tune_thresholds=False, tune_bias=False)
        one.start()
        bias = bias_code(TOPOLOGY.rate_bps)
        rules = (policies.mfs().rules, after.rules)
        allowed = {
            probe: {
                decide(either, level_key(probe.stage, probe.target_layer, probe.slack_us, probe.remaining, bias))
                for either in rules
            }
            for probe in probes()
        }
        session.watch(switch, allowed)
        report = one.set_policy(after)
        assert report is not None
        assert report.inserts == len(after.rules)
        assert report.deletes == len(policies.mfs().rules)
        assert session.checked == report.updates * len(allowed)
        for probe in probes():
            key = level_key(probe.stage, probe.target_layer, probe.slack_us, probe.remaining, bias)
            assert level_of(switch, probe) == decide(after.rules, key)
        one.stop()

    def test_setting_the_same_policy_again_writes_nothing(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        _, server = running
        one = controller(server)
        one.start()
        report = one.set_policy(policies.mfs())
        one.stop()
        assert report is not None
        assert report.updates == 0


EAGER = policies.mfs().tuned_by(mlu={"min_completions": 20})


class TestTick:
    def flow(self, number: int, slack_us: int) -> Stamp:
        flags = Flags.FIRST | Flags.LAST
        return Stamp(Stage.P2D, flags, batch=2, flow=number, slack_us=slack_us, remaining=1)

    def test_late_flows_bring_promotion_forward(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        told: list[tuple[Policy, Mapping[int, int]]] = []
        one = controller(
            server,
            EAGER,
            tune=True,
            on_policy=lambda policy, biases: told.append((policy, biases)),
        )
        one.start(0)
        before = EAGER.thresholds
        assert [policy.thresholds for policy, _ in told] == [before]
        for number in range(20):
            pass_through(switch, self.flow(number, -100 if number % 2 else 5000))
        record = one.tick(MILLISECOND_NS)
        assert record is not None
        assert record.shares["mlu"] == 0.5
        assert record.thresholds is not None
        assert record.thresholds["mlu"] == before["mlu"] - 1
        assert told[-1][0].thresholds == record.thresholds
        assert one.policy.thresholds == record.thresholds
        # The switch promotes at the new threshold: one code above it is the top, one below is not.
        bias = bias_code(TOPOLOGY.rate_bps)
        slack_us = 1000
        for code, level in ((record.thresholds["mlu"], 7), (record.thresholds["mlu"] - 1, LAST_TIGHT)):
            remaining = next(n for n in range(1 << 20) if log2_code(n) + bias - log2_code(slack_us) >= code)
            key = level_key(Stage.P2D, 0, slack_us, remaining, bias)
            assert key.urgency == code
            probe = Stamp(Stage.P2D, Flags.FIRST, batch=3, flow=code, slack_us=slack_us, remaining=remaining)
            assert level_of(switch, probe) == level
        # The evidence is used up: nothing moves without more of it.
        second = one.tick(2 * MILLISECOND_NS)
        assert second is not None
        assert second.shares["mlu"] is None
        assert second.writes.requests == 0
        one.stop()

    def test_evidence_is_gathered_over_ticks(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        one = controller(server, EAGER, tune=True)
        one.start(0)
        shares = []
        for tick in range(3):
            for number in range(7):
                pass_through(switch, self.flow(7 * tick + number, -1))
            record = one.tick((tick + 1) * MILLISECOND_NS)
            assert record is not None
            shares.append(record.shares["mlu"])
        one.stop()
        assert shares == [None, None, 1.0]

    def test_counts_from_before_the_start_are_not_evidence(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        one = controller(server, EAGER, tune=True)
        one.start(0)
        for number in range(30):
            pass_through(switch, self.flow(number, -1))
        one.stop()
        one.start(0)
        record = one.tick(MILLISECOND_NS)
        one.stop()
        assert record is not None
        assert record.shares["mlu"] is None

    def test_the_bias_follows_the_load_of_early_stages(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        one = controller(server, policies.mfs().tuned_by(load={"weight": 1.0}), tune=True)
        one.start(0)
        # 1,066 bytes and 24 of overhead each: 58 take half a millisecond at 1 Gb/s.
        for number in range(58):
            pass_through(switch, Stamp(Stage.COLLECTIVE, Flags.FIRST, batch=4, flow=number, slack_us=10, remaining=1))
        record = one.tick(MILLISECOND_NS)
        assert record is not None
        busy, idle = (TOPOLOGY.hosts[index].port for index in (1, 2))
        assert record.loads[busy] == pytest.approx(0.5, abs=0.02)
        assert record.loads[idle] == 0
        assert record.biases[busy] == bias_code(TOPOLOGY.rate_bps, record.loads[busy])
        assert record.writes.modifies == 1
        assert sum(record.level_bytes) == record.level_bytes[COLLECTIVE_TIGHT] > 0
        one.stop()
        rows = {item for item in state(server) if isinstance(item, TableEntry) and item.table == "port_bias"}
        assert {(row.match[0][1], row.target) for row in rows} == {
            (Exact(port), ActionCall("set_bias", (bias,))) for port, bias in record.biases.items()
        }

    def test_a_policy_without_tuning_is_not_tuned(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        one = controller(server, policies.static(), tune=True)
        one.start(0)
        for number in range(10):
            pass_through(switch, self.flow(number, -1))
        record = one.tick(MILLISECOND_NS)
        one.stop()
        assert record is not None
        assert (record.thresholds, record.shares, record.writes.updates) == (None, {}, 0)
        assert record.level_bytes[SCAVENGER] > 0
        assert one.policy == policies.static()

    def test_discarded_packets_are_reported_by_reason(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        one = controller(server)
        one.start(0)
        nowhere = packet(None, to="198.51.100.1")
        for data in (nowhere, nowhere, packet(None, ttl=1)):
            switch.receive(TOPOLOGY.hosts[0].port, data, 0)
        records = [one.tick(tick * MILLISECOND_NS) for tick in (1, 2)]
        one.stop()
        assert [record.discards for record in records if record is not None] == [
            {"no route": 2, "time to live expired": 1},
            {},
        ]

    def test_completion_cells_are_where_the_program_counts(self, running: tuple[Switch, P4RuntimeServer]) -> None:
        switch, server = running
        one = controller(server)
        one.start(0)
        pass_through(switch, self.flow(1, 5000))
        pass_through(switch, self.flow(2, -3))
        one.stop()
        with open_session(server) as session:
            counts = session.read_counters(INDEX, {COMPLETION: None})[COMPLETION]
        assert {CompletionCell.of(index) for index, count in counts.items() if count.packets} == {
            CompletionCell(Stage.P2D, LAST_TIGHT, False, 12),
            CompletionCell(Stage.P2D, 0, True, 1),
        }
