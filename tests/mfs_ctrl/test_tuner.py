"""mfs_ctrl/policy/tuner.py: each step is bounded, goes the right way, and rests if nothing is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.level import URGENCY_ONE, bias_code
from host_agent.protocol.stamp import TOP_LEVEL, Stage
from mfs_ctrl import Policy, policies
from mfs_ctrl.counters import COMPLETION, LAXITY, CompletionCell, Count, LaxityCell, Observation, PortLevel
from mfs_ctrl.policy.tuner import Motion, PortState, evidence_cells, step, tuned, tuned_ports
from mfs_ctrl.policy.tuning import LoadBias, TrackLateShare, TrackMedianSlack
from tests.support.mfs_levels import COLLECTIVE_LOOSE, COLLECTIVE_TIGHT

RATE_BPS = 1_000_000_000
RATES = {1: RATE_BPS}
MFS = policies.mfs()
LATE, MEDIAN = MFS.tuning["mlu"], MFS.tuning["tight_slack"]
assert isinstance(LATE, TrackLateShare)
assert isinstance(MEDIAN, TrackMedianSlack)
LOAD = MFS.load
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
    """Finished flows: of the last stage in time and late, and one hundred of the early stages; packets by level."""
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
firsts = st.integers(*LATE.bounds)
slacks = st.integers(*MEDIAN.bounds)


def at(first: int, slack: int = 160) -> Policy:
    """The mfs policy with Q_1 and the tight slack at these codes."""
    return MFS.at(mlu=first, tight_slack=slack)


def tuned_mlu(first: int, seen: Observation, motion: Motion | None = None) -> int:
    return tuned(first, seen, LATE, motion or Motion())[0]


def tuned_tight_slack(slack: int, seen: Observation) -> int:
    return tuned(slack, seen, MEDIAN)[0]


class TestStep:
    @given(firsts, slacks)
    def test_without_data_nothing_moves(self, first: int, slack: int) -> None:
        ports = {1: PortState(0.2, 40)}
        decision = step(at(first, slack), NOTHING, NOTHING, ports, RATES)
        assert decision.thresholds == at(first, slack).thresholds
        assert decision.ports == ports
        assert not decision.evidence_used

    @given(firsts, slacks, st.lists(observations, max_size=20))
    def test_steps_are_bounded_and_stay_within_bounds(self, first: int, slack: int, seen: list[Observation]) -> None:
        now = at(first, slack)
        for observation in seen:
            before = now.thresholds
            now = now.at(step(now, observation, NOTHING, {}, RATES).thresholds)
            after = now.thresholds
            assert abs(after["mlu"] - before["mlu"]) <= LATE.step
            assert abs(after["tight_slack"] - before["tight_slack"]) <= MEDIAN.step
            assert LATE.bounds[0] <= after["mlu"] <= LATE.bounds[1]
            assert MEDIAN.bounds[0] <= after["tight_slack"] <= MEDIAN.bounds[1]
            assert {name for name in after if after[name] != before[name]} <= MFS.tuning.keys()

    @given(firsts, slacks, observations)
    def test_the_same_input_gives_the_same_decision(self, first: int, slack: int, seen: Observation) -> None:
        def decide() -> object:
            return step(at(first, slack), seen, NOTHING, {}, RATES)

        assert decide() == decide()

    @given(st.integers(1, 255), slacks, st.lists(observations, max_size=20))
    def test_no_step_moves_farther_out_of_bounds(self, first: int, slack: int, seen: list[Observation]) -> None:
        low, high = LATE.bounds
        now, motions = at(first, slack), {}
        for observation in seen:
            decision = step(now, observation, NOTHING, {}, RATES, motions)
            before, after, motions = now.thresholds["mlu"], decision.thresholds["mlu"], decision.motions
            assert before - LATE.step <= after <= before + LATE.later_step
            assert min(low, before) <= after <= max(high, before)
            now = now.at(decision.thresholds)

    @pytest.mark.parametrize(("first", "late"), [(200, 0), (200, 50), (60, 0), (60, 50)])
    def test_a_start_outside_the_bounds_returns_whatever_happens_to_flows(self, first: int, late: int) -> None:
        now, motions, steps = at(first), {}, 0
        while not LATE.bounds[0] <= now.thresholds["mlu"] <= LATE.bounds[1]:
            decision = step(now, flows(100 - late, late), NOTHING, {}, RATES, motions)
            now, motions, steps = now.at(decision.thresholds), decision.motions, steps + 1
        # 56 and 36 codes at strides of 1, 2, 4, (8), ... with a tick to settle between.
        assert steps <= 1 + 2 * 11
        assert now.thresholds["mlu"] in LATE.bounds

    def test_a_tight_slack_outside_its_bounds_returns_in_single_steps(self) -> None:
        seen = flows(50, 50, tight=0, loose=2000)
        after = step(at(URGENCY_ONE, 20), seen, NOTHING, {}, RATES).thresholds
        assert after["tight_slack"] == 20 + MEDIAN.step


class TestTuning:
    """The declaration of the policy decides, not its name."""

    def test_a_policy_without_tuning_stays_as_it_is(self) -> None:
        decision = step(policies.static(), flows(50, 50, tight=2000), NOTHING, {}, RATES)
        assert (decision.thresholds, decision.shares) == (policies.static().thresholds, {})

    def test_a_policy_that_tunes_slack_alone_waits_for_packets_alone(self) -> None:
        chosen = dataclasses.replace(MFS, tuning={"tight_slack": MEDIAN})
        decision = step(chosen, flows(1, 0, tight=1900, loose=100), NOTHING, {}, RATES)
        assert decision.thresholds == MFS.thresholds.replace(tight_slack=MFS.thresholds["tight_slack"] - MEDIAN.step)
        assert decision.shares == {"tight_slack": 0.95}

    def test_only_the_cells_of_its_stages_and_levels_are_read(self) -> None:
        cells = evidence_cells(MFS)
        found = {(cell.stage, cell.level) for cell in map(CompletionCell.of, cells[COMPLETION])}
        assert found == {(rule.stage, rule.level) for rule in MFS.rules if rule.stage is not Stage.NONE}
        sides = {(cell.stage, cell.level) for cell in map(LaxityCell.of, cells[LAXITY])}
        assert sides == {(Stage.COLLECTIVE, COLLECTIVE_TIGHT), (Stage.COLLECTIVE, COLLECTIVE_LOOSE)}
        assert evidence_cells(policies.static()) == {COMPLETION: (), LAXITY: ()}

    def test_evidence_is_read_for_levels_that_other_thresholds_would_give(self) -> None:
        assert evidence_cells(MFS.at(mlu=255)) == evidence_cells(MFS)


class TestLateShare:
    @given(
        st.integers(1, 255),
        st.integers(0, 31),
        st.integers(40, 400),
        st.integers(-LATE.step, LATE.later_step),
        st.data(),
    )
    def test_the_more_flows_are_late_the_earlier_they_are_promoted(
        self, first: int, octave: int, total: int, before: int, data: st.DataObject
    ) -> None:
        fewer = data.draw(st.integers(0, total))
        more = data.draw(st.integers(fewer, total))
        moved = [tuned_mlu(first, flows(total - late, late, octave), Motion(before)) for late in (fewer, more)]
        assert moved[1] <= moved[0]

    def strides(self, seen: Iterable[Observation]) -> list[int]:
        """How far Q_1 moves at each of these observations, every one of flows under the thresholds then in force."""
        now = at(LATE.bounds[1] - 20).tuned_by(mlu={"settle_ticks": 0, "bounds": (1, 255)})
        motions, moved = {}, []
        for observation in seen:
            decision = step(now, observation, NOTHING, {}, RATES, motions)
            moved.append(decision.thresholds["mlu"] - now.thresholds["mlu"])
            now, motions = now.at(decision.thresholds), decision.motions
        return moved

    def test_strides_double_up_to_the_largest_step(self) -> None:
        assert self.strides([flows(50, 50)] * 6) == [-1, -2, -4, -8, -8, -8]
        assert self.strides([flows(100, 0, octave=18)] * 5) == [1, 2, 4, 4, 4]

    def test_a_change_of_direction_restarts_with_one_code(self) -> None:
        late, spare = flows(50, 50), flows(100, 0, octave=18)
        assert self.strides([late, late, late, spare, spare, late]) == [-1, -2, -4, 1, 2, -1]

    def test_a_rest_halves_the_stride(self) -> None:
        late, rest = flows(50, 50), flows(96, 4)
        assert self.strides([late, late, late, rest, late]) == [-1, -2, -4, 0, -4]
        assert self.strides([late, late, late, rest, rest, rest, late]) == [-1, -2, -4, 0, 0, 0, -1]

    def test_a_small_excess_makes_a_small_step(self) -> None:
        assert self.strides([flows(50, 50), flows(50, 50), flows(94, 6)]) == [-1, -2, -1]

    def test_flows_under_old_thresholds_are_not_evidence_for_new_ones(self) -> None:
        seen = flows(50, 50)
        moved = step(at(URGENCY_ONE), seen, NOTHING, {}, RATES)
        settles = step(at(moved.thresholds["mlu"]), seen, NOTHING, {}, RATES, moved.motions)
        assert moved.thresholds["mlu"] < URGENCY_ONE
        assert settles.thresholds == moved.thresholds
        assert settles.evidence_used
        again = step(at(settles.thresholds["mlu"]), seen, NOTHING, {}, RATES, settles.motions)
        assert again.thresholds["mlu"] == moved.thresholds["mlu"] - 2

    def test_the_reason_says_what_was_seen(self) -> None:
        assert "50% of P2D late" in tuned(URGENCY_ONE, flows(50, 50), LATE)[1]
        assert step(at(URGENCY_ONE), flows(50, 50), NOTHING, {}, RATES).reason.startswith("mlu: promote earlier")

    def test_where_no_flow_needs_the_top_level_the_threshold_stays(self) -> None:
        assert tuned(URGENCY_ONE, flows(100, 0, octave=18, level=2), LATE) == (URGENCY_ONE, "")

    @pytest.mark.parametrize("late", [3, 4, 5])
    def test_nothing_moves_within_the_dead_band(self, late: int) -> None:
        assert tuned(URGENCY_ONE, flows(100 - late, late, octave=18), LATE) == (URGENCY_ONE, "")

    def test_slack_to_spare_makes_promotion_later(self) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(100, 0, octave=17)) == URGENCY_ONE + 1

    def test_the_threshold_stays_if_flows_are_just_in_time(self) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(100, 0, octave=15)) == URGENCY_ONE

    def test_flows_that_were_late_before_their_last_stage_do_not_count(self) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(60, 40, early_late=40)) == URGENCY_ONE
        assert tuned_mlu(URGENCY_ONE, flows(60, 40, early_late=10)) < URGENCY_ONE

    def test_few_flows_are_not_evidence(self) -> None:
        assert tuned_mlu(URGENCY_ONE, flows(0, LATE.min_completions - 1)) == URGENCY_ONE


class TestMedianSlack:
    def test_the_threshold_moves_towards_the_median(self) -> None:
        # The median octave 18 has its middle at code 148.
        assert tuned_tight_slack(160, flows(50, 0, tight=1900, loose=100)) == 152
        assert tuned_tight_slack(100, flows(50, 0, tight=100, loose=1900)) == 108

    def test_the_threshold_does_not_overshoot_the_median(self) -> None:
        assert tuned_tight_slack(150, flows(50, 0, tight=1900, loose=100)) == 148

    def test_past_the_median_the_threshold_moves_slowly(self) -> None:
        assert tuned_tight_slack(140, flows(50, 0, tight=1900, loose=100)) == 139

    @pytest.mark.parametrize("tight", [710, 1000, 1290])
    def test_about_half_is_good_enough(self, tight: int) -> None:
        assert tuned(160, flows(50, 0, tight=tight, loose=2000 - tight), MEDIAN) == (160, "")

    def test_late_packets_do_not_count_as_loose(self) -> None:
        seen = Observation(
            completion={CompletionCell(Stage.KV_REUSE, 6, False, 18): 10},
            laxity={
                LaxityCell(Stage.COLLECTIVE, 6, 3): Count(500, 0),
                LaxityCell(Stage.COLLECTIVE, 5, 3): Count(500, 0),
                LaxityCell(Stage.COLLECTIVE, 5, 15): Count(9000, 0),
            },
        )
        assert tuned_tight_slack(160, seen) == 160


class TestPorts:
    def load(self, share: float, level: int) -> Observation:
        capacity = RATE_BPS // 8 // 1000
        return Observation(MILLISECOND_NS, {PortLevel(1, level): Count(1, round(share * capacity))})

    def settle(self, level: int, share: float = 0.5) -> PortState:
        ports = {1: PortState(0.0, bias_code(RATE_BPS))}
        for _ in range(50):
            ports = tuned_ports(ports, self.load(share, level), RATES, LOAD)
        return ports[1]

    @pytest.mark.parametrize("level", [4, 5, 6])
    def test_the_bias_settles_at_the_bandwidth_that_early_stages_leave(self, level: int) -> None:
        settled = self.settle(level)
        assert settled.load == pytest.approx(0.5, abs=0.01)
        # Half the bandwidth is one octave, eight codes.
        assert abs(settled.bias - bias_code(RATE_BPS) - 8) <= LOAD.hysteresis

    @pytest.mark.parametrize("level", [0, 1, 2, 3, 7])
    def test_last_stage_traffic_does_not_count_as_load(self, level: int) -> None:
        assert self.settle(level) == PortState(0.0, bias_code(RATE_BPS))

    def test_without_levels_nothing_counts_as_load(self) -> None:
        ports = {1: PortState(0.0, bias_code(RATE_BPS))}
        assert tuned_ports(ports, self.load(0.5, 5), RATES, LoadBias()) == ports

    def test_small_changes_of_the_bias_are_not_written(self) -> None:
        state = PortState(0.0, bias_code(RATE_BPS))
        after = tuned_ports({1: state}, self.load(0.2, 5), RATES, LOAD)[1]
        assert after.bias == state.bias
        assert after.load > 0

    @given(st.floats(0, 3), st.floats(0, 1))
    def test_load_and_bias_are_bounded(self, share: float, before: float) -> None:
        after = tuned_ports({1: PortState(before, 10)}, self.load(share, 4), RATES, LOAD)[1]
        assert 0 <= after.load <= 1
        assert after.bias <= bias_code(RATE_BPS * (1 - LOAD.limit))

    def test_each_port_is_measured_by_its_own_rate(self) -> None:
        seen = Observation(MILLISECOND_NS, {PortLevel(port, 4): Count(1, RATE_BPS // 8 // 1000) for port in (1, 2)})
        ports = dict.fromkeys((1, 2), PortState(0.0, 10))
        after = tuned_ports(ports, seen, {1: RATE_BPS, 2: 4 * RATE_BPS}, LOAD)
        assert after[1].load == pytest.approx(4 * after[2].load, rel=0.01)

    def test_without_elapsed_time_nothing_changes(self) -> None:
        ports = {1: PortState(0.3, 33)}
        assert tuned_ports(ports, Observation(0, {PortLevel(1, 4): Count(9, 9000)}), RATES, LOAD) == ports
