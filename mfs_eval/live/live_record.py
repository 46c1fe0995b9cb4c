"""What became of each request, batch and flow of a run over real sockets, as ``mfs live --record`` keeps it.

Times are in nanoseconds of the model since the start of the run. Nothing of this is simulated, and nothing of it is
seen from within the network: a flow has a beginning, an end, and the levels that its host's agent gave it.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from host_agent.protocol.flow_spec import FlowSpec
from mfs_eval.errors import EvaluationError
from mfs_eval.live.live_rows import Row
from mfs_eval.serving.metrics import RequestRecord
from mfs_eval.serving.prefill_batch import BatchRecord


@dataclass(frozen=True, slots=True)
class SeenLevel:
    """A level that a flow was seen to have at its sender, and what the decision depends on.

    Attributes:
        time_ns: when it was seen; the change is older by at most the agents' polling.
        level: the level.
        rli: layers to go (relative layer index).
        slack_us: microseconds of the model to its deadline.
        remaining_bytes: bytes that it had left to send.
    """

    time_ns: int
    level: int
    rli: int
    slack_us: int
    remaining_bytes: int


@dataclass(frozen=True, slots=True)
class LiveFlow:
    """A flow that ended.

    Attributes:
        source: host that sent it.
        spec: its purpose.
        started_ns, ended_ns: from its first byte at the sender to its last byte at the receiver.
        levels: in order of time; none if it ended before its agent was asked.
    """

    source: int
    spec: FlowSpec
    started_ns: int
    ended_ns: int
    levels: tuple[SeenLevel, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveRecord:
    """A run.

    Attributes:
        requests: those of the warm-up included.
        batches: finished ones.
        advances: by batch, when each step ended, and the layers done by then.
        flows: those that ended, in the order of their ends.
    """

    requests: list[RequestRecord]
    batches: list[BatchRecord]
    advances: dict[int, list[tuple[int, int]]]
    flows: list[LiveFlow]


_RECORD = TypeAdapter(LiveRecord)


def path_of(folder: Path, row: Row) -> Path:
    """Return where the record of the run of ``row`` is kept, beside ``live.csv`` in ``folder``."""
    name = "-".join(str(part) for part in (*row.key[:-3], f"{row.request_rate:g}", row.policy, row.seed))
    return folder / "records" / f"{name}.json.gz"


def write(record: LiveRecord, path: Path) -> None:
    """Write a record; the file is replaced atomically.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(gzip.compress(_RECORD.dump_json(record), mtime=0))
    temporary.replace(path)


def read(path: Path) -> LiveRecord:
    """Read a record.

    Raises:
        EvaluationError: the file cannot be read, or holds something else.
    """
    try:
        return _RECORD.validate_json(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EvaluationError(f"{path}: {where}: {first['msg']}; it is from another version: run it again") from None
