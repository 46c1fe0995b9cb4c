"""Covers mfs_ctrl/policy/tuner.py: each step is bounded, goes the right way, and rests where there is nothing to
mend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.level import URGENCY_ONE, bias_code
from host_agent.protocol.stamp import TOP_LEVEL, Stage
from mfs_ctrl.counters import CompletionCell, Count, LaxityCell, Observation, PortLevel
from mfs_ctrl.policy.policy import COLLECTIVE_LOOSE, COLLECTIVE_TIGHT, Thresholds
from mfs_ctrl.policy.tuner import (
    AT_REST,
    EARLY_STAGES,
    Motion,
    PortState,
    TunerSettings,
    step,
    tuned_mlu,
    tuned_ports,
    tuned_tight_slack,
)

RATE_BPS = 1_000_000_000
RATES = {1: RATE_BPS}
SETTINGS = TunerSettings()
NOTHING = Observation()
MILLISECOND_NS = 1_000_000


def flows(
    in_time: int,
    late: int,
    octave: int = 10,
    early_octave: int = 18,
    tight: int = 0,
    loose: int = 0,
    early_late: int = 0,
    level: int = TOP_LEVEL,
) -> Observation:
    """Flows that ended: of the last stage in time and late, and one hundred of the early stages; packets by level."""
    return Observation(
        completion={
            CompletionCell(Stage.P2D, level, False, octave): in_time,
            CompletionCell(Stage.P2D, 0, True, 8): late,
            CompletionCell(Stage.COLLECTIVE, COLLECTIVE_TIGHT, False, early_octave): 100 - early_late,
            CompletionCell(Stage.COLLECTIVE, COLLECTIVE_LOOSE, True, 3): early_late,
        },
        laxity={
            LaxityCell(Stage.COLLECTIVE, COLLECTIVE_TIGHT, 4): Count(tight, 0),
            LaxityCell(Stage.COLLECTIVE, COLLECTIVE_LOOSE, 4): Count(loose, 0),
        },
    )


observations = st.builds(
    flows,
    in_time=st.integers(0, 500),
    late=st.integers(0, 500),
    octave=st.integers(0, 31),
    early_octave=st.integers(0, 31),
    tight=st.integers(0, 5000),
    loose=st.integers(0, 5000),
    early_late=st.integers(0, 100),
)
firsts = st.integers(*SETTINGS.mlu_bounds)
slacks = st.integers(*SETTINGS.tight_bounds)


def thresholds(first: int, slack: int) -> Thresholds:
    return Thresholds(first, 2, slack)


class TestStep:
    @given(firsts, slacks)
    def test_without_data_nothing_moves(self, first: int, slack: int) -> None:
        ports = {1: PortState(0.2, 40)}
        decision = step(thresholds(first, slack), NOTHING, NOTHING, ports, RATES, SETTINGS)
        assert decision.thresholds == thresholds(first, slack)
        assert decision.ports == ports
        assert not decision.evidence_used

    @given(firsts, slacks, st.lists(observations, max_size=20))
    def test_bounded_steps_within_bounds(self, first: int, slack: int, seen: list[Observation]) -> None:
        now = thresholds(first, slack)
        for observation in seen:
            after = step(now, observation, NOTHING, {}, RATES, SETTINGS).thresholds
            assert abs(after.mlu - now.mlu) <= SETTINGS.mlu_step
            assert abs(after.tight_slack - now.tight_slack) <= SETTINGS.tight_step
            assert SETTINGS.mlu_bounds[0] <= after.mlu <= SETTINGS.mlu_bounds[1]
            assert SETTINGS.tight_bounds[0] <= after.tight_slack <= SETTINGS.tight_bounds[1]
            assert after.near_rli == now.near_rli
            assert after.last_slacks == now.last_slacks
            now = after

    @given(firsts, slacks, observations)
    def test_same_input_same_decision(self, first: int, slack: int, seen: Observation) -> None:
        def decide() -> object:
            return step(thresholds(first, slack), seen, NOTHING, {}, RATES, SETTINGS)

        assert decide() == decide()

    @given(st.integers(1, 255), slacks, st.lists(observations, max_size=20))
    def test_from_anywhere_no_step_leads_farther_out(self, first: int, slack: int, seen: list[Observation]) -> None:
        low, high = SETTINGS.mlu_bounds
        now, motion = thresholds(first, slack), AT_REST
        for observation in seen:
            decision = step(now, observation, NOTHING, {}, RATES, SETTINGS, motion)
            before, after, motion = now.mlu, decision.thresholds.mlu, decision.motion
            assert before - SETTINGS.mlu_step <= after <= before + SETTINGS.mlu_later_step
            assert min(low, before) <= after <= max(high, before)
            now = decision.thresholds

    @pytest.mark.parametrize(("first", "late"), [(200, 0), (200, 50), (60, 0), (60, 50)])
    def test_a_start_outside_the_bounds_is_led_back_whatever_flows_do(self, first: int, late: int) -> None:
        now, motion, steps = thresholds(first, 160), AT_REST, 0
        while not SETTINGS.mlu_bounds[0] <= now.mlu <= SETTINGS.mlu_bounds[1]:
            decision = step(now, flows(100 - late, late), NOTHING, {}, RATES, SETTINGS, motion)
            now, motion, steps = decision.thresholds, decision.motion, steps + 1
        # 56 and 36 codes at strides of 1, 2, 4, (8), ... with a tick to settle between.
        assert steps <= 1 + 2 * 11
        assert now.mlu in SETTINGS.mlu_bounds

    def test_tight_slack_outside_its_bounds_is_not_left_by_a_leap(self) -> None:
        seen = flows(50, 50, tight=0, loose=2000)
        after = step(thresholds(URGENCY_ONE, 20), seen, NOTHING, {}, RATES, SETTINGS).thresholds
        assert after.tight_slack == 20 + SETTINGS.tight_step


class TestMlu:
    @given(
        st.integers(1, 255),
        st.integers(0, 31),
        st.integers(40, 400),
        st.integers(-SETTINGS.mlu_step, SETTINGS.mlu_later_step),
        st.data(),
    )
    def test_the_more_are_late_the_earlier(
        self, first: int, octave: int, total: int, before: int, data: st.DataObject
    ) -> None:
        fewer = data.draw(st.integers(0, total))
        more = data.draw(st.integers(fewer, total))
        moved = [
            tuned_mlu(first, flows(total - late, late, octave), SETTINGS, Motion(before))[0] for late in (fewer, more)
        ]
        assert moved[1] <= moved[0]

    def strides(self, seen: Iterable[Observation]) -> list[int]:
        """How far Q_1 moves at each of these observations, every one of flows under the thresholds then in force."""
        first, motion, moved = SETTINGS.mlu_bounds[1] - 20, AT_REST, []
        settings = dataclasses.replace(SETTINGS, settle_ticks=0, mlu_bounds=(1, 255))
        for observation in seen:
            decision = step(thresholds(first, 160), observation, NOTHING, {}, RATE_BPS, settings, motion)
            moved.append(decision.thresholds.mlu - first)
            first, motion = decision.thresholds.mlu, decision.motion
        return moved

    def test_strides_double_up_to_the_largest_step(self) -> None:
        assert self.strides([flows(50, 50)] * 6) == [-1, -2, -4, -8, -8, -8]
        assert self.strides([flows(100, 0, octave=18)] * 5) == [1, 2, 4, 4, 4]

    def test_a_turn_begins_with_one_code(self) -> None:
        late, spare = flows(50, 50), flows(100, 0, octave=18)
        assert self.strides([late, late, late, spare, spare, late]) == [-1, -2, -4, 1, 2, -1]

    def test_a_rest_halves_the_stride(self) -> None:
        late, rest = flows(50, 50), flows(96, 4)
        assert self.strides([late, late, late, rest, late]) == [-1, -2, -4, 0, -4]
        assert self.strides([late, late, late, rest, rest, rest, late]) == [-1, -2, -4, 0, 0, 0, -1]

    def test_a_little_over_target_is_a_small_step(self) -> None:
        assert self.strides([flows(50, 50), flows(50, 50), flows(94, 6)]) == [-1, -2, -1]

    def test_flows_of_old_thresholds_are_no_evidence_for_new_ones(self) -> None:
        seen = flows(50, 50)
        moved = step(thresholds(URGENCY_ONE, 160), seen, NOTHING, {}, RATES, SETTINGS)
        settles = step(moved.thresholds, seen, NOTHING, {}, RATES, SETTINGS, moved.motion)
        assert moved.thresholds.mlu < URGENCY_ONE
        assert settles.thresholds == moved.thresholds
        assert settles.evidence_used
        again = step(settles.thresholds, seen, NOTHING, {}, RATES, SETTINGS, settles.motion)
        assert again.thresholds.mlu == moved.thresholds.mlu - 2

    def test_the_reason_says_what_was_seen(self) -> None:
        assert "50% of the last stage late" in tuned_mlu(URGENCY_ONE, flows(50, 50), SETTINGS)[1]

    def test_where_none_needs_the_top_level_the_threshold_stays(self) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(100, 0, octave=18, level=2), SETTINGS) == (URGENCY_ONE, "")

    @pytest.mark.parametrize("late", [3, 4, 5])
    def test_dead_band(self, late: int) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(100 - late, late, octave=18), SETTINGS) == (URGENCY_ONE, "")

    def test_slack_to_spare_promotes_later(self) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(100, 0, octave=17), SETTINGS)[0] == URGENCY_ONE + 1

    def test_just_in_time_stays(self) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(100, 0, octave=15), SETTINGS)[0] == URGENCY_ONE

    def test_what_was_late_before_its_last_stage_is_not_held_against_it(self) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(60, 40, early_late=40), SETTINGS)[0] == URGENCY_ONE
        assert tuned_mlu(URGENCY_ONE, flows(60, 40, early_late=10), SETTINGS)[0] < URGENCY_ONE

    def test_few_flows_say_nothing(self) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(0, SETTINGS.min_completions - 1), SETTINGS)[0] == URGENCY_ONE


class TestTightSlack:
    def test_moves_towards_the_median(self) -> None:
        # The median octave 18 has its middle at code 148.
        assert tuned_tight_slack(160, flows(50, 0, tight=1900, loose=100), SETTINGS)[0] == 152
        assert tuned_tight_slack(100, flows(50, 0, tight=100, loose=1900), SETTINGS)[0] == 108

    def test_does_not_leap_past_the_median(self) -> None:
        assert tuned_tight_slack(150, flows(50, 0, tight=1900, loose=100), SETTINGS)[0] == 148

    def test_past_the_median_it_creeps(self) -> None:
        assert tuned_tight_slack(140, flows(50, 0, tight=1900, loose=100), SETTINGS)[0] == 139

    @pytest.mark.parametrize("tight", [710, 1000, 1290])
    def test_about_half_is_good_enough(self, tight: int) -> None:
        assert tuned_tight_slack(160, flows(50, 0, tight=tight, loose=2000 - tight), SETTINGS) == (160, "")

    def test_late_packets_do_not_count_as_loose(self) -> None:
        seen = Observation(
            completion={CompletionCell(EARLY_STAGES[0], 6, False, 18): 10},
            laxity={
                LaxityCell(Stage.COLLECTIVE, 6, 3): Count(500, 0),
                LaxityCell(Stage.COLLECTIVE, 5, 3): Count(500, 0),
                LaxityCell(Stage.COLLECTIVE, 5, 15): Count(9000, 0),
            },
        )
        assert tuned_tight_slack(160, seen, SETTINGS)[0] == 160


class TestPorts:
    def load(self, share: float, level: int) -> Observation:
        capacity = RATE_BPS // 8 // 1000
        return Observation(MILLISECOND_NS, {PortLevel(1, level): Count(1, round(share * capacity))})

    def settle(self, level: int, share: float = 0.5) -> PortState:
        ports = {1: PortState(0.0, bias_code(RATE_BPS))}
        for _ in range(50):
            ports = tuned_ports(ports, self.load(share, level), RATES, SETTINGS)
        return ports[1]

    @pytest.mark.parametrize("level", [4, 5, 6])
    def test_bias_settles_at_the_bandwidth_that_early_stages_leave(self, level: int) -> None:
        settled = self.settle(level)
        assert settled.load == pytest.approx(0.5, abs=0.01)
        # Half the bandwidth is one octave, eight codes.
        assert abs(settled.bias - bias_code(RATE_BPS) - 8) <= SETTINGS.bias_hysteresis

    @pytest.mark.parametrize("level", [0, 1, 2, 3, 7])
    def test_last_stage_traffic_is_no_load(self, level: int) -> None:
        assert self.settle(level) == PortState(0.0, bias_code(RATE_BPS))

    def test_small_changes_are_not_written(self) -> None:
        state = PortState(0.0, bias_code(RATE_BPS))
        after = tuned_ports({1: state}, self.load(0.2, 5), RATES, SETTINGS)[1]
        assert after.bias == state.bias
        assert after.load > 0

    @given(st.floats(0, 3), st.floats(0, 1))
    def test_load_and_bias_are_bounded(self, share: float, before: float) -> None:
        after = tuned_ports({1: PortState(before, 10)}, self.load(share, 4), RATES, SETTINGS)[1]
        assert 0 <= after.load <= 1
        assert after.bias <= bias_code(RATE_BPS * (1 - SETTINGS.load_limit))

    def test_each_port_is_measured_by_its_own_rate(self) -> None:
        seen = Observation(MILLISECOND_NS, {PortLevel(port, 4): Count(1, RATE_BPS // 8 // 1000) for port in (1, 2)})
        ports = dict.fromkeys((1, 2), PortState(0.0, 10))
        after = tuned_ports(ports, seen, {1: RATE_BPS, 2: 4 * RATE_BPS}, SETTINGS)
        assert after[1].load == pytest.approx(4 * after[2].load, rel=0.01)

    def test_no_time_no_change(self) -> None:
        ports = {1: PortState(0.3, 33)}
        assert tuned_ports(ports, Observation(0, {PortLevel(1, 4): Count(9, 9000)}), RATES, SETTINGS) == ports


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"late_target": 0.0},
            {"tight_band": 0.5},
            {"load_weight": 0.0},
            {"load_limit": 1.0},
            {"mlu_step": 0},
            {"mlu_later_step": 0},
            {"settle_ticks": -1},
            {"mlu_bounds": (0, 130)},
            {"mlu_bounds": (130, 120)},
            {"tight_bounds": (0, 256)},
        ],
    )
    def test_nonsense_is_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TunerSettings(**wrong)  # type: ignore[arg-type]
