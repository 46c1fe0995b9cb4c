"""Tofino resources of each feature: the variants of the program, and what is read from the compiler's reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mfs_eval.errors import EvaluationError
from mfs_eval.studies.tofino_cost import Resources, markdown, read_reports
from mfs_eval.studies.tofino_features import FEATURES, Edit, Feature, write_without
from p4src.artifact import ROOT


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_the_passages_of_a_feature_are_in_the_sources(tmp_path: Path, feature: Feature) -> None:
    write_without([feature], tmp_path / "p4src")
    edited = {edit.path for edit in feature.edits}
    for path in (tmp_path / "p4src").rglob("*.p4"):
        name = path.relative_to(tmp_path / "p4src").as_posix()
        assert (path.read_text() != (ROOT / name).read_text()) == (name in edited), name


def test_features_can_be_removed_together(tmp_path: Path) -> None:
    write_without(FEATURES, tmp_path / "p4src")
    assert "police.apply" not in (tmp_path / "p4src/tna/pipeline.p4").read_text()


def test_a_missing_passage_is_named(tmp_path: Path) -> None:
    feature = Feature("moon", (Edit("tna/mfs.p4", "moon.apply();"),))
    with pytest.raises(
        EvaluationError, match=r"p4src/tna/mfs\.p4 no longer has 'moon\.apply\(\);', so moon cannot be removed"
    ):
        write_without([feature], tmp_path / "p4src")


def reports(folder: Path) -> None:
    """Write the parts of the compiler's reports that are read."""
    logs = folder / "pipe" / "logs"
    logs.mkdir(parents=True)
    (logs / "table_summary.log").write_text(
        "Number of stages in table allocation: 3\n"
        "  Number of stages for ingress table allocation: 1\n"
        "  Number of stages for egress table allocation: 2\n"
        "Number of stages in table allocation: 12\n"
        "  Number of stages for ingress table allocation: 11\n"
        "  Number of stages for egress table allocation: 12\n"
    )
    sizes = [{"bit_width": 8, "containers_occupied": 1, "bits_occupied": 5, "bits_overlaid": 0}]
    mau = {"srams": 4, "tcams": 3, "map_rams": 2, "logical_tables": 9}
    (logs / "metrics.json").write_text(json.dumps({"mau": mau, "phv": {"normal": sizes, "tagalong": sizes * 2}}))
    stages = [{"hash_bits": {"bits": [{}] * count}, "meter_alus": {"meters": [{}] * count}} for count in (1, 2)]
    (logs / "resources.json").write_text(json.dumps({"resources": {"mau": {"mau_stages": stages}}}))


def test_the_last_figures_of_the_reports_count(tmp_path: Path) -> None:
    reports(tmp_path)
    assert read_reports(tmp_path) == Resources(11, 12, 4, 3, 2, 3, 3, 9, 15)
    (tmp_path / "pipe/logs/metrics.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"reports in .*logs are not as expected: KeyError"):
        read_reports(tmp_path)


def test_the_cost_of_a_feature_is_shown_as_a_difference() -> None:
    whole, less = Resources(11, 12, 1000, 3, 2, 3, 3, 9, 15), Resources(10, 12, 900, 3, 2, 3, 3, 9, 15)
    lines = markdown([("all of it", whole), ("ECMP", less), ("last hop", None)]).splitlines()
    assert lines[2] == "| all of it | 11 | 12 | 1,000 | 3 | 2 | 3 | 3 | 9 | 15 |"
    assert lines[3] == "| ECMP | -1 |  | -100 |  |  |  |  |  |  |"
    assert lines[4] == "| last hop | does not fit |  |  |  |  |  |  |  |  |"
