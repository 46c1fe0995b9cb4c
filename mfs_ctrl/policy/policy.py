"""Policies as data: each is a list of rules for the table ``rmlq``, and nothing else.

A policy sees what a stamp and the switch know of a packet (:class:`host_agent.protocol.level.LevelKey`) and gives a
level. The first rule that matches wins, on the hosts by order, in the switch by priority.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from host_agent.protocol.level import ANY, CODE_MAX, CODE_STEPS, URGENCY_ONE, Interval, LevelRule
from host_agent.protocol.stamp import LEVELS, SCAVENGER, TOP_LEVEL, Stage

IN_TIME = (0, 0)
LATE = (1, 1)

ORDERED = (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D)
UNSTAGED_FIRST = LevelRule(Stage.NONE, TOP_LEVEL)
"""Acknowledgements go first."""
GIVE_UP = LevelRule(Stage.P2D, SCAVENGER, late=LATE)
"""A last-stage flow that is late cannot help its request any more. In every policy that has an order at all, so that no
policy is better only because another wastes bandwidth on these."""

# The levels of the MFS policy (paper section 4.3: the top for last-stage flows about to miss, early stages below it,
# the other last-stage flows below those). Reuse stands one level above collectives: it is short, and while it is
# missing all of another unit waits, whereas the unit that serves it only computes a little later.
REUSE_TIGHT = 6
REUSE_SOON = COLLECTIVE_TIGHT = 5
REUSE_LATER = COLLECTIVE_LOOSE = 4
LAST_TIGHT = 3
LAST_SOON = 2
LAST_LATER = 1

# The levels that the Karuna-like policy has for flows without a deadline of their own.
KARUNA_HIGHEST = TOP_LEVEL - 1
KARUNA_LOWEST = 2

HOPELESS = URGENCY_ONE + CODE_STEPS // 2
"""The urgency from which the MFS policy gives up last-stage flows before they are late: MLU 1.4, with what early stages
leave of the port. Where only last-stage flows meet and cannot all make it, they are to miss one after the other and not
all together."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where the MFS policy promotes: what the tuner moves.

    Attributes:
        mlu: urgency code Q_1 at which last-stage flows whose request is computed rise to the top level. A little below
            MLU 1, for a flow that rises must still make it.
        near_rli: largest RLI, in layers, of early-stage flows that count as near.
        tight_slack: largest slack code (to the batch's RED) of early-stage flows that go first among those a GPU
            waits for.
        last_slacks: largest slack codes, to the request's deadline, of last-stage flows that go first and second of
            those below the top level. The tuner leaves them alone: they follow no batch's RED.
    """

    mlu: int = URGENCY_ONE - 2
    near_rli: int = 2
    tight_slack: int = 160
    last_slacks: tuple[int, int] = (132, 144)

    def __post_init__(self) -> None:
        if not 1 <= self.mlu <= CODE_MAX:
            raise ValueError(f"mlu threshold {self.mlu} is a code of 1..{CODE_MAX}")
        if not (0 <= self.near_rli <= CODE_MAX and 0 <= self.tight_slack <= CODE_MAX):
            raise ValueError(f"near_rli {self.near_rli} and tight_slack {self.tight_slack} are codes of 0..{CODE_MAX}")
        if not 0 <= self.last_slacks[0] <= self.last_slacks[1] <= CODE_MAX:
            raise ValueError(f"last_slacks {self.last_slacks} must rise within 0..{CODE_MAX}")


def slower(thresholds: Thresholds, factor: float) -> Thresholds:
    """The same for objectives that are ``factor`` times as long: codes of slack rise by 8 an octave, urgency stays.

    Raises:
        ValueError: the factor is not positive, or codes leave their range.
    """
    if factor <= 0:
        raise ValueError(f"a factor of slack is above 0, not {factor:g}")
    step = round(CODE_STEPS * math.log2(factor))
    first, second = thresholds.last_slacks
    return replace(thresholds, tight_slack=thresholds.tight_slack + step, last_slacks=(first + step, second + step))


@dataclass(frozen=True, slots=True)
class Policy:
    """A named list of rules; ``thresholds`` only where there is something to tune."""

    name: str
    rules: tuple[LevelRule, ...]
    thresholds: Thresholds | None = field(default=None)


def mfs(thresholds: Thresholds | None = None) -> Policy:
    """Defer and promote (paper section 4): MLU for the last stage, RLI then RED for the early ones."""
    at = thresholds or Thresholds()
    first, second = at.last_slacks
    rules = [
        UNSTAGED_FIRST,
        GIVE_UP,
        LevelRule(Stage.P2D, SCAVENGER, urgency=(HOPELESS, CODE_MAX)),
        # The top level only when computing is over (RLI 0): before, P2D would preempt the collectives that feed it.
        LevelRule(Stage.P2D, TOP_LEVEL, rli=(0, 0), urgency=(at.mlu, CODE_MAX)),
        # MLU is relative: a short flow with little time left has a small one. Where only last-stage flows meet, at a
        # decode unit's port or an uplink, absolute slack orders them better.
        LevelRule(Stage.P2D, LAST_TIGHT, slack_code=(0, first)),
        LevelRule(Stage.P2D, LAST_SOON, slack_code=(0, second)),
        LevelRule(Stage.P2D, LAST_LATER),
    ]
    rules += [
        # A batch whose RED is past still holds its GPUs: not first, but never starved.
        LevelRule(Stage.KV_REUSE, REUSE_TIGHT, rli=(0, 0), late=IN_TIME, slack_code=(0, at.tight_slack)),
        LevelRule(Stage.KV_REUSE, REUSE_SOON, rli=(0, at.near_rli)),
        LevelRule(Stage.KV_REUSE, REUSE_LATER),
        LevelRule(Stage.COLLECTIVE, COLLECTIVE_TIGHT, rli=(0, 0), late=IN_TIME, slack_code=(0, at.tight_slack)),
        LevelRule(Stage.COLLECTIVE, COLLECTIVE_LOOSE),
    ]
    return Policy("mfs", tuple(rules), at)


def paper(top: float = 0.5, ratio: float = 4.0, near_rli: int = 2) -> Policy:
    """MFS by the letter of the paper (section 4): last-stage flows by MLU alone, early ones by RLI alone.

    Thresholds of MLU are geometric, ``Q_i = top * ratio**-i`` (the paper's U and E): above Q_0 a last-stage flow goes
    first, whether its request is computed or not; below it stand three more bands. ``near_rli``: as in
    :class:`Thresholds`. Nothing is given up but what is late.
    """
    codes = [max(1, min(CODE_MAX, round(URGENCY_ONE + CODE_STEPS * math.log2(top * ratio**-i)))) for i in range(3)]
    levels = (TOP_LEVEL, LAST_TIGHT, LAST_SOON)
    last = (LevelRule(Stage.P2D, level, urgency=(code, CODE_MAX)) for level, code in zip(levels, codes, strict=True))
    early = (Stage.COLLECTIVE, Stage.KV_REUSE)
    bands = ((REUSE_TIGHT, (0, 0)), (REUSE_SOON, (0, near_rli)), (REUSE_LATER, ANY))
    return Policy(
        "paper",
        (
            UNSTAGED_FIRST,
            GIVE_UP,
            *last,
            LevelRule(Stage.P2D, LAST_LATER),
            *(LevelRule(stage, level, rli=rli) for stage in early for level, rli in bands),
        ),
    )


def static() -> Policy:
    """One class a stage: collectives over reuse over P2D, what three traffic classes give an operator."""
    return _classes("static", (Stage.COLLECTIVE, Stage.KV_REUSE, Stage.P2D))


def static_reuse() -> Policy:
    """Static classes with reuse over collectives: right where one unit serves what others wait for."""
    return _classes("static-reuse", (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D))


def _classes(name: str, order: Iterable[Stage]) -> Policy:
    classes = (LevelRule(stage, level) for stage, level in zip(order, (6, 4, 2), strict=True))
    return Policy(name, (UNSTAGED_FIRST, GIVE_UP, *classes))


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


def edf_explicit(boundaries: Sequence[int]) -> Policy:
    """EDF for flows with a deadline of their own, that is P2D; the others share what is left, as they have none."""
    bands = _bands(boundaries, TOP_LEVEL, 2)
    last = (LevelRule(Stage.P2D, level, slack_code=band) for level, band in bands)
    others = (LevelRule(stage, 1) for stage in ORDERED if stage is not Stage.P2D)
    return Policy("edf-explicit", (UNSTAGED_FIRST, GIVE_UP, *last, *others))


def karuna(boundaries: Sequence[int]) -> Policy:
    """Karuna-like: flows with a deadline of their own, that is P2D, get no more than they need, others go by SJF.

    Karuna paces deadline flows at the least rate that meets the deadline. With levels alone: they wait at the bottom
    until their MLU says that they need all of the bandwidth now, and then go first. ``boundaries`` are remaining codes
    of the others, ascending, one fewer than the levels between.
    """
    bands = _bands(boundaries, KARUNA_HIGHEST, KARUNA_LOWEST)
    early = (stage for stage in ORDERED if stage is not Stage.P2D)
    return Policy(
        "karuna",
        (
            UNSTAGED_FIRST,
            GIVE_UP,
            LevelRule(Stage.P2D, TOP_LEVEL, urgency=(URGENCY_ONE, CODE_MAX)),
            LevelRule(Stage.P2D, KARUNA_LOWEST - 1),
            *(LevelRule(stage, level, remaining_code=band) for stage in early for level, band in bands),
        ),
    )


def karuna_paced(boundaries: Sequence[int]) -> Policy:
    """Karuna where senders pace: deadline flows go first, at the least rate that meets the deadline; others by SJF.

    The rate is the sender's doing, not a level's. ``boundaries`` as in :func:`karuna`.
    """
    waiting = karuna(boundaries)
    rules = (rule for rule in waiting.rules if rule == GIVE_UP or rule.stage is not Stage.P2D)
    return Policy("karuna-paced", (*rules, LevelRule(Stage.P2D, TOP_LEVEL)))


def without_red(base: Policy) -> Policy:
    """The MFS policy ``base`` without the levels of early-stage flows whose batch is tight.

    Its thresholds are not tuned: the tuner's evidence is by levels that it does not have.
    """
    rules = (rule for rule in base.rules if rule.stage == Stage.P2D or rule.late != IN_TIME)
    return Policy(f"{base.name}-without-red", tuple(rules))


def folded(base: Policy, levels: int) -> Policy:
    """The policy ``base`` on a switch of so many queues, 1 to 8: neighbouring levels share one, order is kept.

    The lowest queue is the scavenger, so that what is given up still falls. The thresholds are not tuned, as those of
    :func:`without_red`.

    Raises:
        ValueError: no such number of levels.
    """
    if not 1 <= levels <= LEVELS:
        raise ValueError(f"a policy folds onto 1 to {LEVELS} levels, not {levels}")
    return _relevelled(base, f"{base.name}-{levels}-levels", lambda level: _folded_level(level, levels))


def _folded_level(level: int, levels: int) -> int:
    queue = level * levels // LEVELS
    highest_of_queue = -(-(queue + 1) * LEVELS // levels) - 1
    return highest_of_queue if queue else SCAVENGER


def _relevelled(base: Policy, name: str, level_of: Callable[[int], int]) -> Policy:
    return Policy(name, tuple(replace(rule, level=level_of(rule.level)) for rule in base.rules))


def _bands(boundaries: Sequence[int], highest: int = TOP_LEVEL, lowest: int = 1) -> list[tuple[int, Interval]]:
    """Levels from ``highest`` down to ``lowest`` at most, and the codes of each."""
    codes = all(1 <= boundary <= CODE_MAX for boundary in boundaries)
    if not codes or list(boundaries) != sorted(set(boundaries)) or len(boundaries) > highest - lowest:
        raise ValueError(
            f"boundaries {list(boundaries)} must rise within 1..{CODE_MAX}, at most {highest - lowest} of them"
        )
    edges = [0, *boundaries, CODE_MAX + 1]
    return [(highest - index, (low, high - 1)) for index, (low, high) in enumerate(pairwise(edges))]
