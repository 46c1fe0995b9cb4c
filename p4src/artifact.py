"""The compiled artifacts of the P4 program, and whether they still belong to their sources."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent
BUILD = ROOT / "build"
MANIFEST = BUILD / "manifest.json"


class ArtifactError(Exception):
    """A compiled artifact is missing, unreadable or stale; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled program: the target's configuration and the P4Info text that describes it to a controller."""

    name: str
    config: bytes
    p4info: str


def source_hashes() -> dict[str, str]:
    """SHA-256 of every P4 source, by path relative to ``p4src``."""
    sources = sorted(path for path in ROOT.rglob("*.p4") if BUILD not in path.parents)
    return {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}


def stale_sources() -> list[str]:
    """Sources that were changed, added or removed since the artifacts were compiled.

    Raises:
        ArtifactError: there is no manifest to compare with.
    """
    recorded = _manifest()["sources"]
    present = source_hashes()
    return sorted(name for name in recorded.keys() | present.keys() if recorded.get(name) != present.get(name))


def load(name: str = "mfs_v1model") -> Artifact:
    """The committed artifact ``name``.

    Raises:
        ArtifactError: it is not there or does not belong to the sources beside it.
    """
    try:
        artifact = Artifact(
            name, (BUILD / f"{name}.json").read_bytes(), (BUILD / f"{name}.p4info.txtpb").read_text("utf-8")
        )
    except OSError as error:
        raise ArtifactError(f"no compiled program: {error}; run `make p4` where p4c is installed") from None
    if stale := stale_sources():
        raise ArtifactError(f"p4src/build is older than {', '.join(stale)}; run `make p4` where p4c is installed")
    return artifact


def from_files(device_config: Path, p4info: Path) -> Artifact:
    """A program for another target, such as what ``mfs tofino pack`` and the compiler made.

    Raises:
        ArtifactError: a file cannot be read.
    """
    try:
        return Artifact(device_config.stem, device_config.read_bytes(), p4info.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the program cannot be read: {error}") from None


def _manifest() -> dict[str, dict[str, str]]:
    try:
        manifest: dict[str, dict[str, str]] = json.loads(MANIFEST.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{MANIFEST}: {error}; run `make p4` where p4c is installed") from None
    return manifest
