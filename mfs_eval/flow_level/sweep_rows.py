"""``sweep.csv``: one row per point of a sweep."""

from __future__ import annotations

from typing import ClassVar

from mfs_eval.flow_level.experiment import FlowRun
from mfs_eval.results.rows import StoredRow

FILE = "sweep.csv"


class Row(FlowRun, StoredRow):
    """One point. Times in seconds, shares from 0 to 1; ``scenario`` is the case, ``request_rate`` that of all GPUs."""

    LEADING: ClassVar[tuple[str, ...]] = (
        "scenario", "servers", "requests_per_run", "oversubscription", "slo_factor", "layout", "tenants",
        "rate_per_gpu", "variant", "seed",
    )  # fmt: skip
    KEY: ClassVar[tuple[str, ...]] = LEADING

    servers: int
    requests_per_run: int
    """Including those of the warm-up, which do not count."""
    oversubscription: int
    """Of the edge switches; 1 is none."""
    rate_per_gpu: float
    """Requests per second and GPU."""
    slo_factor: float
    """Objectives are the low-load TTFT times this."""
    layout: str
    """Placement of the units on the fabric: packed or spread."""
    tenants: str
    """Difference between the two tenants (:mod:`.tenants`); the next columns describe the first and the second."""
    attainment_first: float
    attainment_second: float
    progress_first: float
    """Mean of low-load TTFT over TTFT, 0 to 1."""
    progress_second: float
    ttft_p99_first_s: float
    ttft_p99_second_s: float
