"""The tuner in a closed loop: packets through the compiled program, the controller over gRPC, on the virtual clock.

A code is an eighth of an octave of MLU (minimal link utilisation): 32 codes are a factor of 16. The record of a tick
holds what the tick decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import pytest

from host_agent.protocol.level import CODE_STEPS, URGENCY_ONE, bias_code
from mfs_ctrl.policy.tuning import TrackLateShare
from mfs_eval.studies.tuner_loop import BEST_FIRST, FULL, LOOP_POLICY, RATE_BPS, Load, LoopPoint, tuner_loop

LOOP = LOOP_POLICY.tuning["mlu"]
assert isinstance(LOOP, TrackLateShare)

FACTOR_16 = 4 * CODE_STEPS
IDLE = Load(early_share=0, last_share=0)
LIGHT = Load(early_share=0.25, burst_flows=12, batch_flows=1)
"""Short bursts that every last-stage flow outlasts: no threshold matters."""
BAND = (BEST_FIRST - CODE_STEPS, BEST_FIRST + CODE_STEPS)
"""An octave to either side of the best threshold."""
STATIONARY = 18
STEP = 24
"""Ticks in which the threshold follows a step in load."""
DRAINS = 1
"""Ticks until the flows in flight at the end of the load have completed."""


def moves(codes: int, largest: int) -> int:
    """Number of moves over ``codes`` codes in one direction, in strides of 1, 2, 4, ... up to ``largest``."""
    stride, made = 1, 0
    while codes > 0:
        codes -= stride
        stride = min(largest, 2 * stride)
        made += 1
    return made


def ticks_for(codes: int, largest: int) -> int:
    """Each move takes a tick that decides and the ticks that settle."""
    return moves(codes, largest) * (1 + LOOP.settle_ticks)


TICKS_FROM_LATE = ticks_for(FACTOR_16, LOOP.step)
TICKS_FROM_EARLY = ticks_for(FACTOR_16, LOOP.later_step)


def within(points: Sequence[LoopPoint]) -> list[bool]:
    return [BAND[0] <= point.first <= BAND[1] for point in points]


@pytest.fixture(scope="module")
def from_late() -> dict[str, list[LoopPoint]]:
    """Starts 16 times too late, continues under the same load, and ends without load."""
    with tuner_loop(BEST_FIRST + FACTOR_16) as loop:
        return {
            "recovery": loop.run(FULL, TICKS_FROM_LATE),
            "stationary": loop.run(FULL, STATIONARY),
            "idle": loop.run(IDLE, 5),
        }


@pytest.fixture(scope="module")
def from_early() -> list[LoopPoint]:
    """Starts 16 times too early."""
    with tuner_loop(BEST_FIRST - FACTOR_16) as loop:
        return loop.run(FULL, TICKS_FROM_EARLY + 2)


@pytest.fixture(scope="module")
def load_step() -> dict[str, list[LoopPoint]]:
    """Starts from the default thresholds with a light load, followed by the full load."""
    with tuner_loop(URGENCY_ONE) as loop:
        return {"light": loop.run(LIGHT, 5), "full": loop.run(FULL, STEP)}


def test_the_bounds_are_those_of_the_documentation() -> None:
    assert (TICKS_FROM_LATE, TICKS_FROM_EARLY) == (14, 20)


def test_the_tuner_recovers_from_promotion_16_times_too_late(from_late: dict[str, list[LoopPoint]]) -> None:
    recovery, stationary = from_late["recovery"], from_late["stationary"]
    # At first the last stage misses many deadlines, and the early stages almost none.
    assert mean(point.last_late for point in recovery[:4]) > 5 * LOOP.late_target
    assert any(within(recovery))
    assert mean(point.last_late for point in stationary) < mean(point.last_late for point in recovery[:4]) / 2


def test_the_tuner_recovers_from_promotion_16_times_too_early(
    from_early: list[LoopPoint], from_late: dict[str, list[LoopPoint]]
) -> None:
    assert any(within(from_early[:TICKS_FROM_EARLY]))
    # At first no last-stage flow is late, at the cost of the early stages; later both share the lateness.
    assert mean(point.last_late for point in from_early[:8]) == 0
    before = mean(point.early_late for point in from_early[:8])
    after = mean(point.early_late for point in from_late["stationary"])
    assert after < 2 / 3 * before


def test_the_threshold_does_not_oscillate_under_a_stationary_load(from_late: dict[str, list[LoopPoint]]) -> None:
    stationary = from_late["stationary"]
    firsts = [point.first for point in stationary]
    assert all(within(stationary))
    assert max(firsts) - min(firsts) <= CODE_STEPS
    # The last stage is late about as often as the early ones.
    assert abs(mean(point.last_late - point.early_late for point in stationary)) <= 2 * LOOP.late_target


def test_the_threshold_follows_a_step_in_load(load_step: dict[str, list[LoopPoint]]) -> None:
    light, full = load_step["light"], load_step["full"]
    # Nothing is late and nothing needs promotion: the threshold has no reason to move.
    assert [point.first for point in light] == [URGENCY_ONE] * len(light)
    assert mean(point.last_late for point in light) == 0
    assert mean(point.last_late for point in full[:6]) > 3 * LOOP.late_target
    arrived = within(full).index(True)
    assert [point.first for point in full[:arrived]] == sorted((point.first for point in full[:arrived]), reverse=True)
    assert all(within(full[arrived:]))


def test_the_bias_follows_the_load_of_early_stages(load_step: dict[str, list[LoopPoint]]) -> None:
    contended = 1
    for points, offered in ((load_step["light"], LIGHT.early_share), (load_step["full"], FULL.early_share)):
        assert mean(point.record.loads[contended] for point in points[4:]) == pytest.approx(offered, abs=0.1)
        # Half the remaining bandwidth is one octave; the bias is written once it is off by the hysteresis.
        expected = bias_code(RATE_BPS, points[-1].record.loads[contended])
        assert abs(points[-1].record.biases[contended] - expected) < LOOP_POLICY.load.hysteresis
    low, high = (load_step[load][-1].record.biases[contended] for load in ("light", "full"))
    assert high >= low + CODE_STEPS // 2


def test_thresholds_stay_without_traffic(from_late: dict[str, list[LoopPoint]]) -> None:
    idle = from_late["idle"][DRAINS:]
    assert len({point.record.thresholds for point in idle}) == 1
    assert all(point.record.shares["mlu"] is None for point in idle)
    assert not any(sum(point.record.level_bytes) for point in idle)
