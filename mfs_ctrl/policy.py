"""Policies as data: each is a list of rules for the table ``rmlq``, and nothing else.

A policy sees what a stamp and the switch know of a packet (:class:`host_agent.level.LevelKey`) and gives a level. The
first rule that matches wins, on the hosts by order, in the switch by priority.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from host_agent.level import CODE_MAX, CODE_STEPS, URGENCY_ONE, Interval, LevelRule
from host_agent.stamp import SCAVENGER, TOP_LEVEL, Stage

IN_TIME = (0, 0)
LATE = (1, 1)

ORDERED = (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D)
UNSTAGED_FIRST = LevelRule(Stage.NONE, TOP_LEVEL)
"""Acknowledgements go first."""
GIVE_UP = LevelRule(Stage.P2D, SCAVENGER, late=LATE)
"""A last-stage flow that is late cannot help its request any more. In every policy that has an order at all, so that no
policy is better only because another wastes bandwidth on these."""

# The levels of the MFS policy (paper section 4.3: the top for last-stage flows about to miss, early stages below it,
# the other last-stage flows below those).
EARLY_TIGHT = 6
EARLY_LOOSE = 5
EARLY_NEAR = 4
EARLY_FAR = 3
LAST_SOON = 2
LAST_LATER = 1


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where the MFS policy promotes: what the tuner moves.

    Attributes:
        mlu: urgency codes Q_1 > Q_2 at which last-stage flows rise, geometric: ``Q_i = U E^-(i-1)`` with U = 1, E = 4.
        near_rli: largest RLI, in layers, of early-stage flows that count as near.
        tight_slack: largest slack code (to the batch's RED) of early-stage flows that go first among those a GPU
            waits for.
    """

    mlu: tuple[int, int] = (URGENCY_ONE, URGENCY_ONE - 2 * CODE_STEPS)
    near_rli: int = 2
    tight_slack: int = 160

    def __post_init__(self) -> None:
        if not CODE_MAX >= self.mlu[0] > self.mlu[1] >= 1:
            raise ValueError(f"mlu thresholds {self.mlu} must fall and stay within 1..{CODE_MAX}")
        if not (0 <= self.near_rli <= CODE_MAX and 0 <= self.tight_slack <= CODE_MAX):
            raise ValueError(f"near_rli {self.near_rli} and tight_slack {self.tight_slack} are codes of 0..{CODE_MAX}")


@dataclass(frozen=True, slots=True)
class Policy:
    """A named list of rules; ``thresholds`` only where there is something to tune."""

    name: str
    rules: tuple[LevelRule, ...]
    thresholds: Thresholds | None = field(default=None)


def mfs(thresholds: Thresholds | None = None) -> Policy:
    """Defer and promote (paper section 4): MLU for the last stage, RLI then RED for the early ones."""
    at = thresholds or Thresholds()
    rules: list[LevelRule | None] = [
        UNSTAGED_FIRST,
        GIVE_UP,
        # The top level only when computing is over (RLI 0): before, P2D would preempt the collectives that feed it.
        LevelRule(Stage.P2D, TOP_LEVEL, rli=(0, 0), urgency=(at.mlu[0], CODE_MAX)),
        LevelRule(Stage.P2D, LAST_SOON, urgency=(at.mlu[1], CODE_MAX)),
        LevelRule(Stage.P2D, LAST_LATER),
    ]
    for stage in (Stage.COLLECTIVE, Stage.KV_REUSE):
        rules += [
            # A batch whose RED is past still holds its GPUs: not first, but never starved.
            LevelRule(stage, EARLY_TIGHT, rli=(0, 0), late=IN_TIME, slack_code=(0, at.tight_slack)),
            LevelRule(stage, EARLY_LOOSE, rli=(0, 0)),
            LevelRule(stage, EARLY_NEAR, rli=(1, at.near_rli)) if at.near_rli else None,
            LevelRule(stage, EARLY_FAR),
        ]
    return Policy("mfs", tuple(rule for rule in rules if rule), at)


def static() -> Policy:
    """One class a stage: collectives over reuse over P2D, what three traffic classes give an operator."""
    levels = {Stage.COLLECTIVE: 6, Stage.KV_REUSE: 4, Stage.P2D: 2}
    return Policy("static", (UNSTAGED_FIRST, GIVE_UP, *(LevelRule(stage, level) for stage, level in levels.items())))


def fifo() -> Policy:
    """Everything in one queue; flows share it by their windows (fair sharing)."""
    return Policy("fifo", tuple(LevelRule(stage, 1) for stage in Stage))


def giving_up(chosen: Policy) -> Policy:
    """``chosen``, with the rule :data:`GIVE_UP` if it has none: what pruning needs to have an effect."""
    if GIVE_UP in chosen.rules:
        return chosen
    return replace(chosen, rules=(GIVE_UP, *chosen.rules))


def sjf(boundaries: Sequence[int]) -> Policy:
    """Shortest remaining first: ``boundaries`` are remaining codes, ascending, at most one fewer than the levels."""
    bands = _bands(boundaries)
    rules = [LevelRule(stage, level, remaining_code=band) for stage in ORDERED for level, band in bands]
    return Policy("sjf", (UNSTAGED_FIRST, GIVE_UP, *rules))


def edf(boundaries: Sequence[int]) -> Policy:
    """Earliest deadline first: ``boundaries`` are slack codes, ascending."""
    bands = _bands(boundaries)
    rules = [LevelRule(stage, level, slack_code=band) for stage in ORDERED for level, band in bands]
    return Policy("edf", (UNSTAGED_FIRST, GIVE_UP, *rules))


def _bands(boundaries: Sequence[int]) -> list[tuple[int, Interval]]:
    """Levels from the top down, and the codes of each."""
    codes = all(1 <= boundary <= CODE_MAX for boundary in boundaries)
    if not codes or list(boundaries) != sorted(set(boundaries)) or len(boundaries) >= TOP_LEVEL:
        raise ValueError(
            f"boundaries {list(boundaries)} must rise within 1..{CODE_MAX}, at most {TOP_LEVEL - 1} of them"
        )
    edges = [0, *boundaries, CODE_MAX + 1]
    return [(TOP_LEVEL - index, (low, high - 1)) for index, (low, high) in enumerate(pairwise(edges))]
