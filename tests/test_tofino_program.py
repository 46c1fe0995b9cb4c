"""The program for Tofino shows the controller what the program for v1model shows it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_agent.level import log2_code
from mfs_ctrl.p4info import P4InfoIndex
from p4src.artifact import TOFINO, TOFINO_2, V1MODEL, p4info

BOTH = pytest.mark.parametrize("name", [TOFINO, TOFINO_2])
V1MODEL_INDEX = P4InfoIndex.from_text(p4info(V1MODEL))


def index(name: str) -> P4InfoIndex:
    return P4InfoIndex.from_text(p4info(name))


@BOTH
def test_every_table_that_is_written_is_the_same_in_both(name: str) -> None:
    """Ids, match fields with their kinds and widths, sizes, and what happens on a miss."""
    wanted = {table for table in V1MODEL_INDEX.tables.by_name.values() if not table.is_const}
    assert wanted == {table for table in index(name).tables.by_name.values() if not table.is_const}


@BOTH
def test_every_action_that_is_written_is_the_same_in_both(name: str) -> None:
    """Ids, parameters and their widths. Actions of constant tables have names with dots, and are nobody's business."""
    wanted = {action for action in V1MODEL_INDEX.actions.by_name.values() if "." not in action.name}
    assert wanted == {action for action in index(name).actions.by_name.values() if "." not in action.name}


@BOTH
@pytest.mark.parametrize("kind", ["counters", "meters", "profiles"])
def test_every_counter_meter_and_action_profile_is_the_same_in_both(name: str, kind: str) -> None:
    wanted, found = (getattr(one, kind).by_name for one in (V1MODEL_INDEX, index(name)))
    assert wanted == found


@BOTH
def test_counters_count_the_same_units(name: str) -> None:
    units = [
        {counter.preamble.name: counter.spec.unit for counter in one.message.counters}
        for one in (V1MODEL_INDEX, index(name))
    ]
    assert units[0] == units[1]


TICK_NS = 1024
"""What Tofino's program counts as a microsecond."""


@settings(deadline=None)
@given(slack=st.integers(1000, 10**9), share=st.floats(0, 0.5))
def test_the_tick_moves_a_slack_code_by_one_step_at_most(slack: int, share: float) -> None:
    """Of a packet that spent half of its slack in the queue at most; on both, parts of a unit do not count."""
    queued_ns = int(slack * share * 1000)
    v1model, tofino = slack - queued_ns // 1000, slack - queued_ns // TICK_NS
    assert 0 <= log2_code(tofino) - log2_code(v1model) <= 1
