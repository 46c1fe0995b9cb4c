"""Covers tables within a program: match kinds, hit and miss, action_run, exit, profiles, direct counter and meter."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soft_switch.errors import ConstTableError
from soft_switch.model.externs import MeterConfig
from soft_switch.model.hashes import crc16
from soft_switch.pipeline import Pipeline
from soft_switch.tables.matches import ActionCall, Exact, Group, Lpm, Member, Range, Ternary
from soft_switch.tables.table import Table
from tests.support.p4_programs import load, send, shared

pytestmark = pytest.mark.usefixtures("run_as")

Answer = tuple[int, int, int]


@pytest.fixture
def pipeline() -> Pipeline:
    return load("matching")


def table(pipeline: Pipeline, name: str) -> Table:
    return pipeline.tables[f"TestIngress.{name}"]


def call(name: str, *args: int) -> ActionCall:
    return ActionCall(name if name == "NoAction" else f"TestIngress.{name}", args)


def ask(pipeline: Pipeline, which: int, small: int = 0, medium: int = 0, large: int = 0) -> Answer | None:
    """(number, trace, colour) that the program answers; None if it drops the packet."""
    out = send(pipeline, struct.pack("!BBHI", which, small, medium, large))
    return None if out is None else (out[0], out[1], out[2])


def test_an_exact_table_counts_hits_in_its_direct_counter(pipeline: Pipeline) -> None:
    exact = table(pipeline, "exact_table")
    entry = exact.insert((Exact(5), Exact(600)), 0, call("also", 9, 40))
    assert ask(pipeline, 0, 5, 600) == (9, 41, 0)
    assert ask(pipeline, 0, 5, 601) == (1, 1, 0)
    assert ask(pipeline, 0, 5, 600) == (9, 41, 0)
    assert (entry.packets, entry.bytes) == (2, 16)
    exact.modify((Exact(5), Exact(600)), 0, call("drop"))
    assert ask(pipeline, 0, 5, 600) is None
    assert entry.packets == 3
    exact.set_default(call("NoAction"))
    assert ask(pipeline, 0, 5, 601) == (0, 1, 0)


def test_exit_in_an_action_skips_the_rest_of_the_control(pipeline: Pipeline) -> None:
    table(pipeline, "exact_table").insert((Exact(1), Exact(1)), 0, call("leave", 33))
    assert ask(pipeline, 0, 1, 1) == (33, 0, 0)


@pytest.mark.parametrize(("number", "answer"), [(200, (200, 1)), (150, (150, 78)), (100, (0, 78)), (30, (70, 78))])
def test_an_action_may_branch_and_return(pipeline: Pipeline, number: int, answer: tuple[int, int]) -> None:
    table(pipeline, "exact_table").insert((Exact(1), Exact(1)), 0, call("branchy", number))
    assert ask(pipeline, 0, 1, 1) == (*answer, 0)


def test_the_longest_prefix_wins_and_the_program_sees_hit_or_miss(pipeline: Pipeline) -> None:
    lpm = table(pipeline, "lpm_table")
    lpm.insert((Lpm(0x0A000000, 8),), 0, call("answer", 8))
    lpm.insert((Lpm(0x0A010000, 16),), 0, call("answer", 16))
    lpm.insert((Lpm(0x0B000000, 8),), 0, call("NoAction"))
    assert ask(pipeline, 1, large=0x0A010203) == (16, 1, 0)
    assert ask(pipeline, 1, large=0x0A020203) == (8, 1, 0)
    assert ask(pipeline, 1, large=0x0B020203) == (0, 1, 0)
    assert ask(pipeline, 1, large=0x0C020203) == (0, 2, 0)


def test_a_program_may_switch_on_the_action_that_ran(pipeline: Pipeline) -> None:
    ternary = table(pipeline, "ternary_table")
    ternary.insert((Ternary(1, 0xFF), Exact(0)), 1, call("also", 50, 60))
    ternary.insert((Ternary(2, 0xFF), Exact(0)), 1, call("drop"))
    assert ask(pipeline, 2, large=0x101) == (50, 7, 0)
    assert ask(pipeline, 2, large=0x102) is None
    assert ask(pipeline, 2, large=0x103) == (2, 5, 0)
    ternary.set_default(call("also", 4, 4))
    assert ask(pipeline, 2, large=0x103) == (4, 7, 0)


def test_a_key_may_combine_range_ternary_and_prefix(pipeline: Pipeline) -> None:
    mixed = table(pipeline, "range_table")
    mixed.insert((Range(10, 20), Ternary(0, 0), Lpm(0, 0)), 1, call("answer", 1))
    mixed.insert((Range(0, 255), Ternary(0x8000, 0x8000), Lpm(0xFF000000, 8)), 2, call("answer", 2))
    assert ask(pipeline, 3, 15, 0x8001, 0xFF000001) == (2, 0, 0)
    assert ask(pipeline, 3, 15, 0x0001, 0xFF000001) == (1, 0, 0)
    assert ask(pipeline, 3, 21, 0x8001, 0xFE000001) == (3, 3, 0)


def test_an_optional_field_matches_a_value_or_anything(pipeline: Pipeline) -> None:
    optional = table(pipeline, "optional_table")
    optional.insert((Ternary(5, 0xFF), Ternary(0, 0)), 1, call("answer", 1))
    optional.insert((Ternary(5, 0xFF), Ternary(6, 0xFFFF)), 2, call("answer", 2))
    answers = [ask(pipeline, 4, 5, 6), ask(pipeline, 4, 5, 7), ask(pipeline, 4, 6, 6)]
    assert answers == [(2, 0, 0), (1, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize(
    ("small", "answer"), [(0x11, (10, 9)), (0x31, (12, 9)), (0x82, (13, 0)), (0x83, (0, 9)), (0x20, (12, 9))]
)
def test_the_first_const_entry_wins(pipeline: Pipeline, small: int, answer: tuple[int, int]) -> None:
    assert ask(pipeline, 5, small) == (*answer, 0)


def test_const_entries_are_read_only_and_ranked(pipeline: Pipeline) -> None:
    const = table(pipeline, "const_table")
    assert const.is_const
    priorities = [entry.priority for entry in const.entries()]
    assert priorities == sorted(priorities, reverse=True)
    assert min(priorities) >= 1
    with pytest.raises(ConstTableError):
        const.set_default(call("answer", 5))


def test_a_table_without_a_key_has_only_a_default_action(pipeline: Pipeline) -> None:
    assert ask(pipeline, 6) == (42, 0, 0)
    table(pipeline, "keyless").set_default(call("also", 1, 2))
    assert ask(pipeline, 6) == (1, 2, 0)
    table(pipeline, "keyless").set_default(None)
    assert ask(pipeline, 6) == (42, 0, 0)


def test_entries_share_the_members_of_an_action_profile(pipeline: Pipeline) -> None:
    profile = pipeline.action_profiles["TestIngress.shared_actions"]
    assert not profile.with_selector
    assert ask(pipeline, 7, 1) == (0, 8, 0)
    profile.add_member(3, call("answer", 30))
    table(pipeline, "profiled").insert((Exact(1),), 0, Member(3))
    assert ask(pipeline, 7, 1) == (30, 0, 0)
    profile.modify_member(3, call("also", 31, 32))
    assert ask(pipeline, 7, 1) == (31, 32, 0)


def test_an_action_selector_chooses_by_the_hash_of_the_selector_fields(pipeline: Pipeline) -> None:
    profile = pipeline.action_profiles["TestIngress.spread"]
    for member in range(3):
        profile.add_member(member, call("answer", 100 + member))
    profile.add_group(1, {0: 1, 1: 1, 2: 2})
    table(pipeline, "selected").insert((Exact(1),), 0, Group(1))
    for medium in range(50):
        chosen = [0, 1, 2, 2][crc16(struct.pack("!HI", medium, 7)) % 4]
        assert ask(pipeline, 8, 1, medium, 7) == (100 + chosen, 0, 0)
    profile.modify_group(1, {})
    assert ask(pipeline, 8, 1, 0, 7) == (0, 0, 0)
    assert ask(pipeline, 8, 2, 0, 7) == (0, 4, 0)


def test_a_direct_meter_colours_the_packets_of_its_entry(pipeline: Pipeline) -> None:
    entry = table(pipeline, "metered_table").insert((Exact(1),), 0, call("metered"))
    assert pipeline.direct_meters == {"TestIngress.rate": ("TestIngress.metered_table", "bytes")}
    assert [ask(pipeline, 9, 1) for _ in range(2)] == [(1, 0, 0)] * 2
    entry.meter = MeterConfig(cir=8, cburst=8, pir=8, pburst=16)
    assert [ask(pipeline, 9, 1) for _ in range(3)] == [(1, 0, 0), (1, 0, 1), (1, 0, 2)]


@given(st.integers(0, (1 << 32) - 1))
def test_a_key_may_have_a_mask(large: int) -> None:
    masked = shared("matching").tables["TestIngress.masked"]
    entry = masked.insert((Exact(large & 0x00FFFF00), Exact(1)), 0, call("answer", 5))
    assert ask(shared("matching"), 10, large=large) == (5, 0, 0)
    assert ask(shared("matching"), 10, large=large ^ 0x100) == (0, 0, 0)
    masked.delete(entry.match, 0)
