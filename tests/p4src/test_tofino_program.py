"""The programs for Tofino and for v1model look the same to the controller."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_agent.protocol.level import log2_code
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from p4src.artifact import TOFINO, TOFINO_2, V1MODEL, p4info

BOTH = pytest.mark.parametrize("name", [TOFINO, TOFINO_2])
V1MODEL_INDEX = P4InfoIndex.from_text(p4info(V1MODEL))


def index(name: str) -> P4InfoIndex:
    return P4InfoIndex.from_text(p4info(name))


ONLY_V1MODEL = {
    "tables": {"ipv4_source", "ipv6_source", "stage_of_dscp", "registration_egress"},
    "actions": {
        "accept_source",
        "refuse_source",
        "set_stage",
        "no_stage",
        "pass_registration",
        "consume_registration",
    },
    "counters": {"registration", "rdma"},
    "meters": {"police_registration"},
    "profiles": set(),
}
"""Registered flows of RoCEv2, which the program for Tofino leaves out; the controller then leaves out their entries."""


def written(objects: Iterable[Any]) -> set[Any]:
    """Objects that a controller writes: neither const tables nor their actions, whose names contain dots.

    Ids are left out. They are hashes of names that differ between the compilers; the controller looks them up by name
    in the P4Info of the program that it loads.
    """
    named = (one for one in objects if "." not in one.name and not getattr(one, "is_const", False))
    return {replace(one, id=0) for one in named}


@BOTH
@pytest.mark.parametrize("kind", ["tables", "actions", "counters", "meters", "profiles"])
def test_the_objects_that_a_controller_writes_are_the_same_in_both(name: str, kind: str) -> None:
    """Names, match fields with their numbers, kinds and widths, parameters, sizes, and default actions."""
    wanted, found = (written(getattr(one, kind).by_name.values()) for one in (V1MODEL_INDEX, index(name)))
    assert {one for one in wanted if one.name not in ONLY_V1MODEL[kind]} == found
    assert ONLY_V1MODEL[kind] == {one.name for one in wanted} - {one.name for one in found}


@BOTH
def test_the_largest_group_size_is_the_same_in_both(name: str) -> None:
    sizes = [[item.max_group_size for item in one.message.action_profiles] for one in (V1MODEL_INDEX, index(name))]
    assert sizes[0] == sizes[1]


@BOTH
def test_counters_count_the_same_units(name: str) -> None:
    units = [
        {
            counter.preamble.name: counter.spec.unit
            for counter in one.message.counters
            if counter.preamble.name not in ONLY_V1MODEL["counters"]
        }
        for one in (V1MODEL_INDEX, index(name))
    ]
    assert units[0] == units[1]


CLOCK_BITS = 48


def charged_us(enqueued_ns: int, dequeued_ns: int) -> int:
    """The queueing time that ``tna/mfs.p4`` computes: 32 bits of ticks of 256 ns, four of which count as 1 us."""
    return ((dequeued_ns >> 8) - (enqueued_ns >> 8) & 0xFFFFFFFF) >> 2


@settings(deadline=None)
@given(
    slack=st.integers(1000, 10**9),
    share=st.fractions(0, Fraction(1, 2), max_denominator=1000),
    enqueued_ns=st.integers(0, (1 << CLOCK_BITS) - 1),
)
def test_the_resolution_of_the_clock_changes_a_slack_code_by_one_step_at_most(
    slack: int, share: Fraction, enqueued_ns: int
) -> None:
    """For a packet that spends at most half of its slack in the queue, at any time: the clock wraps around."""
    queued_ns = int(slack * share * 1000)
    dequeued_ns = (enqueued_ns + queued_ns) % (1 << CLOCK_BITS)
    v1model, tofino = slack - queued_ns // 1000, slack - charged_us(enqueued_ns, dequeued_ns)
    assert abs(log2_code(tofino) - log2_code(v1model)) <= 1


@given(queued_ns=st.integers(0, 10**12), enqueued_ns=st.integers(0, (1 << CLOCK_BITS) - 1))
def test_the_clock_measures_a_fortieth_too_little(queued_ns: int, enqueued_ns: int) -> None:
    """1,000 of 1,024 ns within one unit, for up to 18 minutes, after which the ticks wrap around."""
    error_us = charged_us(enqueued_ns, (enqueued_ns + queued_ns) % (1 << CLOCK_BITS)) - queued_ns / 1000
    assert -queued_ns / 1000 * 24 / 1024 - 1 <= error_us <= 0.256
