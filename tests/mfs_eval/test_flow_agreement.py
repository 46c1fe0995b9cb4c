"""Both engines on the testbed, at low and at high load: packet-level and flow-level results agree within bounds.

docs/studies/flow-level.md states the bounds, and the reasons for the remaining differences.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from mfs_eval.setup.scenario import SCENARIOS
from mfs_eval.studies.engine_agreement import Line, compare

TESTBED = replace(SCENARIOS["testbed"], scale=16_000)
REQUESTS = 30
LOW = 8.0
"""Requests still rarely overlap, although little time passes between them."""
HIGH = 34.0
SHARED = ("fifo",)
CLASSES = ("static", "mfs")


@cache
def lines() -> dict[tuple[float, str], Line]:
    wanted = [(LOW, "fifo"), (LOW, "mfs"), *((HIGH, name) for name in (*SHARED, *CLASSES, "ceiling"))]
    found = compare(TESTBED, wanted, (1,), Path("none"), REQUESTS)
    return {(line.rate, line.variant): line for line in found}


def test_attainment_differs_by_few_points() -> None:
    for (rate, _), line in lines().items():
        # A request is 4 points of 24.
        assert line.flows[0] == pytest.approx(line.packets[0], abs=0.042 if rate == LOW else 0.084)


@pytest.mark.parametrize("variant", ["fifo", "mfs"])
def test_ttft_agrees_at_low_load(variant: str) -> None:
    line = lines()[LOW, variant]
    assert line.flows[1] == pytest.approx(line.packets[1], rel=0.1)


@pytest.mark.parametrize("variant", [*SHARED, *CLASSES])
def test_ttft_agrees_at_high_load(variant: str) -> None:
    line = lines()[HIGH, variant]
    assert line.flows[1] == pytest.approx(line.packets[1], rel=0.15)


def test_the_ceiling_agrees() -> None:
    line = lines()[HIGH, "ceiling"]
    assert line.flows[1:] == pytest.approx(line.packets[1:], rel=0.01)


def test_policies_rank_in_the_same_order_at_high_load() -> None:
    def order(which: int) -> list[str]:
        names = [*SHARED, *CLASSES, "ceiling"]
        shares = {name: (lines()[HIGH, name].packets, lines()[HIGH, name].flows)[which][0] for name in names}
        return sorted(names, key=lambda name: round(shares[name], 3))

    assert order(0)[0] == order(1)[0] == "fifo"
    assert order(0)[-1] == order(1)[-1] == "ceiling"
