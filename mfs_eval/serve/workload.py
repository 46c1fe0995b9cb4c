"""The requests that a real engine serves: prompts, arrivals and objectives. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mfs_eval.errors import EvaluationError
from mfs_eval.serving.trace import BLOCK_TOKENS as TRACE_BLOCK_TOKENS
from mfs_eval.serving.trace import Request

SHRINK = 4
"""Prompts are this many times shorter than the trace's: a block of the trace is one block of vLLM on CPUs."""
BLOCK_TOKENS = TRACE_BLOCK_TOKENS // SHRINK
PER_ROUND = 3
"""Requests of a round of :func:`behind_loose`."""
PER_ROUND = 3
"""Requests of a round of :func:`behind_loose`."""
FIRST_TOKEN, TOKENS = 3, 1000
"""Ordinary tokens of the models' vocabulary."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request.

    Attributes:
        name: unique within the run.
        arrival_s: since the start of the run.
        tokens: the prompt.
        objective_ms: for the time to first token.
        group: what results are summed up by.
        engine: number of the prefill engine; None lets the router choose.
    """

    name: str
    arrival_s: float
    tokens: tuple[int, ...]
    objective_ms: float
    group: str
    engine: int | None = None


def block(identity: object, count: int = BLOCK_TOKENS) -> tuple[int, ...]:
    """Return ``count`` tokens that follow from ``identity``."""
    chosen = random.Random(str(identity))
    return tuple(chosen.randrange(FIRST_TOKEN, TOKENS) for _ in range(count))


def of_trace(
    requests: Sequence[Request], count: int, rate: float, seed: int, longest: int, objectives: Mapping[int, float]
) -> list[Prompt]:
    """Return ``count`` requests of a trace with prompts of at most ``longest`` tokens, and Poisson arrivals.

    Args:
        requests: the trace.
        count: number of requests.
        rate: requests per second.
        seed: draws the arrivals; also the window of the trace.
        longest: tokens; longer prompts are left out.
        objectives: milliseconds by length, for two lengths or more; a length between them is interpolated.

    Raises:
        EvaluationError: the trace has too few requests that are short enough.
    """
    fitting = [request for request in requests if request.prompt_tokens // SHRINK <= longest]
    if len(fitting) < count:
        raise EvaluationError(
            f"the trace has {len(fitting)} prompts of at most {longest * SHRINK} tokens, {count} are asked for; "
            "lower --requests"
        )
    start = (seed - 1) * count % (len(fitting) - count + 1)
    chosen, arrival_s = random.Random(seed), 0.0
    prompts = []
    for number, request in enumerate(fitting[start : start + count]):
        arrival_s += chosen.expovariate(rate)
        length = max(BLOCK_TOKENS, request.prompt_tokens // SHRINK)
        tokens = tuple(token for identity in request.blocks for token in block(identity))[:length]
        name = f"s{seed}-{number}"
        prompts.append(Prompt(name, arrival_s, tokens, interpolated(objectives, len(tokens)), "trace"))
    return prompts


def behind_loose(
    rounds: int, seed: int, loose: int, loose_ms: float, tight: int, tight_ms: float, after_s: float, pause_s: float
) -> list[Prompt]:
    """Return rounds of two loose requests at two prefill engines, and a tight one while their KV is in flight.

    Args:
        rounds: number of rounds.
        seed: draws the prompts.
        loose, tight: tokens of the prompts.
        loose_ms, tight_ms: objectives.
        after_s: the tight one comes this long after the loose ones, at the first engine.
        pause_s: time from one round to the next.
    """
    prompts = []
    for number in range(rounds):
        start = number * pause_s
        for engine in range(2):
            name = f"s{seed}-{number}-loose{engine}"
            prompts.append(Prompt(name, start, block(name, loose), loose_ms, "loose", engine))
        name = f"s{seed}-{number}-tight"
        prompts.append(Prompt(name, start + after_s, block(name, tight), tight_ms, "tight", 0))
    return prompts


def interpolated(values: Mapping[int, float], at: int) -> float:
    """Return the value at ``at`` on the line through the neighbouring points, beyond them on the outermost line.

    Raises:
        ValueError: there are fewer than two points.
    """
    points = sorted(values)
    if len(points) < 2:
        raise ValueError("interpolation needs two points")
    upper = next((number for number, point in enumerate(points) if point >= at), len(points) - 1)
    right = points[max(1, upper)]
    left = points[max(1, upper) - 1]
    return values[left] + (values[right] - values[left]) * (at - left) / (right - left)
