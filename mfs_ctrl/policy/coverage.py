"""Whether a list of rules gives every packet a level, and whether each rule ever applies.

Rules are boxes over (RLI, urgency, slack, remaining), where RLI is the relative layer index. What a list leaves
uncovered is found by subtracting them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from host_agent.protocol.level import ANY, CODE_MAX, Interval, LevelKey, LevelRule
from host_agent.protocol.stamp import Stage

_Box = tuple[Interval, ...]
_DOMAINS: dict[int, _Box] = {
    0: (ANY, ANY, ANY, ANY),
    # A late flow has no slack, and no bound on its MLU (minimal link utilisation; host_agent.protocol.level.level_key).
    1: (ANY, (CODE_MAX, CODE_MAX), (0, 0), ANY),
}
_AXES = range(4)


def uncovered(rules: Sequence[LevelRule]) -> LevelKey | None:
    """Return the key of a packet that no rule matches, or None."""
    for stage in Stage:
        for late, domain in _DOMAINS.items():
            for box in _without([domain], (_box(rule) for rule in rules if _concerns(rule, stage, late))):
                return LevelKey(stage, late, *(low for low, _ in box))
    return None


def shadowed(rules: Sequence[LevelRule]) -> int | None:
    """Return the index of a rule that no packet reaches, because earlier rules match first; or None."""
    for index, rule in enumerate(rules):
        if not any(
            _without(
                _overlap(_box(rule), domain),
                (_box(earlier) for earlier in rules[:index] if _concerns(earlier, rule.stage, late)),
            )
            for late, domain in _DOMAINS.items()
            if _concerns(rule, rule.stage, late)
        ):
            return index
    return None


def _concerns(rule: LevelRule, stage: Stage, late: int) -> bool:
    return rule.stage == stage and rule.late[0] <= late <= rule.late[1]


def _box(rule: LevelRule) -> _Box:
    return rule.rli, rule.urgency, rule.slack_code, rule.remaining_code


def _overlap(box: _Box, other: _Box) -> list[_Box]:
    common = tuple((max(low, from_), min(high, to)) for (low, high), (from_, to) in zip(box, other, strict=True))
    return [common] if all(low <= high for low, high in common) else []


def _without(boxes: Iterable[_Box], removed: Iterable[_Box]) -> list[_Box]:
    """Return what is left of ``boxes``, as disjoint boxes."""
    left = list(boxes)
    for cut in removed:
        left = [piece for box in left for piece in _minus(box, cut)]
    return left


def _minus(box: _Box, cut: _Box) -> list[_Box]:
    if not _overlap(box, cut):
        return [box]
    pieces = []
    for axis in _AXES:
        (low, high), (from_, to) = box[axis], cut[axis]
        if low < from_:
            pieces.append((*box[:axis], (low, from_ - 1), *box[axis + 1 :]))
        if to < high:
            pieces.append((*box[:axis], (to + 1, high), *box[axis + 1 :]))
        box = (*box[:axis], (max(low, from_), min(high, to)), *box[axis + 1 :])
    return pieces
