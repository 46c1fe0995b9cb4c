"""Names of KV blocks by content: equal names mean equal prompts up to and including the block. Pure."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence


def prefix_keys(seed: str, block_tokens: int, tokens: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the full blocks of a prompt, in order.

    Args:
        seed: what else the KV depends on: weights, layout, number of ranks, the tenant's salt.
        block_tokens: tokens per block.
        tokens: of the prompt.
    """
    digest = hashlib.sha256(seed.encode()).digest()
    keys = []
    for start in range(0, len(tokens) - block_tokens + 1, block_tokens):
        block = tokens[start : start + block_tokens]
        digest = hashlib.sha256(digest + struct.pack(f"!{block_tokens}q", *block)).digest()
        keys.append(digest[:16].hex())
    return tuple(keys)
