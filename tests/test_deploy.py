"""The systemd units: accepted by systemd, hardened, and with all that the processes need. The Containerfile."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from mfs_ctrl.cli import mfs
from tests.support.agent import Agent, linked
from tests.support.cli import COMMAND
from tests.support.realtime import real_kernel
from topologies.processes import free_address

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "systemd"
CONTAINERFILE = ROOT / "deploy" / "container" / "Containerfile"
EXPOSURE = {"mfs-agent@.service": 55, "mfs-ctrl.service": 20, "mfs-switch.service": 40}
"""The highest exposure on systemd's scale from 0 (best) to 100. Agents have CAP_SYS_ADMIN, to load programs."""
UNITS = sorted(FOLDER.glob("*.service"))


def option(unit: Path, key: str) -> str:
    """The value of a key of ``[Service]`` that stands there once."""
    [value] = re.findall(rf"^{key}=(.*)$", unit.read_text("utf-8"), re.M)
    return str(value)


def tool(name: str, package: str = "Debian's systemd") -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} ({package}) is not installed")
    return found


def test_each_part_has_a_unit() -> None:
    assert {unit.name for unit in UNITS} == EXPOSURE.keys()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_it(unit: Path, tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    # It must find the program, and an instance for the template.
    text = unit.read_text("utf-8").replace("/opt/mfs/bin/mfs", shutil.which("true") or "/bin/true")
    copy = tmp_path / unit.name.replace("@", "@eth0")
    copy.write_text(text, "utf-8")
    done = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if copy.name in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_it_is_hardened(unit: Path) -> None:
    analyze = tool("systemd-analyze")
    words = [analyze, "security", "--offline=true", f"--threshold={EXPOSURE[unit.name]}", "--no-pager", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "Unknown" in done.stderr or "unrecognized" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge units offline")
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_its_command_and_options_exist(unit: Path) -> None:
    words = shlex.split(option(unit, "ExecStart"))[1:]
    command: click.Command = mfs
    context = click.Context(mfs)
    while isinstance(command, click.Group) and words and not words[0].startswith(("-", "$")):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_users_and_folders_are_accepted_by_systemd(tmp_path: Path) -> None:
    sysusers = tool("systemd-sysusers")
    done = subprocess.run(
        [sysusers, "--dry-run", f"--root={tmp_path}", FOLDER / "mfs.sysusers"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Would" in done.stdout + done.stderr
    lines = [line.split() for line in (FOLDER / "mfs.tmpfiles").read_text().splitlines() if line[:1] not in ("#", "")]
    assert {words[1] for words in lines} == {"/run/mfs", "/etc/mfs"}
    assert all(re.fullmatch(r"0[0-7]{3}", words[2]) for words in lines)


def bounding(unit: Path) -> list[str]:
    """The command that leaves a process the capabilities of the unit."""
    names = [name.removeprefix("CAP_").lower() for name in option(unit, "CapabilityBoundingSet").split()]
    return [tool("setpriv"), "--bounding-set=" + ",".join(["-all", *(f"+{name}" for name in names)])]


@pytest.mark.slow
def test_the_agents_capabilities_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = bounding(FOLDER / "mfs-agent@.service")
    with linked() as (host, _):
        monkeypatch.setattr("tests.support.agent.COMMAND", (*words, *COMMAND))
        for carrier in ("option", "shim"):
            agent = Agent(host, tmp_path, "--group", "daemon", carrier=carrier)
            assert "attached" in agent.said
            assert "detached" in agent.end()
            agent.detach()


@pytest.mark.slow
@real_kernel
def test_the_switchs_capabilities_suffice() -> None:
    words = bounding(FOLDER / "mfs-switch.service")
    process = subprocess.Popen(
        ["unshare", "-n", *words, *COMMAND, "switch", "--address", free_address(), "-i", "1@lo"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = [process.stderr.readline(), process.stderr.readline()]
    process.terminate()
    said.append(process.stderr.read())
    assert process.wait() == 0, said
    assert "ports: 1 on lo" in "".join(said)


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile: name and arguments."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text("utf-8"), flags=re.M).replace("\\\n", " ")
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in text.splitlines() if line]


def test_the_containerfile_has_no_findings_by_hadolint() -> None:
    # DL3008: packages without a version; the base image's release has one of each.
    words = [tool("hadolint", "github.com/hadolint"), "--ignore", "DL3008", CONTAINERFILE]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_containerfile_is_well_formed() -> None:
    found = instructions()
    assert {name for name, _ in found} <= {"FROM", "RUN", "COPY", "USER", "ENTRYPOINT", "CMD"}
    for name, rest in found:
        if name == "FROM":
            assert re.search(r":\d+\.\d+", rest), "a base image without a version changes by itself"
        if name == "RUN":
            assert subprocess.run(["sh", "-n", "-c", rest], check=False).returncode == 0, rest
        if name in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(rest), list)
        for word in re.findall(r"/src/(\S+)", rest) if name == "RUN" else []:
            assert (ROOT / word).exists(), word
    assert [rest for name, rest in found if name == "USER"] == ["mfs"]
