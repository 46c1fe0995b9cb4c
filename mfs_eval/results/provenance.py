"""Provenance of results: digests of the trace and of the compiled program, and the version of this package."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from host_agent.version import installed_version
from mfs_eval.errors import TraceError
from mfs_eval.results.schema import Provenance
from p4src.artifact import Artifact

DIGEST_CHARACTERS = 16
NO_PROGRAM = "none"
"""Program digest of results that no compiled program took part in."""


def provenance(trace: Path, program: Artifact | None) -> Provenance:
    """Return the provenance of runs that replay ``trace`` through ``program``; None for the flow-level engine.

    Raises:
        TraceError: the trace cannot be read.
    """
    try:
        content = trace.read_bytes()
    except OSError as error:
        raise TraceError(f"{trace}: cannot be read ({error.strerror}); give the path of a JSON Lines trace") from None
    return Provenance(
        trace_digest=digest(content),
        program_digest=NO_PROGRAM if program is None else digest(program.config),
        version=installed_version(),
    )


def digest(content: bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()[:DIGEST_CHARACTERS]


def commit() -> str:
    """Return the commit of this source tree, and whether files differ from it; empty where git does not know."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        revision, changed = (
            subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (("rev-parse", "--short=10", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{revision}, with changes" if changed else revision
