"""Why a request of ``mfs serve`` was late: from what router, engines, store and agents recorded of the run itself.

Times are real. A transfer's are those of the end that recorded it; levels are those that the sender's agent gave, seen
every tenth of a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mfs_eval.errors import EvaluationError
from mfs_eval.live import flow_log
from mfs_eval.results.row_page import rows_of
from mfs_eval.serve.serve import CLUSTER, STORE
from mfs_eval.serve.serve_rows import FILE, Row, is_of
from topologies.topology import tor

MS = 1e6
"""Nanoseconds in a millisecond."""
SHOWN_BESIDES = 3
KV_TO_DECODE, KV_TO_STORE, REUSED_KV = "KV to decode", "KV to the store", "reused KV"
STAGE_NAMES = {
    "fetch": "fetching reused KV",
    "prefill": "prefill, its queue included",
    "last_kv": "last KV to decode",
    "first_step": "first step of decode",
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Span(_Model):
    """A time in which something else used what the request used; in milliseconds since the request was sent."""

    what: str
    start_ms: float
    end_ms: float
    bytes: int
    """Of the whole transfer."""

    @property
    def ms(self) -> float:
        """Its length."""
        return self.end_ms - self.start_ms


class Link(_Model):
    """A link that a transfer crossed, and who else used it in that time, the longest first."""

    place: str
    besides: list[Span]


class Transfer(_Model):
    """A transfer of the request's KV; times in milliseconds since the request was sent."""

    what: str
    source: str
    target: str
    bytes: int
    stamped: bool
    opened_ms: float
    began_ms: float
    """The peer accepted it."""
    ended_ms: float
    error: str
    links: list[Link]


class Level(_Model):
    """A level that an agent gave one of the request's flows."""

    time_ms: float
    """Since the request was sent; the change is at most a tenth of a second older."""
    server: str
    flow: int
    stage: str
    level: int
    slack_ms: float
    sent_bytes: int
    layers_to_go: int


class Stages(_Model):
    """The time to first token (TTFT) by stage, in milliseconds; they add up to it."""

    fetch: float
    prefill: float
    last_kv: float
    first_step: float


class ServedExplanation(_Model):
    """One request that real engines served."""

    policy: str
    seed: int
    request: str
    group: str
    prompt_tokens: int
    engine: str
    ttft_ms: float | None
    """None if it failed."""
    objective_ms: float
    error: str
    stages: Stages | None
    engine_shared_with: list[Span]
    """Requests that the prefill engine had at the same time, the longest first; their bytes are those of their KV."""
    transfers: list[Transfer]
    levels: list[Level]


@dataclass(frozen=True, slots=True)
class _Moved:
    """A transfer of the run: servers from 0, times on CLOCK_MONOTONIC."""

    name: str
    what: str
    source: int
    target: int
    stage: str
    batch: int
    payload_bytes: int
    stamped: bool
    opened_ns: int
    began_ns: int
    ended_ns: int
    error: str

    @property
    def span(self) -> tuple[int, int]:
        """When it moved: never if the peer did not accept it."""
        return (self.began_ns, self.ended_ns) if self.began_ns else (0, 0)


class ServedRun:
    """What ``mfs serve`` left in a folder.

    Raises:
        EvaluationError: something there cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.rows = rows_of(folder / FILE, Row)
        try:
            self._moved = list(_moved(folder))
            self._sightings = flow_log.read(folder / flow_log.FILE)
        except OSError as error:
            raise EvaluationError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, ValidationError) as error:
            raise EvaluationError(f"{folder}: a record of the engines or agents cannot be read ({error})") from None

    def find(self, request: str, policy: str | None, seed: int | None) -> Row:
        """Return the row of a request, by its name.

        Raises:
            EvaluationError: there is none, or there are several.
        """
        found = [
            row
            for row in self.rows
            if row.request == request and policy in (None, row.policy) and seed in (None, row.seed)
        ]
        if not found:
            names = ", ".join(dict.fromkeys(row.request for row in self.rows[:SHOWN_BESIDES]))
            raise EvaluationError(f"the run has no such request {request}; its requests are {names} and so on")
        if len({row.policy for row in found}) > 1:
            policies = ", ".join(row.policy for row in found)
            raise EvaluationError(f"request {request} was served under {policies}; choose by --policy")
        return found[0]

    def explain(self, row: Row) -> ServedExplanation:
        """Explain a request."""
        mine = [one for one in self._moved if is_of(one.name, row.transfer)]
        batches = {(one.source, one.batch) for one in mine if one.batch}
        last_ns = max((one.ended_ns for one in mine if one.what == KV_TO_DECODE), default=row.sent_ns)
        return ServedExplanation(
            policy=row.policy,
            seed=row.seed,
            request=row.request,
            group=row.group,
            prompt_tokens=row.prompt_tokens,
            engine=_server(row.engine),
            ttft_ms=row.ttft_ms,
            objective_ms=row.objective_ms,
            error=row.error,
            stages=_stages(row, (last_ns - row.sent_ns) / MS),
            engine_shared_with=self._at_the_same_engine(row),
            transfers=[self._transfer(one, row) for one in sorted(mine, key=lambda one: one.opened_ns)],
            levels=[
                Level(
                    time_ms=(seen.time_ns - row.sent_ns) / MS,
                    server=_server(seen.host),
                    flow=seen.flow,
                    stage=seen.stage,
                    level=seen.level,
                    slack_ms=seen.slack_us / 1e3,
                    sent_bytes=seen.sent_bytes,
                    layers_to_go=seen.layers_to_go,
                )
                for seen in self._sightings
                if (seen.host, seen.batch) in batches
            ],
        )

    def _at_the_same_engine(self, row: Row) -> list[Span]:
        there = [other for other in self.rows if other.engine == row.engine and other.transfer != row.transfer]
        named = [(f"request {other.request}", _prefill(other), other.push_bytes) for other in there]
        return _shared(_prefill(row), named, row.sent_ns)

    def _transfer(self, one: _Moved, row: Row) -> Transfer:
        return Transfer(
            what=one.what,
            source=_server(one.source),
            target=_server(one.target),
            bytes=one.payload_bytes,
            stamped=one.stamped,
            opened_ms=(one.opened_ns - row.sent_ns) / MS,
            began_ms=((one.began_ns or one.opened_ns) - row.sent_ns) / MS,
            ended_ms=(one.ended_ns - row.sent_ns) / MS,
            error=one.error,
            links=[
                Link(
                    place=f"NIC of {_server(one.source)}",
                    besides=self._besides(one, [other for other in self._moved if other.source == one.source], row),
                ),
                Link(
                    place=f"switch port to {_server(one.target)}",
                    besides=self._besides(one, [other for other in self._moved if other.target == one.target], row),
                ),
            ],
        )

    def _besides(self, one: _Moved, others: Iterable[_Moved], row: Row) -> list[Span]:
        named = [
            (f"{other.what} of request {self._request(other)}", other.span, other.payload_bytes)
            for other in others
            if other is not one
        ]
        return _shared(one.span, named, row.sent_ns)

    def _request(self, moved: _Moved) -> str:
        return next((row.request for row in self.rows if is_of(moved.name, row.transfer)), "another run")


def served_folder(source: Path | None) -> Path | None:
    """Return the folder of ``mfs serve`` that ``source`` is, or is the file of; None if it is something else."""
    if source is None:
        return None
    folder = source if source.is_dir() else source.parent
    return folder if source.name == FILE or (source.is_dir() and (source / FILE).exists()) else None


def _moved(folder: Path) -> Iterator[_Moved]:
    servers = {str(host.ipv4): host.server for host in tor(CLUSTER.servers, CLUSTER.nics_per_server).hosts}
    for server in range(STORE):
        for path in folder.glob(f"*{server + 1}.jsonl"):
            for line in path.read_text("utf-8").splitlines():
                record: dict[str, Any] = json.loads(line)
                # A receive is the other end of a push.
                if record["role"] not in ("push", "fetch"):
                    continue
                peer = servers[record["peer"].rpartition(":")[0]]
                pushed = record["role"] == "push"
                what = (KV_TO_DECODE if record["transfer"] else KV_TO_STORE) if pushed else REUSED_KV
                source, target = (server, peer) if pushed else (peer, server)
                kept = ("stage", "batch", "payload_bytes", "stamped", "opened_ns", "began_ns", "ended_ns", "error")
                yield _Moved(record["request"], what, source, target, **{name: record[name] for name in kept})


def _server(number: int) -> str:
    return f"s{number + 1}"


def _prefill(row: Row) -> tuple[int, int]:
    """Return when a request was at its prefill engine, on CLOCK_MONOTONIC."""
    return row.sent_ns, row.sent_ns + round((row.prefill_ms or 0.0) * MS)


def _shared(span: tuple[int, int], others: Iterable[tuple[str, tuple[int, int], int]], origin_ns: int) -> list[Span]:
    """Return the parts of ``others`` within ``span``, the longest first; each has a name, its times, and bytes."""
    found = []
    for what, (begin, until), size in others:
        start, end = max(span[0], begin), min(span[1], until)
        if end > start:
            found.append(Span(what=what, start_ms=(start - origin_ns) / MS, end_ms=(end - origin_ns) / MS, bytes=size))
    return sorted(found, key=lambda one: -one.ms)[:SHOWN_BESIDES]


def _stages(row: Row, last_kv_ms: float) -> Stages | None:
    if row.ttft_ms is None or row.prefill_ms is None:
        return None
    computed = min(row.prefill_ms, row.ttft_ms)
    fetch = min(row.fetch_ms or 0.0, computed)
    arrived = min(max(computed, last_kv_ms), row.ttft_ms)
    return Stages(fetch=fetch, prefill=computed - fetch, last_kv=arrived - computed, first_step=row.ttft_ms - arrived)
