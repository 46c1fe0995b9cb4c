"""What the entries of a switch say about values that a controller tunes: where one that takes over goes on from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from host_agent.protocol.level import LevelRule, bias_code
from mfs_ctrl.desired import level_rule
from mfs_ctrl.p4rt.entries import ActionCall, Entity, Exact, TableEntry
from mfs_ctrl.policy.policy import Policy, Rule
from mfs_ctrl.policy.tuner import PortState
from mfs_ctrl.policy.tuning import LoadBias


def resumed_policy(policy: Policy, rows: Collection[TableEntry]) -> Policy:
    """Return ``policy`` with its tuned thresholds as they stand in ``rows``, the rows of ``rmlq`` in force.

    Thresholds that are not tuned stay as they are, since an operator chose them. Rows of another policy say nothing.
    """
    ordered = sorted(rows, key=lambda row: row.priority, reverse=True)
    rules = [rule for row in ordered if (rule := level_rule(row)) is not None]
    found = _thresholds(policy, rules)
    if found is None or list(policy.at(found).rules) != rules:
        return policy
    return policy.at({name: code for name, code in found.items() if name in policy.tuning})


def resumed_ports(
    ports: Mapping[int, PortState], rates: Mapping[int, int], settings: LoadBias, entities: Iterable[Entity]
) -> dict[int, PortState]:
    """Return the state of ``ports`` with the bias that the switch's entries have, and the load that it stands for.

    A bias that no load accounts for is of another rate, and says nothing; nor does any if no load counts.
    ``rates``: of each port, in bits per second.
    """
    after = dict(ports)
    if not settings.levels:
        return after
    for entity in entities:
        if not isinstance(entity, TableEntry) or entity.table != "port_bias":
            continue
        [(_, match)] = entity.match
        call = entity.target
        if isinstance(match, Exact) and match.value in ports and isinstance(call, ActionCall):
            load = _load_behind(call.args[0], rates[match.value], settings)
            if load is not None:
                after[match.value] = PortState(load, call.args[0])
    return after


def _thresholds(policy: Policy, rules: Sequence[LevelRule]) -> dict[str, int] | None:
    """Return the thresholds with which the templates of ``policy`` may have given ``rules``; None if there are none."""
    found: dict[str, int] = {}
    remaining = list(rules)
    for template in policy.templates:
        read = None if not remaining else _read(template, remaining[0], found)
        if read is not None:
            found.update(read)
            remaining.pop(0)
        elif isinstance(template, LevelRule) or not any(span.names for span in template.spans.values()):
            return None
        # A template whose thresholds leave it nothing to match has no row.
    return None if remaining else found


def _read(template: Rule | LevelRule, rule: LevelRule, known: Mapping[str, int]) -> dict[str, int] | None:
    """Return the thresholds that ``rule`` shows as a row of ``template``; None if it is none."""
    if isinstance(template, LevelRule):
        return {} if template == rule else None
    found: dict[str, int] = {}
    spans = zip(template.spans.values(), (rule.rli, rule.urgency, rule.slack_code, rule.remaining_code), strict=True)
    for span, (low, high) in spans:
        for end, code in ((span.low, low), (span.high, high + span.below)):
            if isinstance(end, str) and found.setdefault(end, known.get(end, code)) != code:
                return None
    return found if template.at(found) == rule else None


def _load_behind(bias: int, rate_bps: int, settings: LoadBias) -> float | None:
    """Return the least load, in whole percents, that gives at least this bias; None if the bias is of another rate."""
    if bias < bias_code(rate_bps):
        return None
    loads = (percent / 100 for percent in range(101) if percent / 100 <= settings.limit)
    return next((load for load in loads if bias_code(rate_bps, load) >= bias), None)
