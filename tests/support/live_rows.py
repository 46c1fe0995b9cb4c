"""Rows of ``mfs live`` for tests."""

from __future__ import annotations

from typing import Any

from mfs_eval.live.live_rows import Row


def live_row(policy: str = "fifo", seed: int = 1, **changed: Any) -> Row:
    """A row of a run at the defaults of ``mfs live``, with made-up measurements."""
    fields: dict[str, Any] = {
        "cluster": "testbed", "hosts": "order-option", "switch": "embedded", "request_rate": 14.0,
        "requests_per_run": 60, "requests": 48, "rate_bps": 20_000_000, "stretch": 5.0, "queue_bytes": 1 << 21,
        "slo_attainment": 0.5, "ttft_mean_s": 0.3, "ttft_p50_s": 0.3, "ttft_p99_s": 0.9, "collective_mean_s": 0.03,
        "segments": 1000, "retransmitted": 3, "timeouts": 0, "probes": 1, "too_old": 0,
        "longest_stall_s": 0.01, "stalled_s": 0.0, "stalled_flows": 0, "elapsed_s": 30.0, "worst_delay_s": 0.001,
    }  # fmt: skip
    return Row(policy=policy, seed=seed, **fields | changed)
