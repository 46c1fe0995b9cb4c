"""A controller that takes over goes on from the thresholds and biases that stand in the switch."""

from __future__ import annotations

import random

import pytest
from click.testing import CliRunner

from mfs_ctrl import policies
from mfs_ctrl.cli import mfs
from mfs_ctrl.desired import SwitchParameters, level_rule, policy_rows
from mfs_ctrl.p4rt.entries import ActionCall, Exact, TableEntry
from mfs_ctrl.p4rt.updates import MODIFY, Update
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.resume import resumed_policy
from tests.support.controller import INDEX, MILLISECOND_NS, TOPOLOGY, controller, serving

TUNED = {"mlu": 111, "tight_slack": 97}
PORT = TOPOLOGY.ports[0]
TUNED_POLICIES = [name for name in policies.builtin_names() if policies.load(name).tuning]


def rows(policy: Policy) -> tuple[TableEntry, ...]:
    return policy_rows(policy.rules, TOPOLOGY, SwitchParameters()).entries(1)


def test_a_row_is_read_back_as_the_rule_that_it_is_of() -> None:
    for name in policies.builtin_names():
        rules = policies.load(name).rules
        assert tuple(level_rule(row) for row in rows(policies.load(name))) == rules


@pytest.mark.parametrize("name", TUNED_POLICIES)
def test_tuned_thresholds_are_found_in_the_rows_wherever_they_stand(name: str) -> None:
    policy, dice = policies.load(name), random.Random(7)
    for _ in range(100):
        moved = policy.at({key: dice.randint(*loop.bounds) for key, loop in policy.tuning.items()})
        shuffled = dice.sample(rows(moved), len(moved.rules))
        assert resumed_policy(policy, shuffled).rules == moved.rules


def test_what_an_operator_chose_and_other_policies_are_not_taken_from_the_switch() -> None:
    policy = policies.mfs()
    there = rows(policies.mfs(TUNED, near_rli=7))
    assert resumed_policy(policy, there).thresholds == {**policy.thresholds, **TUNED}
    for other in (policies.static(), policies.load("mfs-tcp"), policies.fifo()):
        assert resumed_policy(policy, rows(other)) == policy
    assert resumed_policy(policy, there[:-1]) == policy
    assert resumed_policy(policy, ()) == policy


def test_a_backup_goes_on_from_the_thresholds_and_biases_of_the_primary_that_it_replaces() -> None:
    with serving() as (_, server):
        primary, backup = controller(server, election_id=2, tune=True), controller(server, election_id=1, tune=True)
        primary.start()
        assert backup.start() is None
        unloaded = primary.biases[PORT]
        # What tuning does: other thresholds, and the bias of a port whose load is 60 %.
        primary.set_policy(policies.mfs(TUNED))
        loaded = unloaded + 10
        row = TableEntry("port_bias", (("egress_port", Exact(PORT)),), ActionCall("set_bias", (loaded,)))
        primary.session.write([Update(MODIFY, row)], INDEX)
        primary.stop()
        told: list[tuple[Policy, int]] = []
        backup.on_policy = lambda policy, biases: told.append((policy, biases[PORT]))
        record = None
        while record is None:
            record = backup.tick(MILLISECOND_NS)
        assert backup.taken_over.updates == 0
        assert backup.policy == policies.mfs(TUNED)
        assert told[0] == (policies.mfs(TUNED), loaded)
        assert backup.biases == {**primary.biases, PORT: loaded}
        # The load that the bias stands for decays as if it had been seen: not at once.
        assert 0.35 < record.loads[PORT] < 0.6
        backup.stop()


def test_a_controller_without_tuning_writes_what_its_policy_says() -> None:
    with serving() as (_, server):
        before = controller(server, policies.mfs(TUNED))
        before.start()
        before.stop()
        after = controller(server)
        after.start()
        assert after.policy == policies.mfs()
        assert after.taken_over.updates > 0
        after.stop()


def test_a_restarted_controller_and_its_dry_run_leave_tuned_thresholds_alone() -> None:
    with serving() as (_, server):
        before = controller(server, policies.mfs(TUNED), tune=True)
        before.start()
        before.stop()
        options = ["--address", server.address, "--servers", "2", "--nics", "2", "--rate", "1G", "--check"]
        done = CliRunner().invoke(mfs, ["ctrl", *options])
        assert "0 to insert, 0 to modify, 0 to delete" in done.output, done.output
        after = controller(server, tune=True)
        after.start()
        assert (after.taken_over.updates, after.policy.thresholds["mlu"]) == (0, TUNED["mlu"])
        after.stop()
