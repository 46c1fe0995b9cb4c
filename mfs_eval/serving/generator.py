"""A request generator with the statistics of the Mooncake conversation trace, so that nothing has to be downloaded.

The parameters in :data:`CONVERSATION` were fitted to all 12,031 requests of ``conversation_trace.jsonl`` in the FAST'25
release of kvcache-ai/Mooncake:

* Every prompt begins with the same block (a system prompt of about 900 tokens; the shortest prompts have 891).
* 61 % of the requests open a conversation. The others repeat more than that first block of an earlier request, nearly
  always the latest one of their conversation.
* 87 % of these extend the conversation: their prompt is the previous prompt, its answer and a new message, and they
  repeat every full block of the previous prompt. 13 % rewrite it: they keep only its first blocks.
* The longer a conversation is, the more likely it continues. The median time between two of its requests is two
  minutes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from host_agent.protocol.units import NS_PER_S
from mfs_eval.errors import TraceError
from mfs_eval.serving.trace import Request, block_count


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution given by its quantile function, linear between the given points.

    Attributes:
        shares: cumulative shares from 0 to 1, increasing.
        values: the quantile of each share, non-decreasing; same length.
    """

    shares: tuple[float, ...]
    values: tuple[float, ...]

    def draw(self, random: np.random.Generator) -> float:
        """Draw a value."""
        return float(np.interp(random.random(), self.shares, self.values))


_SHARES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class ConversationStatistics:
    """Parameters of :func:`generate`. Lengths in tokens, gaps in seconds.

    Attributes:
        requests_per_second: mean rate of all requests together.
        opening_share: share of requests that open a conversation.
        opening_prompt: prompt length of a request that opens a conversation.
        output: length of an answer.
        continues: probability that a conversation continues after its first, second, ... request; the last value
            applies to all later requests.
        gap: time from one request of a conversation to the next.
        message: tokens that an extending request adds to the previous answer (negative: something was left out).
        rewrite_share: share of the later requests that rewrite the conversation.
        rewrite_kept: share of the previous prompt's blocks that a rewriting request keeps.
        rewrite_growth: length of a rewritten prompt divided by that of the previous prompt.
        longest_prompt: upper bound of prompt lengths.
    """

    requests_per_second: float
    opening_share: float
    opening_prompt: Quantiles
    output: Quantiles
    continues: tuple[float, ...]
    gap: Quantiles
    message: Quantiles
    rewrite_share: float
    rewrite_kept: Quantiles
    rewrite_growth: Quantiles
    longest_prompt: int


CONVERSATION = ConversationStatistics(
    requests_per_second=3.40,
    opening_share=0.613,
    opening_prompt=Quantiles(
        _SHARES, (891, 894, 897, 905, 1092, 1756, 3913, 5264, 7418, 10770, 15871, 25559, 38493, 89867, 126195)
    ),
    output=Quantiles(_SHARES, (1, 3, 10, 24, 100, 213, 291, 350, 399, 447, 504, 597, 698, 1118, 2000)),
    # From conversations that began early enough to be complete in the trace (the first 2,200 s).
    continues=(0.338, 0.443, 0.577, 0.654, 0.69, 0.69, 0.75, 0.75, 0.85),
    gap=Quantiles(_SHARES, (0, 12, 27, 39, 57, 75, 96, 123, 162, 225, 318, 476, 609, 1456, 3030)),
    message=Quantiles(_SHARES, (-1291, -366, -37, -5, 7, 11, 16, 26, 53, 179, 712, 4249, 7000, 16696, 91467)),
    rewrite_share=0.134,
    rewrite_kept=Quantiles(
        _SHARES, (0.01, 0.03, 0.05, 0.06, 0.09, 0.12, 0.15, 0.18, 0.24, 0.32, 0.41, 0.55, 0.74, 0.91, 0.94)
    ),
    rewrite_growth=Quantiles(
        _SHARES, (0.17, 0.29, 0.49, 0.6, 0.69, 0.8, 0.89, 0.96, 1.01, 1.07, 1.14, 1.33, 1.5, 2.52, 7.72)
    ),
    longest_prompt=126_195,
)
"""Fitted to the Mooncake conversation trace."""

SYSTEM_PROMPT_BLOCK = 0
"""Id of the block that every prompt begins with."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """The latest request of a conversation."""

    number: int
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


def generate(
    count: int,
    seed: int,
    statistics: ConversationStatistics = CONVERSATION,
) -> list[Request]:
    """Return the first ``count`` requests of a workload with these statistics; ``seed`` determines the result.

    As in a recording, no conversation is in progress at the start: prefix sharing grows over the first minutes.

    Raises:
        TraceError: ``count`` is negative.
    """
    if count < 0:
        raise TraceError(f"the number of requests must not be negative, it is {count}")
    random = np.random.default_rng(seed)
    fresh = _fresh_blocks()
    opening_rate = statistics.requests_per_second * statistics.opening_share
    pending: list[tuple[float, int, _Turn | None]] = [(random.exponential(1 / opening_rate), 0, None)]
    tickets = 1
    requests: list[Request] = []
    while len(requests) < count:
        now, _, previous = heapq.heappop(pending)
        if previous is None:
            turn = _open(random, statistics, fresh)
            heapq.heappush(pending, (now + random.exponential(1 / opening_rate), tickets, None))
            tickets += 1
        elif random.random() < statistics.rewrite_share:
            turn = _rewrite(previous, random, statistics, fresh)
        else:
            turn = _extend(previous, random, statistics, fresh)
        requests.append(
            Request(len(requests), round(now * NS_PER_S), turn.prompt_tokens, turn.output_tokens, turn.blocks)
        )
        if random.random() < statistics.continues[min(turn.number, len(statistics.continues)) - 1]:
            heapq.heappush(pending, (now + statistics.gap.draw(random), tickets, turn))
            tickets += 1
    return requests


def _open(random: np.random.Generator, statistics: ConversationStatistics, fresh: Iterator[int]) -> _Turn:
    prompt = math.ceil(statistics.opening_prompt.draw(random))
    return _turn(1, prompt, (SYSTEM_PROMPT_BLOCK,), random, statistics, fresh)


def _extend(
    previous: _Turn, random: np.random.Generator, statistics: ConversationStatistics, fresh: Iterator[int]
) -> _Turn:
    message = math.ceil(statistics.message.draw(random))
    prompt = max(previous.prompt_tokens // 2, previous.prompt_tokens + previous.output_tokens + message)
    # The previous prompt's last block was only partly filled, so its continuation is a different block.
    return _turn(
        previous.number + 1, prompt, previous.blocks[: max(1, len(previous.blocks) - 1)], random, statistics, fresh
    )


def _rewrite(
    previous: _Turn, random: np.random.Generator, statistics: ConversationStatistics, fresh: Iterator[int]
) -> _Turn:
    kept = max(1, round(statistics.rewrite_kept.draw(random) * len(previous.blocks)))
    prompt = math.ceil(statistics.rewrite_growth.draw(random) * previous.prompt_tokens)
    return _turn(previous.number + 1, prompt, previous.blocks[:kept], random, statistics, fresh)


def _turn(
    number: int,
    prompt_tokens: int,
    prefix: Sequence[int],
    random: np.random.Generator,
    statistics: ConversationStatistics,
    fresh: Iterator[int],
) -> _Turn:
    prompt = max(1, min(prompt_tokens, statistics.longest_prompt))
    blocks = list(prefix[: block_count(prompt)])
    blocks.extend(next(fresh) for _ in range(block_count(prompt) - len(blocks)))
    return _Turn(number, prompt, max(1, math.ceil(statistics.output.draw(random))), tuple(blocks))


def _fresh_blocks() -> Iterator[int]:
    block = SYSTEM_PROMPT_BLOCK
    while True:
        block += 1
        yield block
