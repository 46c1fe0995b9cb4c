"""``mfs study pruning`` and ``mfs bench table-writes``."""

from __future__ import annotations

from click.testing import CliRunner

from mfs_eval.bench.table_writes import table_writes
from mfs_eval.studies.pruning import pruning, variants


def test_variants_are_without_pruning_and_each_budget_all_with_the_same_queue() -> None:
    for hopeless in (False, True):
        named = dict(variants((0.0, 0.3), hopeless))
        assert [one.pruning.drop_budget for one in named.values()] == [None, 0.0, 0.3]
        assert {one.pruning.defer_infeasible for one in named.values()} == {hopeless}
    assert list(named) == ["off+q", "0+q", "0.3+q"]


def test_the_table_has_a_line_for_each_setting_with_all_seeds() -> None:
    options = [
        "--scenario",
        "testbed",
        "--policy",
        "static",
        "--budget",
        "0.5",
        "--requests",
        "4",
        "--seeds",
        "1-2",
        "--request-rate",
        "50",
    ]
    result = CliRunner().invoke(pruning, options)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()[1:]]
    assert [line[:4] for line in lines] == [["testbed", "50", "static", "off"], ["testbed", "50", "static", "0.5"]]
    for line in lines:
        mean, first, second = map(float, line[4:7])
        assert abs(mean - (first + second) / 2) < 0.001
        # Three of the four requests count; a request that is late when computed has missed.
        for share, late in zip((first, second), line[9:], strict=True):
            assert 0 <= int(late.strip("[],")) <= round(3 * (1 - share))
    assert lines[0][7:9] == ["[0,", "0]"]


def test_writes_are_timed_for_one_entry_and_for_many() -> None:
    result = CliRunner().invoke(table_writes, ["--rounds", "2"])
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.output.splitlines()] == ["1", "10", "50"]
