"""Prompts with a given mean length and a given share of reusable tokens, as papers describe workloads.

Every prompt begins with blocks of one of several *prefixes* (a conversation so far, an agent's instructions and tools),
and goes on with blocks of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfs_eval.errors import TraceError
from mfs_eval.serving.trace import BLOCK_TOKENS, Request, block_count

PREFIX_BLOCKS = 1_000
"""Room for the ids of a prefix's blocks."""


@dataclass(frozen=True, slots=True)
class PromptClass:
    """What :func:`prompts` draws from.

    Attributes:
        name: as on the command line.
        mean_tokens: mean length of a prompt.
        spread: standard deviation of the logarithm of the length (lognormal).
        reusable: share of all prompt tokens that earlier prompts had at the same place.
        prefixes: how many there are.
        popularity: exponent of Zipf's law that prefixes are drawn by; 0: all alike.
        longest: prompts end here, tokens.
        output_tokens: mean length of an answer; nothing depends on it.
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
"""Many conversations, each known to those units that served it."""
AGENT_LIKE = PromptClass("agent", 1_000, 0.65, prefixes=40, popularity=1.0)
"""Few instructions that many requests share."""
PROMPT_CLASSES = {one.name: one for one in (CONVERSATION_LIKE, AGENT_LIKE)}


def prompts(kind: PromptClass, count: int, seed: int) -> list[Request]:
    """``count`` prompts of ``kind``, all arriving at 0; the same for the same ``seed``.

    Reuse is in whole blocks, so that a prompt of less than a block has none; longer ones make up for it.

    Raises:
        TraceError: ``count`` is negative, or the class makes no sense.
    """
    if count < 0 or not 0 <= kind.reusable < 1 or kind.prefixes < 1 or kind.mean_tokens < 1:
        raise TraceError(
            f"cannot make {count} prompts of mean {kind.mean_tokens:g} tokens, {kind.reusable:.0%} of them reusable, "
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
    """A prompt for each prefix of ``kind`` that holds the whole of it: served before others, it makes them reusable."""
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
    """Of each prompt, how many of its ``whole`` blocks are of its prefix: in all ``kind.reusable`` of the tokens."""
    target = kind.reusable * float(np.sum(lengths)) / BLOCK_TOKENS
    capacity = np.asarray(whole, np.float64)
    share = min(1.0, target / max(1.0, float(capacity.sum())))
    # Beta-distributed shares of each prompt with that mean.
    drawn = capacity * (random.beta(4 * share, 4 * (1 - share), len(capacity)) if 0 < share < 1 else share)
    floor = np.floor(drawn)
    rounded: NDArray[np.float64] = floor + (random.random(len(capacity)) < drawn - floor)
    return np.minimum(capacity, rounded).astype(np.int64)
