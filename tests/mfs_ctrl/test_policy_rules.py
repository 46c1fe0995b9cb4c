"""The rules of every built-in policy, pinned: tests/mfs_ctrl/data/rules.json has the expected rules.

Rules of different stages never compete, so their order counts only within a stage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import Stage
from mfs_ctrl import policies
from mfs_ctrl.policy.policy import Policy

PINNED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "rules.json").read_text("utf-8"))


def _thresholds(case: Mapping[str, Any], *without: str) -> dict[str, int]:
    return {name: code for name, code in case["thresholds"].items() if name not in without}


MAKE: dict[str, Callable[[Mapping[str, Any]], Policy]] = {
    "mfs": lambda case: policies.mfs(_thresholds(case)),
    "mfs-without-red": lambda case: policies.load("mfs-without-red").at(_thresholds(case, "tight_slack")),
    "mfs-folded": lambda case: policies.folded(policies.mfs(_thresholds(case)), case["levels"]),
    "paper": lambda case: policies.paper(case["top"], case["ratio"], case["near_rli"]),
}


def made(case: Mapping[str, Any]) -> Policy:
    name: str = case["policy"]
    if name in MAKE:
        return MAKE[name](case)
    if name.endswith("-giving-up"):
        return policies.giving_up(policies.load(name.removesuffix("-giving-up")))
    chosen = policies.load(name)
    return chosen.with_bands(case["boundaries"]) if "boundaries" in case else chosen


def _row(rule: LevelRule) -> list[Any]:
    intervals = (rule.late, rule.rli, rule.urgency, rule.slack_code, rule.remaining_code)
    return [rule.stage.name, rule.level, *map(list, intervals)]


@pytest.mark.parametrize("case", PINNED, ids=lambda case: f"{case['policy']}-{PINNED.index(case)}")
def test_a_policy_has_the_rules_that_it_always_had(case: Mapping[str, Any]) -> None:
    chosen = made(case)
    assert chosen.name == case["name"]
    for stage in Stage:
        found = [_row(rule) for rule in chosen.rules if rule.stage == stage]
        assert found == [row for row in case["rules"] if row[0] == stage.name]


def test_every_built_in_policy_is_pinned() -> None:
    assert set(policies.builtin_names()) <= {case["policy"] for case in PINNED}
