"""The groups of commands: every study and benchmark is reached, and described in a line."""

from __future__ import annotations

import signal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mfs_ctrl.cli import INTERRUPTED, Commands, mfs
from mfs_eval.cli import BENCHMARKS, STUDIES, ablate, bench, demo, study
from mfs_eval.flow_level.cli import sweep
from mfs_eval.setup.run_settings import ORDERS
from mfs_eval.setup.scenario import LOADS, WINDOW_LOADS
from mfs_eval.setup.windows import PROMPTS
from mfs_eval.studies.engines import FLOWS, PACKETS
from tests.support.cli import started
from tests.support.controller import eventually


@pytest.mark.parametrize(("group", "commands"), [("study", STUDIES), ("bench", BENCHMARKS)])
def test_a_group_lists_each_command_with_a_complete_sentence(group: str, commands: dict[str, str]) -> None:
    result = CliRunner().invoke(mfs, [group, "--help"])
    assert result.exit_code == 0, result.output
    listed = result.output.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize(
    "command", [*(("study", name) for name in STUDIES), *(("bench", name) for name in BENCHMARKS)], ids=" ".join
)
def test_every_option_is_explained(command: tuple[str, str]) -> None:
    group = {"study": study, "bench": bench}[command[0]]
    found = group.get_command(click.Context(group), command[1])
    assert found is not None
    assert found.help
    assert [one.name for one in found.params if isinstance(one, click.Option) and not one.help] == []


def test_choices_are_those_of_the_code() -> None:
    choices = {
        option.name: tuple(option.type.choices)
        for command in (demo, ablate)
        for option in command.params
        if isinstance(option.type, click.Choice)
    }
    loads = sorted({*LOADS, *WINDOW_LOADS}, reverse=True)
    assert choices == {
        "order": ORDERS,
        "loads": tuple(map(str, loads)),
        "prompts": tuple(PROMPTS),
        "engine": (PACKETS, FLOWS),
        "hand_over": ("early", "late"),
    }


def test_numbers_that_are_none_are_refused() -> None:
    done = CliRunner().invoke(sweep, ["--slo-factor", "nan"])
    assert done.exit_code == 2
    assert "nan is not a number" in done.output


def test_ctrl_c_while_a_command_is_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted_import.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    done = CliRunner().invoke(Commands("mfs", table={"slow": "interrupted_import:slow"}), ["slow"])
    assert (done.exit_code, done.output) == (INTERRUPTED, "interrupted\n")


def test_ctrl_c_ends_a_command_in_one_line(tmp_path: Path) -> None:
    with started("ablate", "--out", str(tmp_path), "--scenario", "testbed", "--jobs", "2") as process:
        eventually((tmp_path / "ablation.csv").exists)
        status, _, errors = process.end(signal.SIGINT)
    assert (status, errors) == (INTERRUPTED, "interrupted\n")
