"""What a long command would do, said before it does it: ``--dry-run``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

HOUR_S, MINUTE_S = 3600, 60


def seconds_of(call: Callable[[], object]) -> float:
    """Return how long ``call`` takes, in seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def on_all_cores(runs: int, run_s: float, jobs: int | None) -> float:
    """Return the seconds that runs of ``run_s`` seconds take in ``jobs`` processes; None is one per core."""
    processes = min(jobs or os.cpu_count() or 1, max(runs, 1))
    return -(-runs // processes) * run_s


def duration_text(seconds: float) -> str:
    """Return a duration as people say it: ``40 s``, ``12 min``, ``3 h 10 min``."""
    if seconds < 2 * MINUTE_S:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / MINUTE_S)
    return f"{minutes} min" if minutes < 2 * 60 else f"{minutes // 60} h {minutes % 60} min"


def plan_text(runs: int, finished: int, seconds: float) -> str:
    """Return what would be run, of ``runs`` of which ``finished`` are done, and about how long that takes."""
    left = runs - finished
    done = f", {finished:,} of them finished" if finished else ""
    rest = f"the others take about {duration_text(seconds)}" if finished else f"about {duration_text(seconds)}"
    return f"{runs:,} runs{done}" + (f"; {rest}" if left else "")
