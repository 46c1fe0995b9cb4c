"""Policies as TOML files (mfs_ctrl/policy/policy_file.py): what a file may contain, and how mistakes are reported."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_agent.protocol.level import CODE_MAX, LevelKey, LevelRule, decide
from host_agent.protocol.stamp import Stage
from mfs_ctrl import Policy, policies
from mfs_ctrl.errors import PolicyError
from mfs_ctrl.policy.coverage import shadowed, uncovered
from mfs_ctrl.policy.quantities import Dimension, code_of

Load = Callable[[str], Policy]
HEAD = 'name = "mine"\ndescription = "an example"\n'
OTHERS = '    { stage = ["NONE", "KV_REUSE", "COLLECTIVE"], level = 4 },\n'


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a policy from the text of a file."""

    def of(text: str) -> Policy:
        path = tmp_path / "mine.toml"
        path.write_text(text, "utf-8")
        return policies.load(path)

    return of


def rules(*lines: str, tables: str = "") -> str:
    """A policy file with these rules for P2D; other stages have level 4."""
    return (
        f"{HEAD}rules = [\n{OTHERS}" + "".join(f'    {{ stage = "P2D", {line} }},\n' for line in lines) + f"]\n{tables}"
    )


class TestContents:
    def test_bounds_may_be_codes_quantities_and_thresholds(self, load: Load) -> None:
        tables = '[thresholds]\nsoon = "100 ms"\nlarge = 100\n'
        chosen = load(
            rules(
                'slack = { max = "soon" }, level = 7',
                'urgency = { min = "MLU 0.5" }, level = 6',
                'remaining = { min = "1 MiB", below = "large" }, level = 5',
                "rli = 3, late = false, level = 4",
                "level = 1",
                tables=tables,
            )
        )
        assert chosen.rules[3:] == (
            LevelRule(Stage.P2D, 7, slack_code=(0, 132)),
            LevelRule(Stage.P2D, 6, urgency=(120, CODE_MAX)),
            LevelRule(Stage.P2D, 5, remaining_code=(96, 99)),
            LevelRule(Stage.P2D, 4, late=(0, 0), rli=(3, 3)),
            LevelRule(Stage.P2D, 1),
        )
        assert chosen.at(soon=8).rules[3] == LevelRule(Stage.P2D, 7, slack_code=(0, 8))

    @pytest.mark.parametrize(
        ("text", "code", "dimension"),
        [
            ("1 us", 0, Dimension.SLACK),
            ("100 ms", 132, Dimension.SLACK),
            ("1.1 s", 160, Dimension.SLACK),
            ("MLU 1", 128, Dimension.URGENCY),
            ("MLU 0.84", 126, Dimension.URGENCY),
            ("MLU 0.0000000001", 0, Dimension.URGENCY),
            ("256 B", 0, Dimension.REMAINING),
            ("1 MiB", 96, Dimension.REMAINING),
        ],
    )
    def test_quantities_become_codes(self, text: str, code: int, dimension: Dimension) -> None:
        assert code_of(text) == (code, dimension)

    @pytest.mark.parametrize("text", ["100", "ms", "100 min", "MLU", "0.5 MLU", "-1 ms"])
    def test_other_text_is_not_a_quantity(self, text: str) -> None:
        assert code_of(text) is None

    def test_a_file_extends_another_policy(self, load: Load) -> None:
        chosen = load(
            'extends = "mfs"\nname = "patient"\n[thresholds]\ntight_slack = "2.2 s"\n[tuning.mlu]\nlate_target = 0.1\n'
        )
        base = policies.mfs()
        assert chosen.name == "patient"
        assert chosen.thresholds == base.thresholds.replace(tight_slack=168)
        assert chosen.rules == base.at(tight_slack=168).rules
        assert chosen.tuning == base.tuned_by(mlu={"late_target": 0.1}).tuning

    def test_a_file_extends_a_file_beside_it(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / "base.toml").write_text(rules("level = 3"), "utf-8")
        assert load('extends = "base.toml"\nname = "other"\n').rules[-1] == LevelRule(Stage.P2D, 3)

    def test_built_in_policies_describe_themselves(self) -> None:
        for name in policies.builtin_names():
            chosen = policies.load(name)
            assert chosen.name == name
            assert 20 < len(chosen.description) <= 120


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("name = ", "this is not TOML"),
            ("", "name: field required"),
            (HEAD + "rules = []\n", "rules: .* at least 1 item"),
            (HEAD + "rulez = []\n", "rules: field required"),
            (rules("level = 1", tables="[tunning]\n"), "tunning: extra inputs are not permitted"),
            (rules("level = 8"), "rules.2.level: .* less than or equal to 7, not 8"),
            (rules("leve = 1"), "rules.2.level: field required"),
            (rules("level = 1, urgencie = 3"), "rules.2.urgencie: extra inputs"),
            (rules("level = 1, late = 1"), "rules.2.late"),
            (rules("level = 1, rli = 256"), "rules.2.rli.min: a code is 0 to 255, not 256"),
            (
                rules('level = 1, slack = { max = "soon" }'),
                "rules.2.slack.max: there is no threshold 'soon'; add it to \\[thresholds\\]",
            ),
            (
                rules('level = 1, slack = { max = "MLU 1" }'),
                'rules.2.slack.max: slack is compared with time, such as "100 ms", not with urgency',
            ),
            (rules('level = 1, slack = { max = "1 fortnight" }'), "'1 fortnight' is neither a code"),
            (rules('level = 1, slack = { max = "5000 s" }'), "'5000 s' is larger than"),
            (rules('level = 1, urgency = { min = "MLU 0" }'), "an MLU is above 0"),
            (rules("level = 1, rli = { max = 2, below = 3 }"), "rules.2.rli: give max"),
            (rules("level = 7, rli = { min = 3, max = 2 }", "level = 1"), "rules.2 matches nothing"),
            (rules("level = 1", "level = 7, rli = 0"), "rules.3 never applies, because earlier rules match first"),
            (
                rules("level = 7, rli = { max = 2 }", "level = 6, rli = { min = 4 }"),
                "no rule gives a level to stage P2D, in time, rli 3, urgency 0, slack 0, remaining 0",
            ),
            (rules("level = 7, late = false"), "stage P2D, late, rli 0, urgency 255, slack 0"),
            (HEAD + 'rules = [{ stage = "P2D", level = 1 }]\n', "no rule gives a level to stage NONE"),
            (rules("level = 1", tables="[thresholds]\nmlu = 3\n"), "thresholds.mlu is used by no rule"),
            (rules("level = 1", tables="[thresholds]\nMLU = 3\n"), "thresholds.MLU"),
            (
                rules("level = 1", tables='[tuning.mlu]\nrule = "track-late-share"\nstage = "P2D"\nbounds = [1, 9]\n'),
                "there is no threshold mlu",
            ),
            (rules("level = 1", tables='[tuning.mlu]\nrule = "guess"\n'), "tuning.mlu: .*'track-late-share'"),
            (
                rules(
                    'level = 7, slack = { max = "soon" }',
                    "level = 1",
                    tables='[thresholds]\nsoon = 9\n[tuning.soon]\nrule = "track-late-share"\nstage = "P2D"\n'
                    "bounds = [1, 9]\n",
                ),
                "tuning.soon: track-late-share moves a threshold that rules use as urgency.min",
            ),
            (
                rules(
                    'level = 7, urgency = { min = "mlu" }',
                    "level = 1, urgency = { max = 199 }",
                    tables='[thresholds]\nmlu = 200\n[tuning.mlu]\nrule = "track-late-share"\nstage = "P2D"\n'
                    "bounds = [100, 220]\n",
                ),
                "urgency 200, .* when tuning has moved thresholds to {'mlu': 220}",
            ),
            ('extends = "mfss"\nname = "mine"\n', "mfss: No such file"),
            ('extends = 3\nname = "mine"\n', "extends: the name of a policy or of a file, not 3"),
            ('extends = "mine.toml"\n', "mine.toml extends itself"),
        ],
    )
    def test_a_mistake_is_named_with_file_and_key(self, load: Load, text: str, message: str) -> None:
        with pytest.raises(PolicyError, match=rf"mine\.toml: .*{message}|{message}") as caught:
            load(text)
        assert "mine.toml" in str(caught.value) or "mfss" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(PolicyError, match=r"none\.toml: No such file"):
            policies.load(tmp_path / "none.toml")

    def test_an_unknown_policy_is_refused_with_a_list(self) -> None:
        with pytest.raises(
            PolicyError,
            match=r"no policy 'lifo'; the built-in ones are edf, .*static-reuse; a policy file ends in \.toml",
        ):
            policies.load("lifo")


spans = st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda ends: (min(ends) * 60, max(ends) * 60 + 15))
late_spans = st.sampled_from([(0, 0), (1, 1), (0, 1)])
some_rules = st.lists(
    st.builds(
        LevelRule, st.sampled_from([Stage.NONE, Stage.P2D]), st.integers(0, 7), late_spans, spans, spans, spans, spans
    ),
    max_size=6,
)
CODES = sorted({code for start in range(0, 256, 60) for code in (start, start + 15, start + 16) if code <= CODE_MAX})


def keys(stage: Stage, late: int) -> list[LevelKey]:
    """One key of every region that the intervals above can make."""
    urgencies, slacks = ([CODE_MAX], [0]) if late else (CODES, CODES)
    return [LevelKey(stage, late, *codes) for codes in product(CODES, urgencies, slacks, CODES)]


class TestCoverage:
    @settings(max_examples=30, deadline=None)
    @given(some_rules, st.booleans())
    def test_an_uncovered_key_is_found_if_there_is_one(self, given_rules: list[LevelRule], rest: bool) -> None:
        complete = [LevelRule(stage, 1) for stage in Stage if rest or stage not in (Stage.NONE, Stage.P2D)]
        chosen = [*given_rules, *complete]
        found = uncovered(chosen)
        gaps = any(
            decide(chosen, key, -1) == -1
            for stage in (Stage.NONE, Stage.P2D)
            for late in (0, 1)
            for key in keys(stage, late)
        )
        assert (found is not None) == gaps
        assert found is None or decide(chosen, found, -1) == -1

    @settings(max_examples=30, deadline=None)
    @given(some_rules)
    def test_a_shadowed_rule_is_found_if_there_is_one(self, chosen: list[LevelRule]) -> None:
        def reached(index: int) -> bool:
            rule = chosen[index]
            return any(
                decide([rule], key, -1) != -1 and decide(chosen[:index], key, -1) == -1
                for late in (0, 1)
                for key in keys(rule.stage, late)
            )

        first = next((index for index in range(len(chosen)) if not reached(index)), None)
        assert shadowed(chosen) == first
