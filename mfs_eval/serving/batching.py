"""Continuous batching: which tokens of which waiting prompts a prefill unit computes together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mfs_eval.serving.prefix_cache import Reuse
from mfs_eval.serving.trace import Request

BATCH_TOKENS = 8192
"""Most new tokens that a unit computes in one batch."""


@dataclass(slots=True, eq=False)
class Job:
    """A request at its prefill unit, and its progress there.

    Attributes:
        request: the request.
        unit: the unit that computes it.
        decode_server: the server that receives its KV cache.
        deadline_ns: deadline of its first token.
        reuse: the planned reuse.
        remaining_tokens: tokens still to compute; at first all that are not reused.
        batches: number of batches that it took part in.
        start_ns: when its first batch began.
        computed_ns: when its last batch ended; None before.
        compute_ns, stage1_wait_ns, stage2_ns: time that its batches spent computing, waiting for reused KV, and in
            collectives.
        flows: number of its P2D (prefill-to-decode) flows in flight.
    """

    request: Request
    unit: int
    decode_server: int
    deadline_ns: int
    reuse: Reuse
    remaining_tokens: int = field(init=False)
    batches: int = 0
    start_ns: int = 0
    computed_ns: int | None = None
    compute_ns: int = 0
    stage1_wait_ns: int = 0
    stage2_ns: int = 0
    flows: int = 0

    def __post_init__(self) -> None:
        self.remaining_tokens = self.request.prompt_tokens - self.reuse.tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a job that one batch computes.

    Attributes:
        job: the job.
        tokens: number of new tokens.
        context: number of earlier tokens whose KV exists: reused tokens and those of earlier chunks.
        fetched_tokens: tokens whose KV this batch fetches from ``holder``; 0 except in a job's first chunk.
        holder: the unit that the KV is fetched from, or None.
        tokens_after: tokens of the job that later chunks compute.
    """

    job: Job
    tokens: int
    context: int
    fetched_tokens: int
    holder: int | None
    tokens_after: int


def form_batch(queue: deque[Job], budget: int = BATCH_TOKENS) -> list[Chunk]:
    """Take up to ``budget`` new tokens from the head of ``queue``, first come, first served.

    A job with remaining tokens stays at the head. Reused tokens do not count against the budget; a job's first chunk
    fetches them.

    Args:
        queue: waiting jobs; changed in place.
        budget: most new tokens of the batch.
    """
    chunks: list[Chunk] = []
    while queue and budget > 0:
        job = queue[0]
        fetched, holder = (job.reuse.remote_tokens, job.reuse.holder) if job.batches == 0 else (0, None)
        tokens = min(budget, job.remaining_tokens)
        context = job.request.prompt_tokens - job.remaining_tokens
        job.remaining_tokens -= tokens
        job.batches += 1
        budget -= tokens
        chunks.append(Chunk(job, tokens, context, fetched, holder, job.remaining_tokens))
        if job.remaining_tokens == 0:
            queue.popleft()
    return chunks
