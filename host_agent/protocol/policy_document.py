"""A policy as a JSON document, as the controller serves it to host agents and as an agent keeps it on disk.

``{"name": "mfs", "rules": [{"stage": 3, "level": 7, "rli": [0, 0], "urgency": [9, 255]}, ...], "biases": {"1": 53}}``.
Rules are ordered: the first that matches wins; an omitted interval matches everything. ``biases`` holds the bias of
each port of the switch (:func:`host_agent.protocol.level.bias_code`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from host_agent.protocol.level import ANY, CODE_MAX, Interval, LevelRule
from host_agent.protocol.stamp import LEVELS, Stage

INTERVALS: Mapping[str, Interval] = {
    "late": (0, 1),
    "rli": ANY,
    "urgency": ANY,
    "slack_code": ANY,
    "remaining_code": ANY,
}
"""Intervals of a rule with their defaults."""
BIAS_MAX = 511


class DocumentError(ValueError):
    """A document that is not a valid policy; the message says where."""


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """Name and rules of a policy, and the bias of each port of the switch."""

    name: str
    rules: tuple[LevelRule, ...]
    biases: Mapping[int, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the document as text; equal documents have equal texts."""
        document = {
            "name": self.name,
            "rules": [_rule_to_json(rule) for rule in self.rules],
            "biases": {str(port): self.biases[port] for port in sorted(self.biases)},
        }
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> PolicyDocument:
        """Read a document.

        Raises:
            DocumentError: not JSON, or not a policy.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"not JSON: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("rules"), list):
            raise DocumentError("a policy is an object with a list of rules")
        biases = document.get("biases", {})
        try:
            ports = {int(port): bias for port, bias in biases.items()}
        except (AttributeError, ValueError):
            raise DocumentError("biases is an object whose keys are port numbers") from None
        if any(type(bias) is not int or not 0 <= bias <= BIAS_MAX for bias in ports.values()):
            raise DocumentError(f"a bias is an integer in 0..{BIAS_MAX}")
        rules = tuple(_rule_from_json(index, rule) for index, rule in enumerate(document["rules"]))
        return cls(str(document.get("name", "")), rules, ports)


def etag(text: str) -> str:
    """Return the entity tag of a document's text; tags are equal only for equal texts (RFC 9110, section 8.8.3)."""
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'


def _rule_to_json(rule: LevelRule) -> dict[str, Any]:
    fields: dict[str, Any] = {"stage": int(rule.stage), "level": rule.level}
    for name, everything in INTERVALS.items():
        interval = getattr(rule, name)
        if interval != everything:
            fields[name] = list(interval)
    return fields


def _rule_from_json(index: int, fields: Any) -> LevelRule:
    if not isinstance(fields, dict) or not {"stage", "level"} <= fields.keys() <= {"stage", "level", *INTERVALS}:
        raise DocumentError(
            f"rule {index} must have stage and level, and no other fields than the intervals {', '.join(INTERVALS)}"
        )
    level = fields["level"]
    if type(level) is not int or not 0 <= level < LEVELS:
        raise DocumentError(f"rule {index}: level {level!r} is not in 0..{LEVELS - 1}")
    try:
        stage = Stage(fields["stage"])
    except ValueError:
        raise DocumentError(f"rule {index}: unknown stage {fields['stage']!r}") from None
    return LevelRule(stage, level, **{name: _interval(index, name, fields) for name in INTERVALS})


def _interval(index: int, name: str, fields: Mapping[str, Any]) -> Interval:
    value: Sequence[Any] = fields.get(name, INTERVALS[name])
    match value:
        case [int(low), int(high)] if 0 <= low <= high <= CODE_MAX:
            return low, high
    raise DocumentError(f"rule {index}: {name} is [low, high] with codes in 0..{CODE_MAX}, not {value!r}")
