"""What an import loads, in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules_loaded_by(statement: str) -> set[str]:
    """All modules that ``statement`` adds; those that an interpreter starts with do not count."""
    lines = [
        "import json, sys",
        "before = set(sys.modules)",
        statement,
        "print(json.dumps(sorted(set(sys.modules) - before)))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(done.stdout))
