"""Every file in examples/ runs as its docstring says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def output_of(example: str) -> str:
    """Standard output of an example that runs in a Python process of its own."""
    finished = subprocess.run(
        [sys.executable, f"examples/{example}"], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_experiment_compares_two_policies() -> None:
    shares = {
        name: int(share) for name, share in re.findall(r"^(\w+) +in time (\d+)%", output_of("experiment.py"), re.M)
    }
    assert shares.keys() == {"mfs", "fifo"}
    assert shares["mfs"] > shares["fifo"]
