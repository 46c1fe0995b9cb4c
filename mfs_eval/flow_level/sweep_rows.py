"""``sweep.csv``: a row per point of a grid."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from mfs_eval.flow_level.experiment import FlowRun
from mfs_eval.results.csv_rows import CsvRows


class Row(FlowRun):
    """One point. Times in seconds, shares from 0 to 1; ``scenario`` is the case, ``request_rate`` of all GPUs."""

    servers: int
    requests_per_run: int
    """With those of the warm-up, which do not count."""
    oversubscription: int
    """Of edge switches; 1 is none."""
    rate_per_gpu: float
    """Requests per second and GPU."""
    slo_factor: float
    """Objectives are the low-load TTFT times this."""
    layout: str
    """Of the units on the fabric: packed or spread."""
    tenants: str
    """How the two tenants differ (:mod:`.tenants`); the next columns are what became of the first and the second."""
    attainment_first: float
    attainment_second: float
    progress_first: float
    """Mean of low-load TTFT over TTFT, 0 to 1."""
    progress_second: float
    ttft_p99_first_s: float
    ttft_p99_second_s: float

    @property
    def key(self) -> Hashable:
        """Which point it is."""
        return (
            self.scenario,
            self.servers,
            self.requests_per_run,
            self.oversubscription,
            self.slo_factor,
            self.layout,
            self.tenants,
            self.rate_per_gpu,
            self.variant,
            self.seed,
        )


_FIRST = (
    "scenario", "servers", "requests_per_run", "oversubscription", "slo_factor", "layout", "tenants", "rate_per_gpu",
    "variant", "seed",
)  # fmt: skip
COLUMNS = (*_FIRST, *(name for name in Row.model_fields if name not in _FIRST))


def rows_at(path: Path) -> CsvRows[Row]:
    """The file at ``path``, which need not be there.

    Raises:
        EvaluationError: it is another file.
        OSError: it cannot be read or written.
    """
    return CsvRows(path, Row, COLUMNS)
