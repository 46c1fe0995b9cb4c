"""The tuner: one pure step from what the switch counted to better thresholds and biases.

The policy declares which thresholds move and on which evidence (:mod:`mfs_ctrl.policy.tuning`). Every loop is a bounded
step with a dead band. All evidence is used at the same time, so that none is discarded while incomplete.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from host_agent.protocol.level import CODE_STEPS, bias_code
from host_agent.protocol.stamp import SCAVENGER
from host_agent.protocol.units import WIRE_OVERHEAD_BYTES
from mfs_ctrl.counters import COMPLETION, LATE_BUCKET, LAXITY, OCTAVES, CompletionCell, LaxityCell, Observation
from mfs_ctrl.policy.policy import Policy, Thresholds
from mfs_ctrl.policy.tuning import LoadBias, Loop, TrackLateShare, TrackMedianSlack


@dataclass(frozen=True, slots=True)
class PortState:
    """State of an egress port: its smoothed load (0..1) by the traffic that the policy counts, and its bias code."""

    load: float
    bias: int


@dataclass(frozen=True, slots=True)
class Motion:
    """The last move of a threshold.

    Attributes:
        codes: by how much, below 0 towards earlier promotion; halved by each rest.
        settling: ticks that have to pass before new evidence is gathered.
    """

    codes: int = 0
    settling: int = 0


AT_REST = Motion()
NO_MOTION: Mapping[str, Motion] = {}


@dataclass(frozen=True, slots=True)
class Decision:
    """Outcome of one step.

    Attributes:
        thresholds: those for the next interval.
        ports: the state of each port.
        shares: what each loop measured, by threshold; None without enough evidence.
        evidence_used: whether the evidence was used, so that gathering restarts.
        reason: what moved and why, as text.
        motions: the last move of each threshold, for the next step.
    """

    thresholds: Thresholds
    ports: Mapping[int, PortState]
    shares: Mapping[str, float | None]
    evidence_used: bool
    reason: str
    motions: Mapping[str, Motion] = dataclasses.field(default_factory=dict)


def evidence_cells(policy: Policy) -> dict[str, tuple[int, ...]]:
    """Return the counter cells that the policy's loops measure, by counter: no others, since each cell costs a message.

    Of the finished flows these are the levels that the policy gives to the stages in question. Flows at the scavenger
    level that finish in time had been given up, and are no evidence.
    """
    loops = policy.tuning.values()
    stages = sorted({stage for loop in loops for stage in loop.stages})
    given = {(rule.stage, rule.level) for rule in policy.templates}
    sides = {
        (loop.packets_of, level)
        for loop in loops
        if isinstance(loop, TrackMedianSlack)
        for level in (loop.tight_level, loop.loose_level)
    }
    return {
        LAXITY: tuple(
            LaxityCell(stage, level, bucket).index for stage, level in sorted(sides) for bucket in range(LATE_BUCKET)
        ),
        COMPLETION: tuple(
            CompletionCell(stage, level, late, octave).index
            for stage, level in sorted(given)
            if stage in stages
            for late in (False, True)
            # A slack of 31 bits has no 32nd octave.
            for octave in range(OCTAVES if late else 0 if level == SCAVENGER else OCTAVES - 1)
        ),
    }


def step(
    policy: Policy,
    flows: Observation,
    load: Observation,
    ports: Mapping[int, PortState],
    rates: Mapping[int, int],
    motions: Mapping[str, Motion] = NO_MOTION,
) -> Decision:
    """Do one step of all loops of ``policy``.

    Args:
        policy: with the thresholds in force.
        flows: evidence for thresholds: ``completion`` and ``laxity`` since evidence was last used.
        load: evidence for biases: ``port_level`` of the last interval.
        ports: the state of each port.
        rates: the rate of each port in bits per second.
        motions: as the last step returned them.
    """
    thresholds, loops = policy.thresholds, policy.tuning
    biased = tuned_ports(ports, load, rates, policy.load)
    moving = {name: motions.get(name, AT_REST) for name in loops}
    if any(motion.settling for motion in moving.values()):
        waiting = {
            name: dataclasses.replace(motion, settling=max(0, motion.settling - 1)) for name, motion in moving.items()
        }
        return Decision(thresholds, biased, dict.fromkeys(loops), True, "settles", waiting)
    shares = {name: measured_share(flows, loop) for name, loop in loops.items()}
    # Finished flows are the scarcer evidence: where a loop needs them, all loops wait for them.
    decisive = [name for name, loop in loops.items() if isinstance(loop, TrackLateShare)] or list(loops)
    if any(shares[name] is None for name in decisive):
        return Decision(thresholds, biased, shares, False, "holds", moving)
    changed, reasons, after = {}, [], {}
    for name, loop in loops.items():
        moved, reason = tuned(thresholds[name], flows, loop, moving[name])
        codes = moved - thresholds[name]
        changed[name] = moved
        reasons += [f"{name}: {reason}"] if reason else []
        settle = loop.settle_ticks if isinstance(loop, TrackLateShare) else 0
        after[name] = Motion(codes, settle) if codes else Motion(int(moving[name].codes / 2))
    return Decision(thresholds.replace(**changed), biased, shares, True, "; ".join(reasons) or "holds", after)


def tuned(code: int, flows: Observation, loop: Loop, motion: Motion = AT_REST) -> tuple[int, str]:
    """Return the next value of the threshold that ``loop`` moves, now ``code``, and why; no reason if it stays."""
    if isinstance(loop, TrackLateShare):
        return _by_late_share(code, flows, loop, motion)
    return _by_median_slack(code, flows, loop)


def measured_share(flows: Observation, loop: Loop) -> float | None:
    """Return the share that ``loop`` compares with its target; None without enough evidence."""
    if isinstance(loop, TrackLateShare):
        return flows.late_share(loop.stage) if flows.completed(loop.stage) >= loop.min_completions else None
    packets = {loop.tight_level: 0, loop.loose_level: 0}
    for cell, count in flows.laxity.items():
        # A late packet has no slack to compare with the threshold.
        if cell.stage == loop.packets_of and cell.level in packets and cell.bucket != LATE_BUCKET:
            packets[cell.level] += count.packets
    total = sum(packets.values())
    return packets[loop.tight_level] / total if total >= max(1, loop.min_packets) else None


def tuned_ports(
    ports: Mapping[int, PortState], load: Observation, rates: Mapping[int, int], settings: LoadBias
) -> dict[int, PortState]:
    """Return the next state of each port: load smoothed, bias moved if it is off by the hysteresis."""
    if load.interval_ns <= 0:
        return dict(ports)
    sent = dict.fromkeys(ports, 0)
    for cell, count in load.port_level.items():
        if cell.port in sent and cell.level in settings.levels:
            sent[cell.port] += count.bytes + WIRE_OVERHEAD_BYTES * count.packets
    biased = {}
    for port, state in ports.items():
        newest = min(1.0, sent[port] / (rates[port] * load.interval_ns / 8e9))
        smoothed = state.load + settings.weight * (newest - state.load)
        bias = bias_code(rates[port], min(smoothed, settings.limit))
        biased[port] = PortState(smoothed, bias if abs(bias - state.bias) >= settings.hysteresis else state.bias)
    return biased


def _by_late_share(code: int, flows: Observation, loop: TrackLateShare, motion: Motion) -> tuple[int, str]:
    late = measured_share(flows, loop)
    if late is None:
        return code, ""
    low, high = loop.bounds
    if code < low:
        return min(low, code + _stride(motion, 1, loop)), "back towards the bounds"
    if code > high:
        return max(high, code - _stride(motion, -1, loop)), "back towards the bounds"
    owed = late - (flows.late_share(*loop.compared_with) or 0.0)
    if owed > loop.late_target:
        wanted = max(1, round(loop.gain * (owed - loop.late_target) / loop.late_target))
        moved = code - min(wanted, _stride(motion, -1, loop))
        return max(low, moved), f"promote earlier, {owed:.0%} of {loop.stage.name} late"
    if owed < loop.late_target / 2 and _slack_to_spare(flows, loop):
        return min(high, code + _stride(motion, 1, loop)), "promote later, slack to spare"
    return code, ""


def _stride(motion: Motion, direction: int, loop: TrackLateShare) -> int:
    """Return the largest move now: one code, doubled for each step before it in the same ``direction`` (1 or -1)."""
    most = loop.later_step if direction > 0 else loop.step
    return min(most, max(1, 2 * direction * motion.codes))


def _slack_to_spare(flows: Observation, loop: TrackLateShare) -> bool:
    at_level = {cell: n for cell, n in flows.completion.items() if cell.level == loop.promoted_level}
    left = Observation(completion=at_level).slack_code_at(0.5, loop.stage)
    budget = flows.slack_code_at(0.9, *loop.compared_with)
    return left is not None and budget is not None and left > budget - loop.spare_octaves * CODE_STEPS


def _by_median_slack(code: int, flows: Observation, loop: TrackMedianSlack) -> tuple[int, str]:
    """Move towards the median, as far as the share says that a move is needed."""
    share = measured_share(flows, loop)
    if share is None or abs(share - loop.target) <= loop.band:
        return code, ""
    median = flows.slack_code_at(0.5, *loop.stages)
    if median is None:
        return code, ""
    direction = -1 if share > loop.target else 1
    # Past the median only the share says where to go, and only slowly.
    distance = max(1, min(loop.step, direction * (median - code)))
    moved = _within(code + direction * distance, code, loop.bounds)
    return moved, f"{share:.0%} of {loop.packets_of.name} is tight"


def _within(moved: int, before: int, bounds: tuple[int, int]) -> int:
    """Return ``moved`` within ``bounds``; a start outside them returns in single steps, never at once."""
    low, high = min(bounds[0], before), max(bounds[1], before)
    return max(low, min(high, moved))
