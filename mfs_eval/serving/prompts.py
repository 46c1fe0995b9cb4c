"""Prompts with a given mean length and a given share of reusable tokens, the way papers describe workloads.

Every prompt begins with blocks of one of several *prefixes* (a conversation so far, or an agent's instructions and
tools) and continues with its own blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfs_eval.errors import TraceError
from mfs_eval.serving.trace import BLOCK_TOKENS, Request, block_count

PREFIX_BLOCKS = 1_000
"""Number of block ids that are reserved per prefix."""


@dataclass(frozen=True, slots=True)
class PromptClass:
    """Parameters of :func:`prompts`.

    Attributes:
        name: as on the command line.
        mean_tokens: mean length of a prompt.
        spread: standard deviation of the logarithm of the length (lognormal).
        reusable: share of all prompt tokens that earlier prompts have at the same place.
        prefixes: number of prefixes.
        popularity: exponent of Zipf's law for the choice of prefixes; 0 makes them equally likely.
        longest: upper bound of prompt lengths, tokens.
        output_tokens: mean length of an answer; no result depends on it.
    """

    name: str
    mean_tokens: float
    reusable: float
    prefixes: int
    popularity: float
    spread: float = 0.9
    longest: int = 16_384
    output_tokens: int = 250


CONVERSATION_LIKE = PromptClass("conversation", 2_000, 0.5, prefixes=400, popularity=0.5)
"""Many conversations, each known only to the units that served it."""
AGENT_LIKE = PromptClass("agent", 1_000, 0.65, prefixes=40, popularity=1.0)
"""Few prefixes of instructions that many requests share."""


def prompts(kind: PromptClass, count: int, seed: int) -> list[Request]:
    """Return ``count`` prompts of ``kind``, all arriving at time 0; ``seed`` determines the result.

    Reuse is in whole blocks. A prompt shorter than a block has none, and longer ones make up for it.

    Raises:
        TraceError: ``count`` is negative, or a parameter of the class is out of range.
    """
    if count < 0 or not 0 <= kind.reusable < 1 or kind.prefixes < 1 or kind.mean_tokens < 1:
        raise TraceError(
            f"cannot generate {count} prompts of {kind.mean_tokens:g} tokens on average, {kind.reusable:.0%} reusable, "
            f"with {kind.prefixes} prefixes"
        )
    random = np.random.default_rng(seed)
    mean_log = math.log(kind.mean_tokens) - kind.spread**2 / 2
    lengths = np.clip(np.round(random.lognormal(mean_log, kind.spread, count)), 16, kind.longest).astype(np.int64)
    whole = (lengths - 1) // BLOCK_TOKENS
    shared = _shared_blocks(kind, lengths, whole, random)
    weights = 1 / np.arange(1, kind.prefixes + 1) ** kind.popularity
    chosen = random.choice(kind.prefixes, count, p=weights / weights.sum())
    own = kind.prefixes * PREFIX_BLOCKS
    found: list[Request] = []
    for index in range(count):
        blocks = list(range(chosen[index] * PREFIX_BLOCKS, chosen[index] * PREFIX_BLOCKS + shared[index]))
        rest = block_count(int(lengths[index])) - len(blocks)
        blocks.extend(range(own, own + rest))
        own += rest
        output = max(1, round(random.exponential(kind.output_tokens)))
        found.append(Request(index, 0, int(lengths[index]), output, tuple(map(int, blocks))))
    return found


def openers(kind: PromptClass) -> list[Request]:
    """Return a prompt per prefix of ``kind`` that contains all of it; serving it first makes the prefix reusable."""
    blocks = kind.longest // BLOCK_TOKENS
    return [
        Request(
            prefix, 0, blocks * BLOCK_TOKENS, 1, tuple(range(prefix * PREFIX_BLOCKS, prefix * PREFIX_BLOCKS + blocks))
        )
        for prefix in range(kind.prefixes)
    ]


def _shared_blocks(
    kind: PromptClass, lengths: NDArray[np.int64], whole: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.int64]:
    """Return how many of each prompt's ``whole`` blocks belong to its prefix: in total ``kind.reusable`` of all."""
    target = kind.reusable * float(np.sum(lengths)) / BLOCK_TOKENS
    capacity = np.asarray(whole, np.float64)
    share = min(1.0, target / max(1.0, float(capacity.sum())))
    # The shares of the prompts are beta-distributed with that mean.
    drawn = capacity * (random.beta(4 * share, 4 * (1 - share), len(capacity)) if 0 < share < 1 else share)
    floor = np.floor(drawn)
    rounded: NDArray[np.float64] = floor + (random.random(len(capacity)) < drawn - floor)
    return np.minimum(capacity, rounded).astype(np.int64)
