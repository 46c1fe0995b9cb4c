"""Schema of ``results.json``; ``docs/studies/results.md`` describes it for readers.

Stability: within a minor version fields are only added, with a default, so that older files stay readable. Fields are
renamed or removed, or change their meaning, only with a new minor version and an entry in the changelog.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mfs_eval.errors import EvaluationError
from mfs_eval.results.output import write_atomically

UNKNOWN = ""
"""Provenance of results that do not record it."""


class ResultsError(EvaluationError):
    """A results file cannot be read; the message names the file and the field."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Provenance(_Model):
    """Origin of results. Digests are the first 16 hexadecimal digits of a SHA-256."""

    trace_digest: str = UNKNOWN
    """Of the trace file."""
    program_digest: str = UNKNOWN
    """Of the compiled P4 program; ``none`` for the flow-level engine, which runs none."""
    version: str = UNKNOWN
    """Of this package."""


class Occupancy(_Model):
    """Bytes waiting in the switch at one time, by level (index 0 the scavenger), over all ports."""

    time_s: float
    bytes_by_level: list[int]


class TunerPoint(_Model):
    """Settings that the controller had in force at one time, and what it had seen since the previous one."""

    time_s: float
    mlu_threshold: float
    """Q_1 as an MLU (minimal link utilisation)."""
    tight_slack_s: float
    """Slack to the robust effective deadline (RED) up to which an early-stage flow counts as tight."""
    late_share: float | None
    """Share of last-stage flows that ended late; None if none ended."""
    rho_max: float
    """Largest load of any port by traffic that precedes last-stage flows."""


class StageMeans(_Model):
    """Means over the requests of the parts of their TTFT, in seconds; they add up to its mean."""

    queued_s: float
    """From arrival until the first batch began."""
    reuse_s: float
    """GPUs waited for reused KV."""
    compute_s: float
    collective_s: float
    hand_over_s: float
    """From the end of computing until the last KV byte was at the decode server."""


class Served(_Model):
    """A run and the outcome of its requests: the fields that both engines share."""

    scenario: str
    policy: str
    request_rate: float
    """Requests per second."""
    seed: int
    slo_attainment: float
    """Share of requests whose time to first token (TTFT) is within the objective."""
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    collective_completion_mean_s: float
    """Mean time from the start of a layer's all-to-all to its end."""
    p2d_earliness_mean_s: float
    """Mean time from the arrival of a request's last KV byte to its deadline; late requests count as negative."""
    network_share: float
    """Share of TTFT that requests spent waiting for the network."""


class Measured(Served):
    """A packet-level run: the fields that a report and a table of many runs share."""

    packets: int
    """Packets through the compiled program."""
    packets_lost: int
    """Packets dropped in queues."""
    packets_reordered: int
    """Data packets that arrived after a later one of their flow."""
    reordered_per_million: float
    """``packets_reordered`` per million data packets that arrived; 0 without packets."""
    reordered_within_message: int
    """Data packets, retransmissions excluded, that arrived after a later one of their message."""
    stranded_bytes: int
    """Payload, in scaled bytes, that was in flight at a lower level when its flow was promoted."""
    stranding_delay_mean_s: float
    """Mean time from such a promotion until the last stranded byte is acknowledged; 0 without any."""


class Run(Measured):
    """One scenario under one policy at one request rate with one seed."""

    requests: int
    """Requests that count: those after the warm-up."""
    requests_pruned: int = 0
    """Requests that had been given up when they finished, those of the warm-up included."""
    requests_late_when_computed: int = 0
    """Requests that missed their objective before their computing ended: no order of last-stage flows saves them."""
    ttft_s: list[float]
    """TTFT of each request, in order of arrival."""
    objective_s: list[float] = []
    """Objective of each request, in the same order; empty in results of version 0.2.0 and before."""
    stages: StageMeans | None = None
    """None in results of version 0.2.0 and before, and of runs without requests."""
    promotions: list[int] = []
    """Times that a sender raised a flow's level between two samples of ``occupancy``; as many as there are samples."""
    occupancy: list[Occupancy]
    tuner: list[TunerPoint]


class Results(_Model):
    """All runs of one command, and what they share."""

    settings: dict[str, str | int | float]
    """Settings of the command, for readers."""
    provenance: Provenance = Provenance()
    runs: list[Run]

    def write(self, path: Path) -> None:
        """Write as JSON: the same bytes for the same results. The file is replaced atomically.

        Raises:
            OSError: the file cannot be written.
        """
        write_atomically(path, self.model_dump_json(indent=1) + "\n")


def read(path: Path) -> Results:
    """Read a ``results.json``.

    Raises:
        ResultsError: there is no such file, or it does not follow this schema.
    """
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultsError(f"{path}: {where}: {first['msg']}") from None
