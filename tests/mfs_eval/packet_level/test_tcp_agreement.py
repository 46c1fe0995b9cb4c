"""``mfs study tcp-agreement``: its rows, its tolerance, and live rows from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mfs_eval.errors import EvaluationError
from mfs_eval.studies.tcp_agreement import Row, agrees, read, tcp_agreement

COLUMNS = "policy,seed,attainment,ttft_mean_s,ttft_p50_s,ttft_p99_s,timeouts,retransmitted\n"
ROW = Row("mfs", 1, 0.47, 0.7, 0.5, 3.0, 204, 4000)


def test_rows_are_read_and_others_refused(tmp_path: Path) -> None:
    file = tmp_path / "live.csv"
    file.write_text(COLUMNS + "mfs,1,0.47,0.7,0.5,3.0,204,4000\n")
    assert read(file) == [ROW]
    for text in ("policy,seed\nmfs,1\n", COLUMNS + "mfs,1,high,0.7,0.5,3.0,204,4000\n", COLUMNS + "mfs,1\n"):
        file.write_text(text)
        with pytest.raises(EvaluationError, match="its columns must be policy,seed,attainment"):
            read(file)


def test_the_tolerance_is_10_points_and_a_quarter_of_the_mean() -> None:
    assert agrees(replace(ROW, attainment=0.56, ttft_mean_s=0.87), ROW)
    assert not agrees(replace(ROW, attainment=0.58), ROW)
    assert not agrees(replace(ROW, ttft_mean_s=0.88), ROW)


def test_the_study_prints_simulated_beside_live_rows(tmp_path: Path) -> None:
    file = tmp_path / "live.csv"
    file.write_text(COLUMNS + "fifo,1,0.5,0.3,0.3,0.7,0,1000\n")
    arguments = ["--requests", "6", "--seeds", "1", "--policy", "fifo", "--live", str(file)]
    result = CliRunner().invoke(tcp_agreement, arguments)
    assert result.exit_code == 0, result.output
    lines = [line.split(" | ") for line in result.output.splitlines()[2:]]
    assert [line[2] for line in lines] == ["simulation", "live"]
    assert lines[1][3:9] == ["50", "300", "300", "700", "0", "1000"]
