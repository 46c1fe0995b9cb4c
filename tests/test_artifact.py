"""The committed artifacts belong to the sources beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from p4src import artifact, build


def test_the_committed_artifacts_were_compiled_from_the_committed_sources() -> None:
    assert artifact.stale_sources() == [], "run `make p4` where p4c is installed, and commit p4src/build"


def test_a_stale_artifact_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "p4src"
    shutil.copytree(artifact.ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    with (root / "shared" / "rmlq.p4").open("a") as source:
        source.write("// changed\n")
    monkeypatch.setattr(artifact, "ROOT", root)
    monkeypatch.setattr(artifact, "BUILD", root / "build")
    with pytest.raises(artifact.ArtifactError, match=r"older than shared/rmlq\.p4; run `make p4`"):
        artifact.load()


def test_a_missing_artifact_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "BUILD", tmp_path)
    with pytest.raises(artifact.ArtifactError, match=r"mfs_v1model\.json"):
        artifact.load()


def test_the_log2_rows_in_the_sources_are_those_of_the_generator() -> None:
    assert (artifact.ROOT / "shared" / "log2_entries.p4").read_text() == build.log2_entries()


@pytest.mark.skipif(shutil.which(build.COMPILER) is None, reason=f"{build.COMPILER} is not installed")
def test_compiling_again_gives_the_committed_artifacts(tmp_path: Path) -> None:
    shutil.copytree(artifact.ROOT.parent, tmp_path / "tree", ignore=shutil.ignore_patterns(".*", "__pycache__"))
    subprocess.run([sys.executable, "-m", "p4src.build"], check=True, cwd=tmp_path / "tree", capture_output=True)
    for name in ("mfs_v1model.json", "mfs_v1model.p4info.txtpb", "manifest.json"):
        assert (tmp_path / "tree/p4src/build" / name).read_bytes() == (artifact.BUILD / name).read_bytes(), name
