"""The request generator compared with the trace that it imitates (mfs_eval.serving.generator)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from host_agent.protocol.units import NS_PER_S
from mfs_eval.errors import TraceError
from mfs_eval.serving.generator import CONVERSATION, SYSTEM_PROMPT_BLOCK, generate
from mfs_eval.serving.trace import SAMPLE_PATH, Request, block_count, load_trace
from mfs_eval.serving.trace_statistics import describe

# Of all 12,031 requests of the Mooncake conversation trace (kvcache-ai/Mooncake, FAST25-release).
WHOLE_TRACE_REQUESTS = 12_031
WHOLE_TRACE_SECONDS = 3537
WHOLE_TRACE_PREFIX_SHARE = 0.366
WHOLE_TRACE_FOLLOW_SHARE = 0.387
WHOLE_TRACE_PROMPT_MEAN = 12_035
WHOLE_TRACE_PROMPT_PERCENTILES = (964, 6909, 27_367)
WHOLE_TRACE_OUTPUT_MEAN = 343


@pytest.fixture(scope="module")
def hour() -> list[Request]:
    return generate(WHOLE_TRACE_REQUESTS, seed=1)


def test_a_generated_hour_has_the_statistics_of_the_whole_trace(hour: list[Request]) -> None:
    made = describe(hour)
    assert made.prefix_share == pytest.approx(WHOLE_TRACE_PREFIX_SHARE, abs=0.04)
    assert made.follow_share == pytest.approx(WHOLE_TRACE_FOLLOW_SHARE, abs=0.07)
    assert made.prompt_mean == pytest.approx(WHOLE_TRACE_PROMPT_MEAN, rel=0.12)
    assert made.prompt_percentiles == pytest.approx(WHOLE_TRACE_PROMPT_PERCENTILES, rel=0.15)
    assert made.output_mean == pytest.approx(WHOLE_TRACE_OUTPUT_MEAN, rel=0.05)
    assert made.first_block_share == 1.0
    assert hour[-1].arrival_ns / NS_PER_S == pytest.approx(WHOLE_TRACE_SECONDS, rel=0.1)


def test_the_beginning_resembles_the_bundled_sample(hour: list[Request]) -> None:
    """At the beginning no conversation is known, so both repeat less than later."""
    sample = describe(load_trace(SAMPLE_PATH))
    made = describe(hour[: sample.requests])
    assert made.prefix_share == pytest.approx(sample.prefix_share, abs=0.06)
    assert made.first_block_share == sample.first_block_share == 1.0
    assert made.output_mean == pytest.approx(sample.output_mean, rel=0.1)
    assert made.prompt_mean == pytest.approx(sample.prompt_mean, rel=0.3)


def test_conversations_grow(hour: list[Request]) -> None:
    """Most requests that repeat an earlier prompt repeat nearly all of it and extend it."""
    holder: dict[int, Request] = {}
    grown = kept_most = follows = 0
    for request in hour:
        known = [block for block in request.blocks if block in holder]
        if len(known) > 1:
            former = holder[known[-1]]
            follows += 1
            grown += request.prompt_tokens >= former.prompt_tokens
            kept_most += len(known) >= len(former.blocks) - 1
        holder.update(dict.fromkeys(request.blocks, request))
    assert follows > 1000
    assert grown / follows > 0.8
    assert kept_most / follows > 0.75


def test_requests_are_well_formed(hour: list[Request]) -> None:
    for number, request in enumerate(hour):
        assert request.index == number
        assert 1 <= request.prompt_tokens <= CONVERSATION.longest_prompt
        assert len(request.blocks) == block_count(request.prompt_tokens)
        assert request.blocks[0] == SYSTEM_PROMPT_BLOCK
        assert len(set(request.blocks)) == len(request.blocks)
    assert all(earlier.arrival_ns <= later.arrival_ns for earlier, later in pairwise(hour))


def test_the_same_seed_gives_the_same_requests() -> None:
    assert generate(300, seed=5) == generate(300, seed=5)
    assert generate(300, seed=5) != generate(300, seed=6)
    assert generate(0, seed=5) == []


def test_the_parameters_determine_the_statistics() -> None:
    alone = generate(500, seed=1, statistics=replace(CONVERSATION, continues=(0.0,)))
    assert describe(alone).follow_share == 0.0


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(TraceError, match="must not be negative"):
        generate(-1, seed=1)
