"""Statistics of a trace: prompt lengths, output lengths, and how much of it repeats earlier prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from host_agent.protocol.units import NS_PER_S
from mfs_eval.serving.trace import Request


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """Statistics of a trace.

    Attributes:
        requests: number of requests.
        span_s: time from the start of the trace to the last arrival, seconds.
        prompt_mean: mean prompt length, tokens.
        prompt_percentiles: 10th, 50th, 90th percentile of the prompt length, tokens.
        output_mean: mean output length, tokens.
        output_percentiles: 10th, 50th, 90th percentile of the output length, tokens.
        prefix_share: share of all blocks that belong to a prefix of an earlier request.
        follow_share: share of requests that share more than their first block with an earlier one.
        first_block_share: share of requests that begin with the most frequent first block.
    """

    requests: int
    span_s: float
    prompt_mean: float
    prompt_percentiles: tuple[float, float, float]
    output_mean: float
    output_percentiles: tuple[float, float, float]
    prefix_share: float
    follow_share: float
    first_block_share: float


def describe(requests: Sequence[Request]) -> TraceStatistics:
    """Return the statistics of ``requests``, at least one, in their order."""
    seen: set[int] = set()
    blocks = repeated = follows = 0
    first_blocks: dict[int, int] = {}
    for request in requests:
        known = 0
        for block in request.blocks:
            if block not in seen:
                break
            known += 1
        seen.update(request.blocks)
        blocks += len(request.blocks)
        repeated += known
        follows += known > 1
        first_blocks[request.blocks[0]] = first_blocks.get(request.blocks[0], 0) + 1
    prompts = np.array([request.prompt_tokens for request in requests])
    outputs = np.array([request.output_tokens for request in requests])
    return TraceStatistics(
        requests=len(requests),
        span_s=requests[-1].arrival_ns / NS_PER_S,
        prompt_mean=float(prompts.mean()),
        prompt_percentiles=_percentiles(prompts),
        output_mean=float(outputs.mean()),
        output_percentiles=_percentiles(outputs),
        prefix_share=repeated / blocks,
        follow_share=follows / len(requests),
        first_block_share=max(first_blocks.values()) / len(requests),
    )


def _percentiles(values: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [10, 50, 90])
    return float(low), float(middle), float(high)
