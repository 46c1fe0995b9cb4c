"""The order of writes: no dangling references, and never a part of a policy in force.

test_controller.py runs the writer against a switch.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import Stage
from mfs_ctrl import policies
from mfs_ctrl.desired import PolicyRows, SwitchParameters, base_entities, initial_biases
from mfs_ctrl.errors import DesiredStateError
from mfs_ctrl.p4rt.entries import ActionCall, Entity, Exact, GroupRef, Key, ProfileGroup, ProfileMember, TableEntry
from mfs_ctrl.p4rt.updates import DELETE, INSERT, MODIFY, Update
from mfs_ctrl.writer import active_epoch, base_phases, by_key, epoch_of, policy_phases
from topologies.topology import tor

State = dict[Key, Entity]

rules = st.builds(
    LevelRule,
    stage=st.sampled_from(list(Stage)),
    level=st.integers(0, 7),
    urgency=st.tuples(st.integers(0, 100), st.integers(100, 255)),
)
rule_sets = st.lists(rules, max_size=6).map(lambda found: PolicyRows(tuple(found), 1000))


def play(state: State, phases: Iterable[list[Update]], seed: int = 0) -> Iterable[State]:
    """Apply updates one by one, in random order within a phase, as a switch may; yields the state after each."""
    order = random.Random(seed)
    for phase in phases:
        for update in order.sample(phase, len(phase)):
            if update.operation == INSERT:
                assert update.entity.key not in state, f"{update.entity} exists"
            elif update.operation == DELETE:
                assert update.entity.key in state, f"{update.entity} does not exist"
            if update.operation == DELETE:
                del state[update.entity.key]
            else:
                state[update.entity.key] = update.entity
            yield state


def in_force(state: State) -> set[Entity]:
    """The rows of the active epoch, rewritten to epoch 0."""
    active = active_epoch(state.values())
    return {
        TableEntry(row.table, (("epoch", Exact(0)), *row.match[1:]), row.target, row.priority)
        for row in state.values()
        if isinstance(row, TableEntry) and epoch_of(row) == active
    }


class TestPolicyChange:
    @given(st.lists(rule_sets, min_size=2, max_size=4), st.integers(0, 5))
    def test_every_packet_sees_a_complete_policy(self, sequence: list[PolicyRows], seed: int) -> None:
        state: State = {}
        for before, after in itertools.pairwise(sequence):
            for _ in play(state, policy_phases(list(state.values()), before), seed):
                pass
            whole = (set(before.entries(0)), set(after.entries(0)))
            assert in_force(state) == whole[0]
            for now in play(state, policy_phases(list(state.values()), after), seed):
                assert in_force(now) in whole
            assert in_force(state) == whole[1]
            assert policy_phases(list(state.values()), after) == []
            # No row of the old set is left.
            assert len([row for row in state.values() if isinstance(row, TableEntry)]) == len(after.rules)

    @given(rule_sets, rule_sets, st.integers(0, 100))
    def test_an_interrupted_change_can_be_resumed(self, old: PolicyRows, new: PolicyRows, cut: int) -> None:
        state: State = {}
        for _ in play(state, policy_phases([], old)):
            pass
        for done, _ in enumerate(play(state, policy_phases(list(state.values()), new))):
            if done == cut:
                break
        for now in play(state, policy_phases(list(state.values()), new)):
            assert in_force(now) in (set(old.entries(0)), set(new.entries(0)))
        assert in_force(state) == set(new.entries(0))
        assert policy_phases(list(state.values()), new) == []

    def test_a_foreign_row_leads_to_a_new_set_of_rows(self) -> None:
        wanted = PolicyRows(policies.mfs().rules, 10)
        state: State = by_key([*wanted.entries(1), wanted.activation(1)])
        foreign = TableEntry("rmlq", (("epoch", Exact(1)), ("stage", Exact(2))), ActionCall("set_level", (0,)), 99)
        state[foreign.key] = foreign
        for _ in play(state, policy_phases(list(state.values()), wanted)):
            pass
        assert foreign.key not in state
        assert in_force(state) == set(wanted.entries(0))

    def test_a_change_of_the_idle_gap_alone_is_one_write(self) -> None:
        old = PolicyRows(policies.fifo().rules, 10)
        new = PolicyRows(policies.fifo().rules, 20)
        held = [*old.entries(1), old.activation(1)]
        assert policy_phases(held, new) == [[Update(MODIFY, new.activation(1))]]


class TestBase:
    def entities(self, servers: int, level: int = 1) -> State:
        topology = tor(servers=servers)
        parameters = SwitchParameters(untagged_level=level)
        return by_key(base_entities(topology, parameters, initial_biases(topology)))

    @given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 5))
    def test_no_reference_ever_dangles(self, before: int, after: int, seed: int) -> None:
        state = self.entities(before)
        wanted = self.entities(after)
        for now in play(state, base_phases(dict(state), wanted), seed):
            for entity in now.values():
                if isinstance(entity, TableEntry) and isinstance(entity.target, GroupRef):
                    assert ("group", "next_hop_selector", entity.target.group_id) in now
                if isinstance(entity, ProfileGroup):
                    assert all(("member", "next_hop_selector", member) in now for member, _ in entity.members)
        assert state == wanted

    def test_an_unchanged_state_writes_nothing(self) -> None:
        assert base_phases(self.entities(4), self.entities(4)) == []

    def test_only_what_differs_is_written(self) -> None:
        (changes,) = base_phases(self.entities(2), self.entities(2, level=3))
        assert {(update.operation, update.entity.key[1]) for update in changes} == {(MODIFY, "edge")}
        assert len(changes) == 4

    def test_a_group_keeps_the_size_it_was_made_with(self) -> None:
        held = ProfileGroup("next_hop_selector", 1, ((1, 1), (2, 1)), 8)
        wanted = ProfileGroup("next_hop_selector", 1, ((1, 1),), 64)
        members = [ProfileMember("next_hop_selector", item, ActionCall("forward", (1, 2, 3))) for item in (1, 2)]
        phases = base_phases(by_key([held, *members]), by_key([wanted, members[0]]))
        assert phases == [
            [Update(MODIFY, ProfileGroup("next_hop_selector", 1, ((1, 1),), 8))],
            [Update(DELETE, members[1])],
        ]
        assert base_phases(by_key([held]), by_key([ProfileGroup("next_hop_selector", 1, held.members, 64)])) == []

    def test_two_entities_for_one_object_are_refused(self) -> None:
        match = (("level", Exact(1)),)
        with pytest.raises(DesiredStateError, match="two entities for the same object"):
            by_key([TableEntry("ecn", match, ActionCall("mark_above", (value,))) for value in (1, 2)])
