"""Covers the STF runner: scripts of committed programs pass, any difference fails, errors name the line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from soft_switch.stf.command import stf
from soft_switch.stf.samples import COMPILER, run_pair
from soft_switch.stf.script import Expect, ScriptError, parse_script
from tests.support.cli import COMMAND
from tests.support.p4_programs import PROGRAMS, program_text

SCRIPTS = sorted((Path(__file__).parents[1] / "p4").glob("*.stf"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_passes_on_its_program(script: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    result = CliRunner().invoke(stf, [str(PROGRAMS / f"{script.stem}.json"), str(script), "--json", str(rows)])
    assert result.exit_code == 0, result.output
    assert json.loads(rows.read_text()) == [{"name": script.stem, "outcome": "pass", "reason": ""}]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_expectation_counts(script: Path) -> None:
    lines = script.read_text().splitlines()
    compiled = program_text(script.stem)
    for number, line in enumerate(lines):
        if not line.startswith("expect"):
            continue
        position = max(i for i, digit in enumerate(line) if digit in "0123456789abcdef")
        digit = "5" if line[position] != "5" else "6"
        wrong = [f"{line[:position]}{digit}{line[position + 1 :]}"]
        for changed in (wrong, [line, line]):
            outcome = run_pair("x", compiled, "\n".join([*lines[:number], *changed, *lines[number + 1 :]]))
            assert (outcome.outcome, bool(outcome.reason)) == ("fail", True), line


@pytest.mark.parametrize(
    ("pattern", "data", "holds"),
    [
        ("0011", "0011", True),
        ("0011", "001122", True),
        ("0011$", "001122", False),
        ("0011$", "0011", True),
        ("00*1", "0021", True),
        ("00*1", "0022", False),
        ("0011", "00", False),
        (None, "00", True),
    ],
)
def test_expected_data_may_be_a_pattern(pattern: str | None, data: str, holds: bool) -> None:
    assert (Expect(1, pattern).mismatch(bytes.fromhex(data)) is None) is holds


@pytest.mark.parametrize(
    "line",
    ["frobnicate 1", "packet 0 0", "packet x 00", "expect 1 0g", "add t k:1", "setdefault t", "check_counter x"],
)
def test_an_invalid_statement_is_named_with_its_line(line: str) -> None:
    with pytest.raises(ScriptError, match=rf"line 3: .*{re.escape(line)}"):
        parse_script(f"# a comment\n\n{line}  # more\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("add nowhere k:1 a()", "table 'nowhere' does not exist"),
        ("add _table k:1 a()", "table '_table' is ambiguous"),
        ("add lpm_table k:1 NoAction()", "no key field 'k'"),
        ("setdefault lpm_table nothing()", "action of TestIngress.lpm_table 'nothing' does not exist"),
        ("setdefault lpm_table answer(x:1)", "takes"),
        ("counter_read nothing 0", "counter 'nothing' does not exist"),
        ("mirroring_get 3", "no mirroring session 3"),
    ],
)
def test_a_statement_that_does_not_fit_the_program_is_named(line: str, reason: str) -> None:
    outcome = run_pair("x", program_text("matching"), line)
    assert outcome.outcome == "unsupported"
    assert "line 1" in outcome.reason
    assert reason in outcome.reason


def test_commands_access_registers_and_counters() -> None:
    script = "register_write TestIngress.cells 3 55\npacket 0 00 03 00000042\nexpect 2 00000037 00000042"
    assert run_pair("x", program_text("state"), script).outcome == "pass"
    counted = "packet 0 02 01 00000000\nexpect 2\ncheck_counter tally(1) packets == {}"
    assert run_pair("x", program_text("state"), counted.format(1)).outcome == "pass"
    assert "has 1 packets" in run_pair("x", program_text("state"), counted.format(2)).reason


def test_usage_errors_have_no_traceback(tmp_path: Path) -> None:
    for arguments in ([], ["--samples", str(tmp_path)], ["--samples", str(tmp_path), "--cache", str(tmp_path)]):
        result = CliRunner().invoke(stf, arguments)
        assert result.exit_code not in (0, 1) or "Error" in result.output
        assert "Traceback" not in result.output
    result = CliRunner().invoke(stf, ["--samples", str(tmp_path), "--cache", str(tmp_path), "--compiler", "no-p4c"])
    assert "no-p4c is not on the PATH" in result.output


@pytest.mark.parametrize("command", [[*COMMAND, "stf"], [sys.executable, "-m", "soft_switch.stf"]])
def test_the_command_runs_with_and_without_mfs(command: list[str]) -> None:
    script = SCRIPTS[0]
    arguments = [str(PROGRAMS / f"{script.stem}.json"), str(script), "--pipeline", "python"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 pass, 0 fail, 0 unsupported")


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"{COMPILER} is not installed")
def test_a_folder_of_samples_is_compiled_once(tmp_path: Path) -> None:
    samples, cache, rows = tmp_path / "samples", tmp_path / "cache", tmp_path / "rows.json"
    samples.mkdir()
    for suffix in ("p4", "stf"):
        shutil.copy(SCRIPTS[0].with_suffix(f".{suffix}"), samples)
    (samples / "wrong.p4").write_text("#include <v1model.p4>\nnonsense")
    (samples / "wrong.stf").write_text("packet 0 00\n")
    arguments = ["--samples", str(samples), "--cache", str(cache), "--json", str(rows)]
    for _ in range(2):
        result = CliRunner().invoke(stf, arguments)
        assert result.exit_code == 1
        assert [row["outcome"] for row in json.loads(rows.read_text())] == ["pass", "unsupported"]
    assert len(list(cache.glob("*.json"))) == 1
