"""mfs_ctrl/counters.py: the meaning of counter indices, and what was counted between two reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.level import log2_code
from host_agent.protocol.stamp import Stage
from mfs_ctrl.counters import (
    COMPLETION,
    DISCARDED,
    LAXITY,
    PORT_LEVEL,
    CompletionCell,
    Count,
    LaxityCell,
    Observation,
    PortLevel,
    cells_of_ports,
    observe,
)


class TestIndices:
    def test_indices_have_the_layout_of_the_program(self) -> None:
        assert PortLevel(3, 5).index == 3 * 8 + 5
        assert LaxityCell(Stage.P2D, 7, 15).index == 511
        assert LaxityCell(Stage.KV_REUSE, 2, 3).index == 128 + 32 + 3
        assert CompletionCell(Stage.P2D, 7, True, 31).index == 2047
        assert CompletionCell(Stage.COLLECTIVE, 1, False, 9).index == 1024 + 64 + 9

    @given(st.integers(0, 4095))
    def test_port_level_indices_survive_a_round_trip(self, index: int) -> None:
        assert PortLevel.of(index).index == index

    @given(st.integers(0, 511))
    def test_laxity_indices_survive_a_round_trip(self, index: int) -> None:
        assert LaxityCell.of(index).index == index

    @given(st.integers(0, 2047))
    def test_completion_indices_survive_a_round_trip(self, index: int) -> None:
        assert CompletionCell.of(index).index == index

    @given(st.integers(1, 2**32 - 1))
    def test_the_slack_code_of_an_octave_is_within_half_an_octave(self, slack_us: int) -> None:
        cell = CompletionCell(Stage.P2D, 1, False, log2_code(slack_us) >> 3)
        assert abs(cell.slack_code - log2_code(slack_us)) <= 4

    def test_a_port_has_a_cell_for_each_level(self) -> None:
        assert cells_of_ports([0, 2]) == [*range(8), *range(16, 24)]


class TestObserve:
    def test_differences_are_sorted_by_meaning(self) -> None:
        before = {PORT_LEVEL: {9: Count(1, 100), 10: Count(5, 500)}, COMPLETION: {}}
        after = {
            PORT_LEVEL: {9: Count(4, 400), 10: Count(5, 500)},
            LAXITY: {LaxityCell(Stage.P2D, 1, 7).index: Count(2, 200)},
            COMPLETION: {CompletionCell(Stage.P2D, 7, True, 4).index: Count(3, 0)},
            DISCARDED: {0: Count(0, 0), 1: Count(2, 128)},
        }
        seen = observe(before, after, 1000)
        assert seen.interval_ns == 1000
        assert seen.port_level == {PortLevel(1, 1): Count(3, 300)}
        assert seen.laxity == {LaxityCell(Stage.P2D, 1, 7): Count(2, 200)}
        assert seen.completion == {CompletionCell(Stage.P2D, 7, True, 4): 3}
        assert seen.discarded == {"malformed": 2}

    def test_a_restarted_switch_counts_from_zero(self) -> None:
        seen = observe({PORT_LEVEL: {8: Count(100, 9000)}}, {PORT_LEVEL: {8: Count(2, 300)}}, 1)
        assert seen.port_level == {PortLevel(1, 0): Count(2, 300)}


class TestObservation:
    SEEN = Observation(
        completion={
            CompletionCell(Stage.P2D, 1, False, 10): 6,
            CompletionCell(Stage.P2D, 7, False, 14): 2,
            CompletionCell(Stage.P2D, 0, True, 3): 2,
            CompletionCell(Stage.COLLECTIVE, 6, False, 16): 5,
        }
    )

    def test_the_late_share_is_that_of_finished_flows(self) -> None:
        assert self.SEEN.late_share(Stage.P2D) == 0.2
        assert self.SEEN.late_share(Stage.COLLECTIVE, Stage.P2D) == 2 / 15
        assert self.SEEN.late_share(Stage.KV_REUSE) is None

    def test_quantiles_cover_only_flows_in_time(self) -> None:
        assert self.SEEN.slack_code_at(0.5, Stage.P2D) == 84
        assert self.SEEN.slack_code_at(0.9, Stage.P2D) == 116
        assert self.SEEN.slack_code_at(0.5, Stage.KV_REUSE) is None
