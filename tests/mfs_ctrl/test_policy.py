"""Properties of every policy: complete, monotone where its name says so, refused if nonsensical."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_agent.protocol.level import CODE_MAX, CODE_STEPS, URGENCY_ONE, LevelKey, LevelRule, decide
from host_agent.protocol.stamp import LEVELS, SCAVENGER, TOP_LEVEL, Stage
from mfs_ctrl import Policy, Thresholds, policies
from mfs_ctrl.errors import PolicyError
from tests.support.mfs_levels import COLLECTIVE_LOOSE, LAST_SOON, LAST_TIGHT

NO_RULE = -1
EARLY = (Stage.KV_REUSE, Stage.COLLECTIVE)
HOPELESS = URGENCY_ONE + CODE_STEPS // 2
"""Urgency from which the mfs policy gives up last-stage flows: MLU 1.4."""

codes = st.integers(0, CODE_MAX)
boundaries = st.lists(st.integers(1, CODE_MAX), unique=True, max_size=TOP_LEVEL - 1).map(sorted)


def mfs_thresholds(mlu: int, near_rli: int, tight_slack: int, last: tuple[int, int]) -> Thresholds:
    chosen = policies.mfs(
        mlu=mlu, near_rli=near_rli, tight_slack=tight_slack, last_tight_slack=min(last), last_soon_slack=max(last)
    )
    return chosen.thresholds


def banded(name: str) -> st.SearchStrategy[Policy]:
    chosen = policies.load(name)
    rising = st.lists(st.integers(1, CODE_MAX), unique=True, max_size=len(chosen.bands)).map(sorted)
    return rising.map(chosen.with_bands)


thresholds = st.builds(mfs_thresholds, st.integers(1, CODE_MAX), codes, codes, st.tuples(codes, codes))
all_policies = st.one_of(
    st.builds(policies.mfs, thresholds),
    *(banded(name) for name in ("sjf", "edf", "llf", "karuna", "karuna-paced", "edf-explicit")),
    st.builds(policies.paper, st.floats(0.1, 2), st.floats(1.5, 10), codes),
    st.builds(policies.folded, st.builds(policies.mfs, thresholds), st.integers(1, LEVELS)),
    st.sampled_from([policies.load(name) for name in policies.builtin_names()]),
)


def cells(rules: Sequence[LevelRule]) -> Iterator[LevelKey]:
    """One key of each region between the rules' bounds; what holds for these holds for all keys."""
    starts = [
        sorted({0, *(bound for rule in rules for bound in _starts(getattr(rule, name)) if bound <= CODE_MAX)})
        for name in ("rli", "urgency", "slack_code", "remaining_code")
    ]
    for stage, late, rli, urgency, slack_code, remaining_code in product(Stage, (0, 1), *starts):
        yield LevelKey(stage, late, rli, urgency, slack_code, remaining_code)


def _starts(interval: tuple[int, int]) -> tuple[int, int]:
    return interval[0], interval[1] + 1


@given(all_policies)
def test_every_key_has_a_level(chosen: Policy) -> None:
    levels = {decide(chosen.rules, key, NO_RULE) for key in cells(chosen.rules)}
    assert levels <= set(range(LEVELS))


@given(all_policies)
def test_every_rule_fits_the_table(chosen: Policy) -> None:
    for rule in chosen.rules:
        assert 0 <= rule.level <= TOP_LEVEL
        assert 0 <= rule.late[0] <= rule.late[1] <= 1
        for low, high in (rule.rli, rule.urgency, rule.slack_code, rule.remaining_code):
            assert 0 <= low <= high <= CODE_MAX


@given(boundaries, st.sampled_from((*EARLY, Stage.P2D)), st.integers(0, 1), codes, codes, codes, codes)
def test_sjf_never_puts_a_longer_flow_first(
    bounds: list[int], stage: Stage, late: int, rli: int, urgency: int, slack_code: int, remaining_code: int
) -> None:
    rules = policies.sjf(bounds).rules
    longer = [
        decide(rules, LevelKey(stage, late, rli, urgency, slack_code, code))
        for code in range(remaining_code, CODE_MAX + 1)
    ]
    assert longer == sorted(longer, reverse=True)
    # Nothing else counts, except that what is late in the last stage is given up.
    assert SCAVENGER not in longer or (late and stage is Stage.P2D)
    assert decide(rules, LevelKey(Stage.P2D, 0, 0, 0, 0, remaining_code)) == decide(
        rules, LevelKey(Stage.KV_REUSE, late, rli, urgency, slack_code, remaining_code)
    )


@given(boundaries, st.sampled_from((*EARLY, Stage.P2D)), codes, codes, codes)
def test_edf_never_puts_a_later_deadline_first(
    bounds: list[int], stage: Stage, rli: int, urgency: int, remaining_code: int
) -> None:
    rules = policies.edf(bounds).rules
    later = [decide(rules, LevelKey(stage, 0, rli, urgency, code, remaining_code)) for code in range(CODE_MAX + 1)]
    assert later == sorted(later, reverse=True)
    assert len(set(later)) == len(bounds) + 1
    late = decide(rules, LevelKey(stage, 1, rli, urgency, 0, remaining_code))
    assert late == (SCAVENGER if stage == Stage.P2D else TOP_LEVEL)


class TestMfs:
    @given(thresholds, codes, codes, codes)
    def test_a_last_stage_flow_rises_with_its_urgency_until_it_is_hopeless(
        self, at: Thresholds, rli: int, slack_code: int, remaining_code: int
    ) -> None:
        rules = policies.mfs(at).rules
        levels = [
            decide(rules, LevelKey(Stage.P2D, 0, rli, urgency, slack_code, remaining_code))
            for urgency in range(CODE_MAX + 1)
        ]
        assert set(levels[HOPELESS:]) == {SCAVENGER}
        levels = levels[:HOPELESS]
        assert levels == sorted(levels)
        # The top is for those whose computing is over.
        assert (TOP_LEVEL in levels) == (rli == 0 and at["mlu"] < HOPELESS)
        if TOP_LEVEL in levels:
            assert levels.index(TOP_LEVEL) == at["mlu"]

    @given(thresholds, codes, st.integers(0, HOPELESS - 1), codes)
    def test_among_waiting_last_stage_flows_the_tighter_goes_first(
        self, at: Thresholds, rli: int, urgency: int, remaining_code: int
    ) -> None:
        rules = policies.mfs(at).rules
        levels = [
            decide(rules, LevelKey(Stage.P2D, 0, rli, urgency, code, remaining_code)) for code in range(CODE_MAX + 1)
        ]
        assert levels == sorted(levels, reverse=True)
        if rli or urgency < at["mlu"]:
            assert max(levels) < COLLECTIVE_LOOSE
            first, second = at["last_tight_slack"], at["last_soon_slack"]
            assert (levels[first], levels[second]) == (
                LAST_TIGHT, LAST_TIGHT if first == second else LAST_SOON,
            )  # fmt: skip

    @given(thresholds, codes, codes, codes, codes)
    def test_a_late_last_stage_flow_becomes_the_scavenger(
        self, at: Thresholds, rli: int, urgency: int, slack_code: int, remaining_code: int
    ) -> None:
        key = LevelKey(Stage.P2D, 1, rli, urgency, slack_code, remaining_code)
        assert decide(policies.mfs(at).rules, key) == SCAVENGER

    @given(thresholds, st.sampled_from(EARLY), st.integers(0, 1), codes, codes, codes)
    def test_an_early_flow_rises_as_its_layer_comes_near(
        self, at: Thresholds, stage: Stage, late: int, urgency: int, slack_code: int, remaining_code: int
    ) -> None:
        rules = policies.mfs(at).rules
        levels = [
            decide(rules, LevelKey(stage, late, rli, urgency, slack_code, remaining_code))
            for rli in range(CODE_MAX + 1)
        ]
        assert levels == sorted(levels, reverse=True)
        # Never starved, and above any last-stage flow that is not about to miss.
        assert levels[-1] > LAST_TIGHT
        assert levels[0] < TOP_LEVEL

    @given(thresholds, st.sampled_from(EARLY))
    def test_at_equal_layers_the_tighter_batch_goes_first(self, at: Thresholds, stage: Stage) -> None:
        rules = policies.mfs(at).rules
        levels = [decide(rules, LevelKey(stage, 0, 0, 128, code, 100)) for code in range(CODE_MAX + 1)]
        assert levels == sorted(levels, reverse=True)
        assert levels[at["tight_slack"]] == levels[CODE_MAX] + (at["tight_slack"] < CODE_MAX)

    def test_only_mfs_and_its_variants_are_tuned(self) -> None:
        tuned = {name: set(policies.load(name).tuning) for name in policies.builtin_names()}
        loops = {"mlu", "tight_slack"}
        assert {name: found for name, found in tuned.items() if found} == {
            "mfs": loops,
            "mfs-tail": loops,
            "mfs-tcp": {"mlu"},
            "mfs-tcp-bands": {"mlu"},
        }

    def test_in_mfs_tcp_no_two_stages_share_a_level_and_late_requests_are_not_starved(self) -> None:
        tcp = policies.load("mfs-tcp")
        levels = {stage: {rule.level for rule in tcp.rules if rule.stage == stage} for stage in Stage}
        shared = [levels[one] & levels[other] for one, other in combinations((*EARLY, Stage.P2D), 2)]
        assert not any(shared)
        late = level(tcp, Stage.P2D, late=1, urgency=CODE_MAX, slack_code=0)
        assert late == level(tcp, Stage.P2D, slack_code=CODE_MAX) > SCAVENGER
        assert level(tcp, Stage.P2D, urgency=CODE_MAX) == TOP_LEVEL

    def test_mfs_tcp_bands_splits_the_last_stage_by_slack_and_is_mfs_tcp_elsewhere(self) -> None:
        bands, tcp = policies.load("mfs-tcp-bands"), policies.load("mfs-tcp")
        by_slack = [level(bands, Stage.P2D, slack_code=code) for code in range(CODE_MAX + 1)]
        assert by_slack == sorted(by_slack, reverse=True)
        assert len(set(by_slack)) == 3
        early = max(level(bands, stage) for stage in EARLY)
        assert level(bands, Stage.P2D, urgency=CODE_MAX) == TOP_LEVEL > early > by_slack[0]
        assert min(by_slack) < level(bands, Stage.P2D, late=1) < max(by_slack)
        for stage in EARLY:
            assert [rule for rule in bands.rules if rule.stage == stage] == [
                rule for rule in tcp.rules if rule.stage == stage
            ]

    def test_mfs_tail_serves_late_requests_before_those_that_can_wait(self) -> None:
        mfs, tail = policies.load("mfs"), policies.load("mfs-tail")
        assert tail.thresholds == mfs.thresholds
        wait = level(tail, Stage.P2D, slack_code=CODE_MAX)
        for late in ({"late": 1, "urgency": CODE_MAX, "slack_code": 0}, {"urgency": CODE_MAX}):
            assert level(mfs, Stage.P2D, **late) == SCAVENGER
            assert wait < level(tail, Stage.P2D, **late) < level(tail, Stage.P2D, slack_code=0)
        assert [rule for rule in tail.rules if rule.stage != Stage.P2D] == [
            rule for rule in mfs.rules if rule.stage != Stage.P2D
        ]


def level(chosen: Policy, stage: Stage, **values: int) -> int:
    """The level of a flow in time with RLI (relative layer index) 0 and medium codes, except for ``values``."""
    known = {"late": 0, "rli": 0, "urgency": 100, "slack_code": 100, "remaining_code": 100} | values
    return decide(chosen.rules, LevelKey(stage, **known), NO_RULE)


class TestKaruna:
    CHOSEN = policies.load("karuna").with_bands([50, 80, 120, 150])

    def test_a_flow_with_a_deadline_waits_at_the_bottom_until_it_needs_all_of_the_bandwidth(self) -> None:
        levels = [level(self.CHOSEN, Stage.P2D, urgency=code) for code in range(CODE_MAX + 1)]
        assert levels == [1] * URGENCY_ONE + [TOP_LEVEL] * (CODE_MAX + 1 - URGENCY_ONE)
        # Neither its size nor its deadline counts before.
        assert level(self.CHOSEN, Stage.P2D, remaining_code=1, slack_code=1) == 1
        assert level(self.CHOSEN, Stage.P2D, late=1, urgency=CODE_MAX) == SCAVENGER

    @pytest.mark.parametrize("stage", EARLY)
    @pytest.mark.parametrize(
        ("remaining_code", "expected"), [(0, 6), (49, 6), (50, 5), (80, 4), (119, 4), (120, 3), (150, 2), (255, 2)]
    )
    def test_other_flows_are_ordered_by_size_in_between(self, stage: Stage, remaining_code: int, expected: int) -> None:
        for late in (0, 1):
            assert level(self.CHOSEN, stage, late=late, urgency=CODE_MAX, remaining_code=remaining_code) == expected

    def test_more_bands_than_levels_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at most 4 of them"):
            policies.load("karuna").with_bands([1, 2, 3, 4, 5])


class TestFolded:
    @settings(deadline=None)
    @given(all_policies, st.integers(1, LEVELS), st.data())
    def test_folding_keeps_the_order(self, chosen: Policy, levels: int, data: st.DataObject) -> None:
        keys = list(cells(chosen.rules))
        one, other = data.draw(st.sampled_from(keys)), data.draw(st.sampled_from(keys))
        before = decide(chosen.rules, one) - decide(chosen.rules, other)
        rules = policies.folded(chosen, levels).rules
        after = decide(rules, one) - decide(rules, other)
        # What went first does not go last, and what was equal stays so.
        assert before * after > 0 or after == 0

    @given(all_policies, st.integers(1, LEVELS))
    def test_folding_uses_no_more_levels_than_requested(self, chosen: Policy, levels: int) -> None:
        folded = policies.folded(chosen, levels)
        assert len({rule.level for rule in folded.rules}) <= levels
        # What is given up does not share a queue with what goes first.
        assert all(
            now.level == SCAVENGER
            for was, now in zip(chosen.rules, folded.rules, strict=True)
            if was.level == SCAVENGER
        )

    def test_folding_onto_all_levels_changes_nothing(self) -> None:
        assert policies.folded(policies.mfs(), LEVELS).rules == policies.mfs().rules

    def test_two_levels_separate_what_a_gpu_waits_for_from_what_can_wait(self) -> None:
        chosen = policies.folded(policies.mfs(), 2)
        urgent = level(chosen, Stage.P2D, urgency=policies.mfs().thresholds["mlu"])
        assert urgent == level(chosen, Stage.COLLECTIVE) == level(chosen, Stage.NONE) == TOP_LEVEL
        assert level(chosen, Stage.KV_REUSE, rli=9) == TOP_LEVEL  # a unit will wait for it, and it is short
        assert level(chosen, Stage.P2D) == SCAVENGER

    @pytest.mark.parametrize("levels", [0, LEVELS + 1])
    def test_invalid_numbers_of_levels_are_refused(self, levels: int) -> None:
        with pytest.raises(ValueError, match=f"1 to {LEVELS} levels, not {levels}"):
            policies.folded(policies.mfs(), levels)


@settings(deadline=None)
@given(thresholds)
def test_without_effective_deadlines_only_the_tightness_of_a_batch_is_ignored(at: Thresholds) -> None:
    full = policies.mfs(at)
    chosen = policies.load("mfs-without-red").at({name: code for name, code in at.items() if name != "tight_slack"})
    for key in cells(full.rules):
        tight = key.stage in EARLY and key.rli == 0 and not key.late and key.slack_code <= at["tight_slack"]
        assert decide(chosen.rules, key) == decide(full.rules, key) - tight


def test_fifo_treats_all_alike_and_static_looks_at_the_stage_only() -> None:
    assert {decide(policies.fifo().rules, key) for key in cells(policies.mfs().rules)} == {1}
    levels = {
        stage: {
            decide(policies.static().rules, key)
            for key in cells(policies.mfs().rules)
            if key.stage == stage and not key.late
        }
        for stage in Stage
    }
    assert all(len(found) == 1 for found in levels.values())
    assert levels[Stage.COLLECTIVE] > set() < levels[Stage.P2D]
    assert max(levels[Stage.COLLECTIVE]) > max(levels[Stage.KV_REUSE]) > max(levels[Stage.P2D])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mlu": 257}, "threshold mlu is a code of 0 to 255, or 256 for never, not 257"),
        ({"near_rli": -1}, "near_rli .* not -1"),
        ({"mlu": 1.5}, "mlu .* not 1.5"),
        ({"mlu": True}, "mlu .* not True"),
        ({"tihgt_slack": 1}, "no threshold tihgt_slack; there are hopeless, mlu, near_rli"),
    ],
)
def test_invalid_thresholds_are_refused(changed: Mapping[str, int], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        policies.mfs(**changed)


def test_a_threshold_beyond_all_codes_is_never_reached() -> None:
    never = policies.mfs(mlu=256)
    assert len(never.rules) == len(policies.mfs().rules) - 1
    assert level(never, Stage.P2D, urgency=HOPELESS - 1) < TOP_LEVEL


@pytest.mark.parametrize("make", [policies.sjf, policies.edf])
@pytest.mark.parametrize(
    "bounds", [[5, 5], [9, 5], [1, 2, 3, 4, 5, 6, 7], [-5], [0, 5], [256]], ids=lambda bounds: str(bounds)
)
def test_invalid_boundaries_are_refused(make: Callable[[list[int]], Policy], bounds: list[int]) -> None:
    with pytest.raises(PolicyError, match=r"boundaries \[.*\] must rise within 1\.\.255, at most 6"):
        make(bounds)


def test_longer_objectives_shift_thresholds_of_slack_and_leave_urgency() -> None:
    chosen = policies.mfs()
    twice = chosen.with_slack_times(2)
    moved = {name: twice.thresholds[name] - code for name, code in chosen.thresholds.items()}
    # A code is an eighth of an octave.
    slacks = dict.fromkeys(("tight_slack", "last_tight_slack", "last_soon_slack"), 8)
    assert moved == {"hopeless": 0, "mlu": 0, "near_rli": 0, **slacks}
    assert twice.with_slack_times(0.5) == chosen
    assert (
        policies.load("edf").with_slack_times(2).thresholds["band_1"] == policies.load("edf").thresholds["band_1"] + 8
    )
    with pytest.raises(PolicyError, match="above 0"):
        chosen.with_slack_times(0)


@pytest.mark.parametrize("name", ["fifo", "static", "sjf"])
def test_a_slack_factor_without_effect_is_refused(name: str) -> None:
    assert policies.load(name).with_slack_times(1) == policies.load(name)
    with pytest.raises(PolicyError, match=f"policy {name} has no threshold of slack"):
        policies.load(name).with_slack_times(5)


def test_tuning_is_changed_by_threshold() -> None:
    changed = policies.mfs().tuned_by({"mlu": {"late_target": 0.1}}, load={"weight": 0.5})
    assert changed.tuning["mlu"].model_dump() == {**policies.mfs().tuning["mlu"].model_dump(), "late_target": 0.1}
    assert changed.load.weight == 0.5
    assert changed.tuning["tight_slack"] == policies.mfs().tuning["tight_slack"]
    assert changed.rules == policies.mfs().rules


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slo": {"late_target": 0.1}}, "policy mfs does not tune slo; it has mlu, tight_slack, load"),
        ({"mlu": {"late_target": 0.0}}, "mlu.late_target: .* greater than 0, not 0.0"),
        ({"mlu": {"late_targt": 0.1}}, "mlu.late_targt: .* not permitted"),
        ({"mlu": {"step": 0}}, "mlu.step: .*, not 0"),
        ({"mlu": {"later_step": 0}}, "mlu.later_step"),
        ({"mlu": {"settle_ticks": -1}}, "mlu.settle_ticks"),
        ({"mlu": {"gain": 0}}, "mlu.gain"),
        ({"mlu": {"bounds": (130, 120)}}, r"mlu.bounds: the bounds \[130, 120\] must rise"),
        ({"mlu": {"bounds": ("1 parsec", 120)}}, "mlu.bounds.1"),
        ({"tight_slack": {"bounds": (0, 256)}}, "tight_slack.bounds.2"),
        ({"tight_slack": {"band": 0.5}}, "tight_slack.band"),
        ({"tight_slack": {"loose_level": 5}}, "tight_level and loose_level are both 5"),
        ({"load": {"weight": 0.0}}, "load.weight"),
        ({"load": {"limit": 1.0}}, "load.limit"),
        ({"load": {"levels": (8,)}}, "load.levels.1"),
    ],
)
def test_invalid_tuning_is_refused(changes: Mapping[str, Mapping[str, object]], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        policies.mfs().tuned_by(changes)


@pytest.mark.parametrize("stage", [Stage.KV_REUSE, Stage.COLLECTIVE])
def test_explicit_edf_treats_flows_without_deadlines_alike(stage: Stage) -> None:
    rules = policies.load("edf-explicit").with_bands([100, 150]).rules
    levels = {decide(rules, key) for key in cells(rules) if key.stage == stage}
    last = {decide(rules, key) for key in cells(rules) if key.stage == Stage.P2D and not key.late}
    assert levels == {1}
    assert last == {7, 6, 5}


def test_the_papers_thresholds_are_geometric() -> None:
    rules = policies.paper(top=0.5, ratio=4.0).rules

    def level(urgency: int) -> int:
        return decide(rules, LevelKey(Stage.P2D, 0, 0, urgency, 100, 100))

    # MLU 1/2 is 8 codes below MLU 1, a factor 4 another 16.
    found = [level(urgency) for urgency in (120, 119, 104, 103, 88, 87)]
    assert found == [TOP_LEVEL, LAST_TIGHT, LAST_TIGHT, LAST_SOON, LAST_SOON, 1]
    # Early stages go by RLI alone, below the top and above the rest.
    early = [decide(rules, LevelKey(Stage.COLLECTIVE, 0, rli, 0, 200, 100)) for rli in (0, 2, 3)]
    assert early == [6, 5, 4]


def test_paced_karuna_puts_flows_with_deadlines_first() -> None:
    rules = policies.load("karuna-paced").with_bands([100]).rules
    for key in cells(rules):
        if key.stage == Stage.P2D:
            assert decide(rules, key) == (SCAVENGER if key.late else TOP_LEVEL)
        elif key.stage != Stage.NONE:
            assert SCAVENGER < decide(rules, key) < TOP_LEVEL
