"""``requests.csv``: one row per request that real engines served."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import field_validator

from mfs_eval.results.rows import StoredRow
from mfs_eval.serve.serve import Served

FILE = "requests.csv"


class Row(StoredRow):
    """One request: objective, outcome, and the time of each stage in milliseconds; None where there is none."""

    LEADING: ClassVar[tuple[str, ...]] = (
        "policy", "seed", "request", "group", "request_rate", "rate_bps", "prompt_tokens", "engine",
    )  # fmt: skip
    KEY: ClassVar[tuple[str, ...]] = ("policy", "seed", "request")

    policy: str
    seed: int
    request: str
    group: str
    request_rate: float
    """Requests per second of the workload."""
    rate_bps: int
    """Of each link."""
    prompt_tokens: int
    engine: int
    """Number of its prefill engine."""
    objective_ms: float
    ttft_ms: float | None
    in_time: int
    """1 if it met its objective, else 0."""
    prefill_ms: float | None
    """From sending until the prefill engine answered."""
    fetch_ms: float | None
    fetch_bytes: int
    push_ms: float | None
    """From the decode engine's acceptance until it had all KV."""
    push_bytes: int
    stamped: int
    transfer: str
    """Name of its push, which is part of the names of its records; unique over all runs."""
    sent_ns: int
    """When the router sent it, on CLOCK_MONOTONIC as the records' times."""
    error: str

    @field_validator("ttft_ms", "prefill_ms", "fetch_ms", "push_ms", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value


def is_of(name: str, transfer: str) -> bool:
    """Whether ``name``, of a request in an engine, is that of the request whose push is called ``transfer``."""
    return re.search(rf"(?:^|-){re.escape(transfer)}-0(?:-|$)", name) is not None


def rows(served: Served, request_rate: float, rate_bps: int) -> list[Row]:
    """Return a row for each request of a run."""
    pushes = {record["transfer"]: record for record in served.transfers["push"] if record["transfer"]}
    fetches = {
        answer.transfer: record
        for answer in served.answers
        for record in served.transfers["fetch"]
        if is_of(record["request"], answer.transfer)
    }
    found = []
    for answer in served.answers:
        push, fetch = pushes.get(answer.transfer), fetches.get(answer.transfer)
        found.append(
            Row(
                policy=served.policy,
                seed=served.seed,
                request=answer.prompt.name,
                group=answer.prompt.group,
                request_rate=request_rate,
                rate_bps=rate_bps,
                prompt_tokens=len(answer.prompt.tokens),
                engine=answer.engine,
                objective_ms=round(answer.prompt.objective_ms, 1),
                ttft_ms=None if answer.ttft_ms is None else round(answer.ttft_ms, 1),
                in_time=int(answer.in_time),
                prefill_ms=None if answer.prefill_ms is None else round(answer.prefill_ms, 1),
                fetch_ms=_took_ms(fetch),
                fetch_bytes=fetch["payload_bytes"] if fetch else 0,
                push_ms=_took_ms(push),
                push_bytes=push["payload_bytes"] if push else 0,
                stamped=int(bool(push and push["stamped"])),
                transfer=answer.transfer,
                sent_ns=answer.sent_ns,
                error=answer.error or (push["error"] if push else "no push"),
            )
        )
    return found


def _took_ms(record: Mapping[str, Any] | None) -> float | None:
    """Time from the peer's acceptance to the end."""
    if record is None or not record["began_ns"] or record["error"]:
        return None
    took_ns: int = record["ended_ns"] - record["began_ns"]
    return round(took_ns / 1e6, 1)
