"""The benchmark of a tick of the controller."""

from __future__ import annotations

import re

from click.testing import CliRunner

from mfs_eval.bench.tuned_tick import measure, tuned_tick


def test_every_size_gets_a_line() -> None:
    options = ["--ports", "2", "--ports", "3", "--ticks", "2", "--rounds", "1"]
    done = CliRunner().invoke(tuned_tick, options, catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert [re.sub(r"[\d.]+ \((python|upb|cpp)\)", "V", line)[:20] for line in lines] == [
        "protobuf V, 2 ports:",
        "protobuf V, 3 ports:",
    ]


def test_ticks_of_the_benchmark_are_tuned() -> None:
    assert measure(ports=2, ticks=10, seed=1)["updates"] > 0


def test_an_environment_without_the_project_is_an_error() -> None:
    done = CliRunner().invoke(tuned_tick, ["--ports", "2", "--ticks", "1", "--rounds", "1", "--python", "/bin/false"])
    assert done.exit_code == 1
    assert done.output == "Error: /bin/false: exit status 1\n"
