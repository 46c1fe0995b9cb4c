"""What a run leaves behind: ``results.json``. The models here are its schema; ``docs/studies/results.md`` is for
readers.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mfs_eval.errors import EvaluationError


class ResultsError(EvaluationError):
    """A results file cannot be read; the message names it and what is wrong."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Occupancy(_Model):
    """Bytes waiting in the switch at one time, by level (index 0 the scavenger), over all ports."""

    time_s: float
    bytes_by_level: list[int]


class TunerPoint(_Model):
    """What the controller had in force at one time, and what it saw since the time before."""

    time_s: float
    mlu_threshold: float
    """Q_1 as an MLU."""
    tight_slack_s: float
    """Slack to RED up to which an early-stage flow counts as tight."""
    late_share: float | None
    """Share of last-stage flows that ended late, none if none ended."""
    rho_max: float
    """Largest load of any port by traffic that goes before last-stage flows."""


class Served(_Model):
    """What was run, and what became of its requests: the part that both engines have in common."""

    scenario: str
    policy: str
    request_rate: float
    """Requests per second."""
    seed: int
    slo_attainment: float
    """Share of requests whose TTFT is within the objective."""
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
    """A run of packets: the part that a report and a table of many runs have in common."""

    packets: int
    """Packets through the compiled program."""
    packets_lost: int
    """Packets dropped in queues."""
    packets_reordered: int
    """Data packets that came in before an earlier one of their flow."""
    reordered_per_million: float
    """``packets_reordered`` for each million data packets that came in; 0 without packets."""
    reordered_within_message: int
    """Data packets, not sent again, that came in after a later one of their message."""
    stranded_bytes: int
    """Payload, in scaled bytes, that was under way at a lower level when its flow was promoted."""
    stranding_delay_mean_s: float
    """Mean time from such a promotion until the last byte it stranded is acknowledged; 0 without any."""


class Run(Measured):
    """One scenario under one policy at one request rate with one seed."""

    requests: int
    """Requests that count: those after the warm-up."""
    requests_pruned: int = 0
    """Requests that were given up when they finished, those of the warm-up included."""
    requests_late_when_computed: int = 0
    """Requests that missed their objective before computing was over: no order of last-stage flows saves them."""
    ttft_s: list[float]
    """TTFT of each request, in order of arrival."""
    occupancy: list[Occupancy]
    tuner: list[TunerPoint]


class Results(_Model):
    """All runs of one command, and what they have in common."""

    settings: dict[str, str | int | float]
    runs: list[Run]

    def write(self, path: Path) -> None:
        """Write as JSON, the same bytes for the same results."""
        path.write_text(self.model_dump_json(indent=1) + "\n", "utf-8")


def read(path: Path) -> Results:
    """Read a ``results.json``.

    Raises:
        ResultsError: it is not there, or not of this schema.
    """
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultsError(f"{path}: {where}: {first['msg']}") from None
