"""Policies: named lists of rules for the table ``rmlq``, whose bounds may be named thresholds.

The table is the reverse multi-level queue (RMLQ). Rules compare the relative layer index (RLI), the urgency (a code of
the minimal link utilisation, MLU), the slack and the remaining bytes of a packet.

A policy sees what a stamp and the switch know about a packet (:class:`host_agent.protocol.level.LevelKey`) and gives
the packet a level. The first rule that matches wins: on hosts by order, in the switch by priority. The built-in
policies are TOML files in ``builtin/``; :mod:`mfs_ctrl.policy.policy_file` reads them and yours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from host_agent.protocol.level import CODE_MAX, CODE_STEPS, Interval, LevelRule
from host_agent.protocol.stamp import LEVELS, SCAVENGER, Stage
from mfs_ctrl.errors import PolicyError
from mfs_ctrl.policy.quantities import Dimension
from mfs_ctrl.policy.tuning import RULES, LoadBias, Loop

LATE = (1, 1)
NEVER = CODE_MAX + 1
"""A threshold that no code reaches."""
GIVE_UP = LevelRule(Stage.P2D, SCAVENGER, late=LATE)
"""A last-stage flow that is late cannot help its request any more. Every policy with an order has this rule, so that no
policy wins only because another wastes bandwidth on such flows."""


class Thresholds(Mapping[str, int]):
    """Codes by name, immutable: ``Thresholds(mlu=126, near_rli=2)``.

    Codes are 0 to 255; 256 is a threshold that nothing reaches.

    Raises:
        PolicyError: a value is not such a code.
    """

    __slots__ = ("_codes",)

    def __init__(self, codes: Mapping[str, int] | None = None, /, **named: int) -> None:
        self._codes = {**(codes or {}), **named}
        for name, code in self._codes.items():
            if type(code) is not int or not 0 <= code <= NEVER:
                raise PolicyError(
                    f"the threshold {name} is a code of 0 to {CODE_MAX}, or {NEVER} for never, not {code!r}"
                )

    def __getitem__(self, name: str) -> int:
        return self._codes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._codes)

    def __len__(self) -> int:
        return len(self._codes)

    def __hash__(self) -> int:
        return hash(frozenset(self._codes.items()))

    def __repr__(self) -> str:
        return f"Thresholds({', '.join(f'{name}={code}' for name, code in self._codes.items())})"

    def replace(self, **changed: int) -> Thresholds:
        """Return these thresholds with some of them changed.

        Raises:
            PolicyError: there is no threshold of that name, or the value is not a code.
        """
        if unknown := sorted(changed.keys() - self.keys()):
            have = f"there are {', '.join(self)}" if self else "there are none"
            raise PolicyError(f"there is no threshold {', '.join(unknown)}; {have}")
        return Thresholds({**self._codes, **changed})


@dataclass(frozen=True, slots=True)
class Span:
    """An interval of codes, ends included, each of which may be the name of a threshold.

    With ``below``, ``high`` itself is excluded.
    """

    low: int | str = 0
    high: int | str = CODE_MAX
    below: bool = False

    def at(self, thresholds: Mapping[str, int]) -> Interval:
        """Return the codes with these thresholds; empty if the first is above the second."""
        low, high = (thresholds[end] if isinstance(end, str) else end for end in (self.low, self.high))
        return low, min(high - self.below, CODE_MAX)

    @property
    def names(self) -> frozenset[str]:
        """The thresholds that it refers to."""
        return frozenset(end for end in (self.low, self.high) if isinstance(end, str))


EVERY = Span()


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of ``rmlq`` whose bounds may be thresholds; see :class:`~host_agent.protocol.level.LevelRule`."""

    stage: Stage
    level: int
    late: Interval = (0, 1)
    rli: Span = EVERY
    urgency: Span = EVERY
    slack: Span = EVERY
    remaining: Span = EVERY

    def at(self, thresholds: Mapping[str, int]) -> LevelRule | None:
        """Return the row with these thresholds; None if it matches nothing."""
        spans = [span.at(thresholds) for span in self.spans.values()]
        if any(low > high for low, high in spans):
            return None
        rli, urgency, slack, remaining = spans
        return LevelRule(self.stage, self.level, self.late, rli, urgency, slack, remaining)

    @property
    def spans(self) -> dict[Dimension, Span]:
        """The interval of each field."""
        return {
            Dimension.RLI: self.rli,
            Dimension.URGENCY: self.urgency,
            Dimension.SLACK: self.slack,
            Dimension.REMAINING: self.remaining,
        }


NO_THRESHOLDS = Thresholds()
IDLE = LoadBias()
"""No traffic counts as load."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A named list of rules, and how its thresholds are retuned.

    Attributes:
        name: as in results and on the command line.
        templates: the rules; the first that matches wins.
        thresholds: the codes that rules refer to by name.
        tuning: the loop that moves each tuned threshold, by its name.
        load: what counts as load of a port, for its bias.
        description: what the policy does, in one line.
        rules: ``templates`` with ``thresholds`` filled in; those that match nothing are left out.

    Raises:
        PolicyError: a rule or a loop refers to a threshold that is missing.
    """

    name: str
    templates: tuple[Rule | LevelRule, ...]
    thresholds: Thresholds = NO_THRESHOLDS
    tuning: Mapping[str, Loop] = field(default_factory=dict, hash=False)
    load: LoadBias = IDLE
    description: str = field(default="", compare=False)
    rules: tuple[LevelRule, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        named = {
            name
            for rule in self.templates
            if isinstance(rule, Rule)
            for span in rule.spans.values()
            for name in span.names
        }
        if missing := sorted((named | self.tuning.keys()) - self.thresholds.keys()):
            raise PolicyError(f"policy {self.name}: there is no threshold {', '.join(missing)}")
        rows = (rule if isinstance(rule, LevelRule) else rule.at(self.thresholds) for rule in self.templates)
        object.__setattr__(self, "rules", tuple(row for row in rows if row is not None))

    def at(self, thresholds: Mapping[str, int] | None = None, /, **changed: int) -> Policy:
        """Return the policy with other thresholds: all of them, or some by name.

        Raises:
            PolicyError: there is no threshold of that name, or a value is not a code.
        """
        return replace(self, thresholds=self.thresholds.replace(**{**(thresholds or {}), **changed}))

    def tuned_by(
        self, changes: Mapping[str, Mapping[str, object]] | None = None, /, **changed: Mapping[str, object]
    ) -> Policy:
        """Return the policy with other settings of its tuning, by threshold, or ``load`` for the bias of ports.

        ``policy.tuned_by(mlu={"late_target": 0.1}, load={"weight": 0.5})``.

        Raises:
            PolicyError: that threshold is not tuned, or a setting is unknown or out of range; the message names it.
        """
        chosen = {**(changes or {}), **changed}
        tuning, load = dict(self.tuning), self.load
        for name, settings in chosen.items():
            if name != "load" and name not in tuning:
                raise PolicyError(f"policy {self.name} does not tune {name}; it has {', '.join([*tuning, 'load'])}")
            if not isinstance(settings, Mapping):
                raise PolicyError(f"{name}: a table of settings, not {settings!r}")
            before = load if name == "load" else tuning[name]
            try:
                after = type(before).model_validate({**dict(before), **settings})
            except ValidationError as error:
                raise PolicyError(f"policy {self.name}: {described(error, name)}") from None
            if isinstance(after, LoadBias):
                load = after
            else:
                tuning[name] = after
        return replace(self, tuning=tuning, load=load)

    def with_slack_times(self, factor: float) -> Policy:
        """Return the policy for objectives ``factor`` times as long: its slack thresholds rise by 8 codes per octave.

        Raises:
            PolicyError: the policy has no threshold of slack, the factor is not above 0, or codes leave their range.
        """
        if factor <= 0:
            raise PolicyError(f"a factor of slack is above 0, not {factor:g}")
        names = self.thresholds_of(Dimension.SLACK)
        if not names and factor != 1:
            raise PolicyError(f"policy {self.name} has no threshold of slack that a slack factor could change")
        step = round(CODE_STEPS * math.log2(factor))
        return self.at({name: self.thresholds[name] + step for name in self.thresholds if name in names})

    @property
    def bands(self) -> tuple[str, ...]:
        """The thresholds ``band_1``, ``band_2``, ... between the bands of the policy, if it has bands."""
        return tuple(name for name in self.thresholds if name.startswith("band_"))

    def with_bands(self, boundaries: Sequence[int]) -> Policy:
        """Return the policy with its bands divided at ``boundaries``, ascending codes; bands beyond them stay empty.

        Raises:
            PolicyError: boundaries do not rise within 1 to 255, or there are more than thresholds.
        """
        codes = all(1 <= boundary <= CODE_MAX for boundary in boundaries)
        if not codes or list(boundaries) != sorted(set(boundaries)) or len(boundaries) > len(self.bands):
            raise PolicyError(
                f"policy {self.name}: boundaries {list(boundaries)} must rise within 1..{CODE_MAX}, "
                f"at most {len(self.bands)} of them"
            )
        padded = [*boundaries, *[NEVER] * (len(self.bands) - len(boundaries))]
        return self.at(dict(zip(self.bands, padded, strict=True)))

    @property
    def has_slack_thresholds(self) -> bool:
        """Whether :meth:`with_slack_times` has anything to change."""
        return bool(self.thresholds_of(Dimension.SLACK))

    def thresholds_of(self, compared: Dimension) -> frozenset[str]:
        """Return the names of the thresholds that rules compare with this field."""
        return frozenset(
            name for rule in self.templates if isinstance(rule, Rule) for name in rule.spans[compared].names
        )


def described(error: ValidationError, *place: str) -> str:
    """Return the first mistake of ``error`` as one line: where, what is wrong, what was given."""
    first = error.errors(include_url=False)[0]
    # pydantic counts from 0, and names the member of a union beside the key.
    keys = (key + 1 if isinstance(key, int) else key for key in first["loc"] if key not in RULES)
    where = ".".join(map(str, (*place, *keys)))
    message = first["msg"].removeprefix("Value error, ")
    given = (
        ""
        if isinstance(first["input"], dict | list) or repr(first["input"]) in message
        else f", not {first['input']!r}"
    )
    return f"{where}: {message[0].lower()}{message[1:]}{given}"


def giving_up(chosen: Policy) -> Policy:
    """Return ``chosen``, with :data:`GIVE_UP` as its first rule. Without that rule, pruning has no effect."""
    if GIVE_UP in chosen.rules:
        return chosen
    return replace(chosen, templates=(GIVE_UP, *chosen.templates))


def folded(base: Policy, levels: int) -> Policy:
    """Return the policy ``base`` for a switch with ``levels`` queues, 1 to 8: neighbours share one, order is kept.

    The lowest queue is the scavenger, so that what is given up still falls. Thresholds are fixed, since the evidence of
    the loops is by level.

    Raises:
        ValueError: no such number of levels.
    """
    if not 1 <= levels <= LEVELS:
        raise ValueError(f"a policy folds onto 1 to {LEVELS} levels, not {levels}")
    templates = tuple(replace(rule, level=_folded_level(rule.level, levels)) for rule in base.templates)
    return replace(base, name=f"{base.name}-{levels}-levels", templates=templates, tuning={})


def _folded_level(level: int, levels: int) -> int:
    queue = level * levels // LEVELS
    highest_of_queue = -(-(queue + 1) * LEVELS // levels) - 1
    return highest_of_queue if queue else SCAVENGER
