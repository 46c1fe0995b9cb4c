"""The tuner: one pure step from what the switch counted to better thresholds and biases.

Three loops, each a bounded step with a dead band, each on its own evidence:

- ``mlu`` tracks a quantile: Q_1 moves until ``late_target`` of the last-stage flows end with no slack left, those that
  miss no more than the early stages do aside. Above the target it falls; below half of it, when promoted
  flows end with much slack to spare, it rises (defer and promote); between, it stays. A stride doubles as long as the
  direction stays and begins at one code again after a turn, so that a far start is left fast and a near one is kept.
- ``tight_slack`` follows the median slack of early-stage flows, so that about half of what a GPU waits for goes first.
- The ``bias`` of a port follows its load by traffic that goes before last-stage flows: B(1 - rho) of the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from host_agent.protocol.level import CODE_STEPS, URGENCY_ONE, bias_code
from host_agent.protocol.stamp import SCAVENGER, TOP_LEVEL, Stage
from host_agent.protocol.units import WIRE_OVERHEAD_BYTES
from mfs_ctrl.counters import COMPLETION, LATE_BUCKET, LAXITY, OCTAVES, CompletionCell, LaxityCell, Observation
from mfs_ctrl.policy.policy import (
    COLLECTIVE_LOOSE,
    COLLECTIVE_TIGHT,
    HOPELESS,
    LAST_LATER,
    LAST_SOON,
    LAST_TIGHT,
    REUSE_LATER,
    REUSE_SOON,
    REUSE_TIGHT,
    Thresholds,
)

EARLY_STAGES = (Stage.KV_REUSE, Stage.COLLECTIVE)
LEVELS_OF = {
    Stage.KV_REUSE: (REUSE_LATER, REUSE_SOON, REUSE_TIGHT),
    Stage.COLLECTIVE: (COLLECTIVE_LOOSE, COLLECTIVE_TIGHT),
    Stage.P2D: (SCAVENGER, LAST_LATER, LAST_SOON, LAST_TIGHT, TOP_LEVEL),
}
"""The levels that a policy with thresholds gives to each stage: where the tuner's evidence is."""
EVIDENCE_CELLS: Mapping[str, tuple[int, ...]] = {
    LAXITY: tuple(
        LaxityCell(Stage.COLLECTIVE, level, bucket).index
        for level in LEVELS_OF[Stage.COLLECTIVE]
        for bucket in range(LATE_BUCKET)
    ),
    COMPLETION: tuple(
        CompletionCell(stage, level, late, octave).index
        for stage, levels in LEVELS_OF.items()
        for level in levels
        for late in (False, True)
        # What is in time is no scavenger, and a slack of 31 bits has no 32nd octave.
        for octave in range(OCTAVES if late else 0 if level == SCAVENGER else OCTAVES - 1)
    ),
}
"""The counter cells that thresholds are tuned from, by counter: a quarter of all, as a cell costs a message to read."""


@dataclass(frozen=True, slots=True)
class TunerSettings:
    """How the tuner behaves. Steps and bounds are codes: eight an octave.

    Attributes:
        late_target: share of last-stage flows that may miss for want of an early promotion. Between half of it and all
            of it nothing moves: the hysteresis.
        min_completions: last-stage flows that must have ended before any threshold moves; until then evidence is
            gathered.
        settle_ticks: ticks after a move of Q_1 of which the evidence is not used: the flows that end then were promoted
            under the old thresholds. A tick should be as long as most flows live.
        mlu_step: largest change of Q_1 in one step, towards earlier promotion.
        mlu_later_step: the same towards later promotion; smaller, since what is late costs more than what is early.
        mlu_gain: codes of change for an excess of the late share as large as the target, as far as the stride allows.
        mlu_bounds: least and greatest Q_1: by default from MLU 1/16 to where flows are given up. A start outside is led
            back, a step at a time.
        spare_octaves: promotion moves later only while the median of the last-stage flows that reached the top level
            ends with more than 2 to the power of -spare_octaves of the slack that early-stage flows end with (its 90th
            percentile: what a new request has). Where none needs the top level, the threshold stays.
        min_tight_packets: early-stage packets of RLI 0 that must have been seen before ``tight_slack`` moves.
        tight_target: share of these packets that should go first, and ``tight_band`` how far off it may be.
        tight_step: largest change of ``tight_slack`` in one step.
        tight_bounds: least and greatest ``tight_slack``.
        load_weight: weight of the newest interval in the smoothed load, above 0 and at most 1.
        load_limit: greatest load that the bias takes into account.
        bias_hysteresis: least difference for which a bias is written again.
    """

    late_target: float = 0.05
    min_completions: int = 40
    settle_ticks: int = 1
    mlu_step: int = 8
    mlu_later_step: int = 4
    mlu_gain: float = 4.0
    mlu_bounds: tuple[int, int] = (URGENCY_ONE - 4 * CODE_STEPS, HOPELESS - 1)
    spare_octaves: int = 2
    min_tight_packets: int = 1000
    tight_target: float = 0.5
    tight_band: float = 0.15
    tight_step: int = 8
    tight_bounds: tuple[int, int] = (64, 240)
    load_weight: float = 0.3
    load_limit: float = 0.9
    bias_hysteresis: int = 2

    def __post_init__(self) -> None:
        if not (0 < self.late_target < 1 and 0 < self.tight_target < 1 and 0 <= self.tight_band < 0.5):
            raise ValueError("late_target and tight_target are shares between 0 and 1, tight_band at most a half")
        if not (0 < self.load_weight <= 1 and 0 <= self.load_limit < 1):
            raise ValueError("load_weight is in (0, 1] and load_limit in [0, 1)")
        if self.settle_ticks < 0 or self.mlu_gain <= 0:
            raise ValueError("settle_ticks is at least 0, mlu_gain above 0")
        if min(self.mlu_step, self.mlu_later_step, self.tight_step, self.bias_hysteresis) < 1:
            raise ValueError("mlu_step, mlu_later_step, tight_step and bias_hysteresis are at least 1")
        if not 1 <= self.mlu_bounds[0] <= self.mlu_bounds[1] <= 255:
            raise ValueError(f"mlu_bounds {self.mlu_bounds} must rise within 1..255")
        if not 0 <= self.tight_bounds[0] <= self.tight_bounds[1] <= 255:
            raise ValueError(f"tight_bounds {self.tight_bounds} must rise within 0..255")


@dataclass(frozen=True, slots=True)
class PortState:
    """What is remembered of an egress port: its smoothed load by early-stage traffic (0..1) and its bias code."""

    load: float
    bias: int


@dataclass(frozen=True, slots=True)
class Motion:
    """How Q_1 moved last: the codes by which it did (below 0: towards earlier promotion), half of it after each rest.

    ``settling`` counts the ticks that are still to pass before new evidence is gathered.
    """

    codes: int = 0
    settling: int = 0


AT_REST = Motion()


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one step.

    ``late_share`` and ``tight_share`` are what was measured, None without enough evidence; whether evidence was used
    (and should be gathered afresh) is ``evidence_used``. ``reason`` says in words what moved,
    ``motion`` is for the next step.
    """

    thresholds: Thresholds
    ports: Mapping[int, PortState]
    late_share: float | None
    tight_share: float | None
    evidence_used: bool
    reason: str
    motion: Motion = AT_REST


def step(
    thresholds: Thresholds,
    flows: Observation,
    load: Observation,
    ports: Mapping[int, PortState],
    rates: Mapping[int, int],
    settings: TunerSettings,
    motion: Motion = AT_REST,
) -> Decision:
    """One step of all loops.

    ``flows`` is the evidence for thresholds (``completion`` and ``laxity`` since evidence was last used), ``load`` that
    for biases (``port_level`` of the last interval); ``rates`` has the rate of each port in bits per second; ``motion``
    is what the last step left.
    """
    tuned_biases = tuned_ports(ports, load, rates, settings)
    if motion.settling:
        waiting = dataclasses.replace(motion, settling=motion.settling - 1)
        return Decision(thresholds, tuned_biases, None, None, True, "settles", waiting)
    late_share = _late_share(flows, settings)
    if late_share is None:
        return Decision(thresholds, tuned_biases, None, _tight_share(flows, settings), False, "holds", motion)
    first, mlu_reason = tuned_mlu(thresholds.mlu, flows, settings, motion)
    # All evidence is used together, so that none is thrown away half gathered.
    slack, slack_reason = tuned_tight_slack(thresholds.tight_slack, flows, settings)
    codes = first - thresholds.mlu
    tuned = thresholds
    if codes:
        tuned = dataclasses.replace(tuned, mlu=first)
    if slack != thresholds.tight_slack:
        tuned = dataclasses.replace(tuned, tight_slack=slack)
    return Decision(
        tuned,
        tuned_biases,
        late_share,
        _tight_share(flows, settings),
        True,
        "; ".join(reason for reason in (mlu_reason, slack_reason) if reason) or "holds",
        Motion(codes, settings.settle_ticks) if codes else Motion(int(motion.codes / 2)),
    )


def tuned_mlu(first: int, flows: Observation, settings: TunerSettings, motion: Motion = AT_REST) -> tuple[int, str]:
    """The next Q_1 and why.

    Misses of the last stage count only as far as the early stages miss less: a batch that was late before its last
    stage began is not helped by promoting that stage, and pays for it.
    """
    late = _late_share(flows, settings)
    if late is None:
        return first, ""
    low, high = settings.mlu_bounds
    if first < low:
        return min(low, first + _stride(motion, 1, settings)), "led back into the bounds"
    if first > high:
        return max(high, first - _stride(motion, -1, settings)), "led back into the bounds"
    owed = late - (flows.late_share(*EARLY_STAGES) or 0.0)
    if owed > settings.late_target:
        wanted = max(1, round(settings.mlu_gain * (owed - settings.late_target) / settings.late_target))
        moved = first - min(wanted, _stride(motion, -1, settings))
        return max(low, moved), f"promote earlier: {owed:.0%} of the last stage late"
    if owed < settings.late_target / 2 and _slack_to_spare(flows, settings):
        return min(high, first + _stride(motion, 1, settings)), "promote later: slack to spare"
    return first, ""


def _stride(motion: Motion, direction: int, settings: TunerSettings) -> int:
    """The most that Q_1 may move now: one code, doubled for each step before in the same ``direction`` (1 or -1)."""
    most = settings.mlu_later_step if direction > 0 else settings.mlu_step
    return min(most, max(1, 2 * direction * motion.codes))


def tuned_tight_slack(slack: int, flows: Observation, settings: TunerSettings) -> tuple[int, str]:
    """The next ``tight_slack`` and why: towards the median, as far as the share says that it is needed."""
    share = _tight_share(flows, settings)
    if share is None or abs(share - settings.tight_target) <= settings.tight_band:
        return slack, ""
    median = flows.slack_code_at(0.5, *EARLY_STAGES)
    if median is None:
        return slack, ""
    direction = -1 if share > settings.tight_target else 1
    # Past the median the share alone still says where to go, but only slowly.
    distance = max(1, min(settings.tight_step, direction * (median - slack)))
    moved = _within(slack + direction * distance, slack, settings.tight_bounds)
    return moved, f"{share:.0%} of what a GPU waits for is tight"


def tuned_ports(
    ports: Mapping[int, PortState], load: Observation, rates: Mapping[int, int], settings: TunerSettings
) -> dict[int, PortState]:
    """The next state of each port: load smoothed, bias moved if it is off by the hysteresis."""
    if load.interval_ns <= 0:
        return dict(ports)
    sent = dict.fromkeys(ports, 0)
    for cell, count in load.port_level.items():
        if cell.port in sent and COLLECTIVE_LOOSE <= cell.level < TOP_LEVEL:
            sent[cell.port] += count.bytes + WIRE_OVERHEAD_BYTES * count.packets
    tuned = {}
    for port, state in ports.items():
        newest = min(1.0, sent[port] / (rates[port] * load.interval_ns / 8e9))
        smoothed = state.load + settings.load_weight * (newest - state.load)
        bias = bias_code(rates[port], min(smoothed, settings.load_limit))
        tuned[port] = PortState(smoothed, bias if abs(bias - state.bias) >= settings.bias_hysteresis else state.bias)
    return tuned


def _late_share(flows: Observation, settings: TunerSettings) -> float | None:
    enough = flows.completed(Stage.P2D) >= settings.min_completions
    return flows.late_share(Stage.P2D) if enough else None


def _slack_to_spare(flows: Observation, settings: TunerSettings) -> bool:
    promoted = Observation(completion={cell: n for cell, n in flows.completion.items() if cell.level == TOP_LEVEL})
    left = promoted.slack_code_at(0.5, Stage.P2D)
    budget = flows.slack_code_at(0.9, *EARLY_STAGES)
    return left is not None and budget is not None and left > budget - settings.spare_octaves * CODE_STEPS


def _tight_share(flows: Observation, settings: TunerSettings) -> float | None:
    # Every batch has collectives, and all of them are waited for; what it reuses may be far ahead.
    packets = {COLLECTIVE_TIGHT: 0, COLLECTIVE_LOOSE: 0}
    for cell, count in flows.laxity.items():
        # What is late has no slack to compare with the threshold.
        if cell.stage == Stage.COLLECTIVE and cell.level in packets and cell.bucket != LATE_BUCKET:
            packets[cell.level] += count.packets
    total = sum(packets.values())
    return packets[COLLECTIVE_TIGHT] / total if total >= max(1, settings.min_tight_packets) else None


def _within(moved: int, before: int, bounds: tuple[int, int]) -> int:
    """``moved`` within ``bounds``; a start outside them is led back by the step's own size, never by a leap."""
    low, high = min(bounds[0], before), max(bounds[1], before)
    return max(low, min(high, moved))
