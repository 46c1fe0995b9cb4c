"""The compiled artifacts of the P4 program, and whether they still belong to their sources."""

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
"""The artifacts by name, and the folders that hold the sources of each."""


class ArtifactError(MfsError):
    """A compiled artifact is missing, unreadable or stale; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled program: the target's configuration and the P4Info text that describes it to a controller."""

    name: str
    config: bytes
    p4info: str


def source_hashes(name: str = V1MODEL) -> dict[str, str]:
    """SHA-256 of every P4 source of the artifact ``name``, by path relative to ``p4src``."""
    sources = sorted(path for folder in FOLDERS[name] for path in (ROOT / folder).rglob("*.p4"))
    return {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}


def stale_sources(name: str = V1MODEL) -> list[str]:
    """Sources that were changed, added or removed since the artifact ``name`` was compiled.

    Raises:
        ArtifactError: the manifest is missing, or does not have this artifact.
    """
    recorded, present = manifest_entry(name)["sources"], source_hashes(name)
    return sorted(path for path in recorded.keys() | present.keys() if recorded.get(path) != present.get(path))


def load(name: str = V1MODEL) -> Artifact:
    """The committed artifact ``name``, which must be one that comes with its target's configuration.

    Raises:
        ArtifactError: it is not there or does not belong to the sources beside it.
    """
    try:
        artifact = Artifact(name, (BUILD / f"{name}.json").read_bytes(), p4info(name))
    except OSError as error:
        raise ArtifactError(f"no compiled program: {error}; run `make p4` where p4c is installed") from None
    if stale := stale_sources(name):
        raise ArtifactError(f"p4src/build is older than {', '.join(stale)}; run `make p4` where p4c is installed")
    return artifact


def p4info(name: str = V1MODEL) -> str:
    """The committed P4Info of the artifact ``name``, in protobuf text.

    Raises:
        OSError: it is not there.
    """
    return (BUILD / f"{name}.p4info.txtpb").read_text("utf-8")


def from_files(device_config: Path, p4info: Path) -> Artifact:
    """A program for another target, such as what ``mfs tofino pack`` and the compiler made.

    Raises:
        ArtifactError: a file cannot be read.
    """
    try:
        return Artifact(device_config.stem, device_config.read_bytes(), p4info.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the program cannot be read: {error}") from None


def manifest_entry(name: str) -> dict[str, dict[str, str]]:
    """What the manifest says of the artifact ``name``: ``compiler`` (name and version) and ``sources`` (hashes).

    Raises:
        ArtifactError: it says nothing.
    """
    try:
        entry: dict[str, dict[str, str]] = json.loads(MANIFEST.read_text("utf-8"))[name]
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{MANIFEST}: {error!r}; run `make p4` where p4c is installed") from None
    return entry
