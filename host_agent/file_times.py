"""When files were changed, for what reads them again then."""

from __future__ import annotations

import contextlib
from pathlib import Path


def changed(*paths: Path | None) -> tuple[int, ...]:
    """Return when each file was changed last, in nanoseconds since 1970; 0 for one that is missing, or None."""
    found = [0] * len(paths)
    for number, path in enumerate(paths):
        if path is not None:
            with contextlib.suppress(OSError):
                found[number] = path.stat().st_mtime_ns
    return tuple(found)
