"""``mfs study tcp-policies``: where policies are played, what is compared with what, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mfs_eval.errors import EvaluationError
from mfs_eval.results.rows import RowStore, read_rows
from mfs_eval.results.schema import Provenance
from mfs_eval.studies import tcp_policies as study
from mfs_eval.studies.tcp_policies import FILE, Row

ORIGIN = Provenance(trace_digest="1", program_digest="2", version="3")


def row(policy: str, seed: int, attained: float, **changed: object) -> Row:
    fields: dict[str, object] = {
        "cluster": "testbed", "rate_bps": 20_000_000, "request_rate": 11.0, "requests_per_run": 60,
        "ttft_mean_s": 0.4, "ttft_p99_s": 1.0, "retransmitted": 3, "timeouts": 0,
    }  # fmt: skip
    return Row.model_validate({"policy": policy, "seed": seed, "slo_attainment": attained, **fields, **changed})


def cells(text: str) -> list[dict[str, str]]:
    heading, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return [dict(zip(heading, line, strict=True)) for line in lines]


def test_policies_are_compared_cell_by_cell_where_fair_sharing_attains_30_to_60_per_cent() -> None:
    fair = [row("fifo", 1, 0.3), row("fifo", 2, 0.6, ttft_mean_s=0.2), row("fifo", 3, 0.61), row("fifo", 4, 0.29)]
    mine = [row("mfs", seed, 0.7, ttft_mean_s=0.15, retransmitted=9, timeouts=2) for seed in (1, 2, 3, 4)]
    base, found = cells(study.markdown([*fair, *mine]))
    assert (base["policy"], base["cells"], base["in time, %"]) == ("`fifo`", "2", "45")
    assert base["ahead of fifo, points"] == ""
    assert (found["cells"], found["in time, %"], found["sent again"], found["timeouts"]) == ("2", "70", "9", "2")
    # +40 and +10: Student's t of one degree of freedom times 15.
    assert found["ahead of fifo, points"] == "+25.0 ± 190.6"
    assert (found["TTFT mean, ms"], found["mean / fifo"], found["p99 / fifo"]) == ("150", "0.50", "1.00")


def test_clusters_and_rates_of_links_have_lines_of_their_own() -> None:
    rows = [row("fifo", 1, 0.4), row("fifo", 1, 0.5, rate_bps=100_000_000), row("fifo", 1, 0.5, cluster="incast")]
    found = [(line["cluster"], line["links, Mb/s"], line["in time, %"]) for line in cells(study.markdown(rows))]
    assert found == [("testbed", "20", "40"), ("testbed", "100", "50"), ("incast", "20", "50")]


def test_only_cells_in_the_middle_are_played_and_a_rerun_plays_none_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text('extends = "static-reuse"\nname = "mine"\n')
    # With so few requests any attainment is possible; all of them are the middle here.
    monkeypatch.setattr(study, "MIDDLE", (0.0, 1.0))
    words = ["--out", str(tmp_path), "--policy", str(policy), "--seeds", "3-4", "--requests", "6", "--jobs", "1"]
    words += ["--request-rate", "20"]
    first = CliRunner().invoke(study.tcp_policies, words, catch_exceptions=False)
    stored = read_rows(tmp_path / FILE, Row)
    assert [(one.policy, one.seed) for one in stored] == [("fifo", 3), ("fifo", 4), ("mine", 3), ("mine", 4)]
    monkeypatch.setattr(study, "simulate", lambda live: pytest.fail(f"played again: {live}"))
    again = CliRunner().invoke(study.tcp_policies, words, catch_exceptions=False)
    assert again.stdout == first.stdout
    monkeypatch.setattr(study, "MIDDLE", (2.0, 3.0))
    with pytest.raises(EvaluationError, match="choose other --request-rate or --seeds"):
        CliRunner().invoke(study.tcp_policies, words, catch_exceptions=False)


def test_rows_of_other_runs_are_not_extended(tmp_path: Path) -> None:
    RowStore(tmp_path / FILE, Row, ORIGIN).append(row("fifo", 1, 0.4))
    with pytest.raises(EvaluationError, match="choose another folder with --out"):
        CliRunner().invoke(study.tcp_policies, ["--out", str(tmp_path)], catch_exceptions=False)
