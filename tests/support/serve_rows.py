"""Requests of ``mfs serve`` for tests."""

from __future__ import annotations

from typing import Any

from mfs_eval.serve.serve_rows import Row


def serve_row(policy: str, request: str, ttft_ms: float | None, seed: int = 1, **changed: Any) -> Row:
    """A row with made-up measurements; without a time to first token it failed."""
    fields: dict[str, Any] = {
        "group": "tight", "request_rate": 0.4, "rate_bps": 20_000_000, "prompt_tokens": 512, "engine": 0,
        "objective_ms": 2000.0, "in_time": int(ttft_ms is not None and ttft_ms <= 2000),
        "prefill_ms": None if ttft_ms is None else 400.0, "fetch_ms": None, "fetch_bytes": 0, "push_ms": None,
        "push_bytes": 0, "stamped": 1, "transfer": f"{policy}-x-{request}", "sent_ns": 1,
        "error": "timed out" if ttft_ms is None else "",
    }  # fmt: skip
    return Row(policy=policy, seed=seed, request=request, ttft_ms=ttft_ms, **fields | changed)
