"""What holds for every command: completion, the environment, output that cannot be written, JSON."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from mfs_eval.serving.trace import SAMPLE_PATH
from tests.support.cli import COMMAND, finished, one_error
from tests.support.controller import eventually
from topologies.processes import free_address, free_port, listening

SYNTAX = {"bash": "-n", "zsh": "-n", "fish": "--no-execute"}


@pytest.mark.parametrize("shell", SYNTAX)
def test_a_shell_takes_its_completion_script(shell: str) -> None:
    script = finished("completion", shell).stdout
    assert "_MFS_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, SYNTAX[shell]], input=script, text=True, check=True)


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    program = tmp_path / "mfs"
    program.write_text(f"#!/bin/sh\nexec {COMMAND[0]} -c '{COMMAND[2]}' \"$@\"\n", "utf-8")
    program.chmod(0o755)
    script = f"""{finished("completion", "bash").stdout}
        for words in "mfs to" "mfs status --js"; do
            COMP_WORDS=($words); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
            _mfs_completion mfs; echo "${{COMPREPLY[@]}}"
        done"""
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["top topology tofino", "--json"]


def test_an_option_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MFS_ADDRESS", "127.0.0.1:1")
    assert "at 127.0.0.1:1 " in one_error(finished("switch", "entries"))
    assert "at 127.0.0.1:2 " in one_error(finished("switch", "entries", "--address", "127.0.0.1:2"))


def test_output_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [*COMMAND, "topology", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


def test_a_locale_without_a_character_shows_another() -> None:
    # The error names what was asked for.
    environment = os.environ | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    words = [*COMMAND, "trace", "stats", "± .jsonl"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


def test_tables_are_also_printed_for_programs() -> None:
    topologies = json.loads(finished("topology", "list", "--json").stdout)
    assert {each["name"] for each in topologies} == {"tor", "leaf-spine"}
    assert json.loads(finished("trace", "stats", str(SAMPLE_PATH), "--json").stdout)["requests"] > 100


@pytest.mark.parametrize("broken", ["full disk", "closed pipe"])
def test_a_log_that_cannot_be_written_stops_neither_switch_nor_controller(broken: str) -> None:
    if broken == "full disk":
        log = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, log = os.pipe()
        os.close(reader)
    address, port = free_address(), free_port()
    commands = (
        ("switch", "--address", address),
        ("ctrl", "--address", address, "--servers", "2", "--nics", "1", "--policy-listen", str(port)),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, log)

        def started(command: tuple[str, ...]) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([*COMMAND, *command], stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def is_ready() -> bool:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return True
            return False

        processes = [started(commands[0])]
        eventually(lambda: listening(address))
        processes.append(started(commands[1]))
        eventually(is_ready)
        for process in reversed(processes):
            process.terminate()
            assert process.wait() == 0
