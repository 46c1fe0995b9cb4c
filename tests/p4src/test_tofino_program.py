"""The program for Tofino shows the controller what the program for v1model shows it."""

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


def written(objects: Iterable[Any]) -> set[Any]:
    """What a controller may write: no constant tables, nor their actions, whose names have dots.

    Without ids: they are hashes of names that differ within the compilers. The controller takes them, by name, from
    the P4Info of the program that it gives to the switch.
    """
    named = (one for one in objects if "." not in one.name and not getattr(one, "is_const", False))
    return {replace(one, id=0) for one in named}


@BOTH
@pytest.mark.parametrize("kind", ["tables", "actions", "counters", "meters", "profiles"])
def test_all_that_is_written_is_the_same_in_both(name: str, kind: str) -> None:
    """Names, match fields with their numbers, kinds and widths, parameters, sizes, and what happens on a miss."""
    wanted, found = (written(getattr(one, kind).by_name.values()) for one in (V1MODEL_INDEX, index(name)))
    assert wanted == found


@BOTH
def test_groups_may_be_as_large(name: str) -> None:
    sizes = [[item.max_group_size for item in one.message.action_profiles] for one in (V1MODEL_INDEX, index(name))]
    assert sizes[0] == sizes[1]


@BOTH
def test_counters_count_the_same_units(name: str) -> None:
    units = [
        {counter.preamble.name: counter.spec.unit for counter in one.message.counters}
        for one in (V1MODEL_INDEX, index(name))
    ]
    assert units[0] == units[1]


CLOCK_BITS = 48


def charged_us(enqueued_ns: int, dequeued_ns: int) -> int:
    """What ``tna/mfs.p4`` takes for the time queued: 32 bits of a tick of 256 ns, four to the microsecond."""
    return ((dequeued_ns >> 8) - (enqueued_ns >> 8) & 0xFFFFFFFF) >> 2


@settings(deadline=None)
@given(
    slack=st.integers(1000, 10**9),
    share=st.fractions(0, Fraction(1, 2), max_denominator=1000),
    enqueued_ns=st.integers(0, (1 << CLOCK_BITS) - 1),
)
def test_the_tick_moves_a_slack_code_by_one_step_at_most(slack: int, share: Fraction, enqueued_ns: int) -> None:
    """Of a packet that spent half of its slack in the queue at most, and whenever that was: the clock wraps."""
    queued_ns = int(slack * share * 1000)
    dequeued_ns = (enqueued_ns + queued_ns) % (1 << CLOCK_BITS)
    v1model, tofino = slack - queued_ns // 1000, slack - charged_us(enqueued_ns, dequeued_ns)
    assert abs(log2_code(tofino) - log2_code(v1model)) <= 1


@given(queued_ns=st.integers(0, 10**12), enqueued_ns=st.integers(0, (1 << CLOCK_BITS) - 1))
def test_the_tick_charges_a_fortieth_too_little(queued_ns: int, enqueued_ns: int) -> None:
    """1,000 in 1,024, but for a unit, up to the 18 minutes after which ticks begin anew."""
    error_us = charged_us(enqueued_ns, (enqueued_ns + queued_ns) % (1 << CLOCK_BITS)) - queued_ns / 1000
    assert -queued_ns / 1000 * 24 / 1024 - 1 <= error_us <= 0.256
