"""The committed artifacts match the sources, and the command that compiles them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mfs_ctrl.cli import mfs
from p4src import artifact, build


@pytest.mark.parametrize("name", artifact.FOLDERS)
def test_the_committed_artifacts_were_compiled_from_the_committed_sources(name: str) -> None:
    assert artifact.stale_sources(name) == [], "run `mfs p4 build` where p4c is installed, and commit p4src/build"


def test_every_source_belongs_to_an_artifact() -> None:
    sources = {path.relative_to(artifact.ROOT).as_posix() for path in artifact.ROOT.rglob("*.p4")}
    assert sources == {path for name in artifact.FOLDERS for path in artifact.source_hashes(name)}


def test_a_stale_artifact_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "p4src"
    shutil.copytree(artifact.ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    with (root / "shared" / "rmlq.p4").open("a") as source:
        source.write("// changed\n")
    monkeypatch.setattr(artifact, "ROOT", root)
    monkeypatch.setattr(artifact, "BUILD", root / "build")
    with pytest.raises(artifact.ArtifactError, match=r"older than shared/rmlq\.p4; run `mfs p4 build`"):
        artifact.load()


def test_a_missing_artifact_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "BUILD", tmp_path)
    with pytest.raises(artifact.ArtifactError, match=r"mfs_v1model\.json"):
        artifact.load()


def test_the_log2_rows_in_the_sources_are_those_of_the_generator() -> None:
    assert (artifact.ROOT / "shared" / "log2_entries.p4").read_text() == build.log2_entries()


def test_without_a_compiler_the_command_says_where_to_get_one() -> None:
    done = CliRunner(env={"PATH": ""}).invoke(mfs, ["p4", "build"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: neither p4c-bm2-ss nor p4c-barefoot is on the PATH; docs/guide/deploy.md")


def test_the_module_has_its_own_usage_text() -> None:
    command = [sys.executable, "-m", "p4src.build", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "Compile the P4 program." in done.stdout


def test_a_compiler_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / build.V1MODEL_COMPILER
    compiler.write_text("#!/bin/sh\nexit 3\n")
    compiler.chmod(0o755)
    root = tmp_path / "p4src"
    shutil.copytree(artifact.ROOT, root, ignore=shutil.ignore_patterns("__pycache__", "mfs_tofino*"))
    for name, path in {"ROOT": root, "BUILD": root / "build", "MANIFEST": root / "build" / "manifest.json"}.items():
        monkeypatch.setattr(build, name, path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CompilerError, match=r"p4c-bm2-ss failed with exit status 3; see its output"):
        build.compile_programs()


@pytest.mark.parametrize("program", build.PROGRAMS, ids=lambda program: program.name)
def test_compiling_again_gives_the_committed_artifacts(tmp_path: Path, program: build.Program) -> None:
    if shutil.which(program.compiler) is None:
        pytest.skip(f"{program.compiler} is not installed")
    shutil.copytree(artifact.ROOT, tmp_path / "p4src", ignore=shutil.ignore_patterns("__pycache__", "mfs_tofino*"))
    program.make(program.name, tmp_path / "p4src/build")
    made = sorted(path for path in (tmp_path / "p4src/build").glob(f"{program.name}.*") if path.is_file())
    assert [path.name for path in made] == sorted(path.name for path in artifact.BUILD.glob(f"{program.name}.*"))
    for path in made:
        assert path.read_bytes() == (artifact.BUILD / path.name).read_bytes(), path.name
    recorded = artifact.manifest_entry(program.name)["compiler"]
    assert recorded == {program.compiler: build.version(program.compiler)}
