"""The compiled artifacts of the P4 program, and the check that they match their sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from host_agent.protocol.errors import MfsError

ROOT = Path(__file__).parent
BUILD = ROOT / "build"
MANIFEST = BUILD / "manifest.json"

V1MODEL, TOFINO, TOFINO_2 = "mfs_v1model", "mfs_tofino", "mfs_tofino2"
FOLDERS: Mapping[str, tuple[str, ...]] = {
    V1MODEL: ("shared", "v1model"),
    TOFINO: ("shared", "tna"),
    TOFINO_2: ("shared", "tna"),
}
"""The folders of the sources of each artifact."""


class ArtifactError(MfsError):
    """A compiled artifact is missing, unreadable or stale; the message names it and the way out."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled program: the target's device config and the P4Info (protobuf text) for the controller."""

    name: str
    config: bytes
    p4info: str


def source_hashes(name: str = V1MODEL) -> dict[str, str]:
    """Return the SHA-256 of each P4 source of the artifact ``name``, by path relative to ``p4src``."""
    sources = sorted(path for folder in FOLDERS[name] for path in (ROOT / folder).rglob("*.p4"))
    return {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}


def stale_sources(name: str = V1MODEL) -> list[str]:
    """Return the sources that were changed, added or removed after the artifact ``name`` was compiled.

    Raises:
        ArtifactError: the manifest is missing or lacks the artifact.
    """
    recorded, present = manifest_entry(name)["sources"], source_hashes(name)
    return sorted(path for path in recorded.keys() | present.keys() if recorded.get(path) != present.get(path))


def load(name: str = V1MODEL) -> Artifact:
    """Load the committed artifact ``name``; only that for v1model is committed with its device config.

    Raises:
        ArtifactError: the artifact is missing or does not match the sources.
    """
    try:
        artifact = Artifact(name, (BUILD / f"{name}.json").read_bytes(), p4info(name))
    except OSError as error:
        raise ArtifactError(
            f"cannot read the compiled program: {error}; run `mfs p4 build` where p4c is installed"
        ) from None
    if stale := stale_sources(name):
        raise ArtifactError(f"p4src/build is older than {', '.join(stale)}; run `mfs p4 build` where p4c is installed")
    return artifact


def p4info(name: str = V1MODEL) -> str:
    """Return the committed P4Info of the artifact ``name``, as protobuf text.

    Raises:
        OSError: it cannot be read.
    """
    return (BUILD / f"{name}.p4info.txtpb").read_text("utf-8")


def from_files(device_config: Path, p4info: Path) -> Artifact:
    """Load a program from its files, such as a device config made by ``mfs tofino pack``.

    Raises:
        ArtifactError: a file cannot be read.
    """
    try:
        return Artifact(device_config.stem, device_config.read_bytes(), p4info.read_text("utf-8"))
    except OSError as error:
        raise ArtifactError(f"cannot read the program: {error}") from None
    except UnicodeDecodeError:
        raise ArtifactError(f"{p4info} is no text; it must be P4Info as p4c writes it (--p4runtime-files)") from None


def manifest_entry(name: str) -> dict[str, dict[str, str]]:
    """Return the manifest's entry for the artifact ``name``: ``compiler`` (name and version) and ``sources`` (hashes).

    Raises:
        ArtifactError: the manifest cannot be read or lacks the artifact.
    """
    try:
        entry: dict[str, dict[str, str]] = json.loads(MANIFEST.read_text("utf-8"))[name]
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{MANIFEST}: {error!r}; run `mfs p4 build` where p4c is installed") from None
    return entry
