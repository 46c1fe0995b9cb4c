"""The proxy in front of the engines: sends each request to a prefill and to the decode engine at the same time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mfs_eval.errors import EvaluationError
from mfs_eval.serve.engines import completion
from mfs_eval.serve.workload import Prompt

ANSWER_S = 180.0
CONCURRENT = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcome of a request.

    Attributes:
        prompt: the request.
        transfer: name of its push.
        engine: number of its prefill engine.
        sent_ns: on CLOCK_MONOTONIC.
        ttft_ms: time to first token, from sending; None if it failed.
        prefill_ms: until the prefill engine answered; None if it failed.
        tokens: generated tokens.
        error: why it failed; empty if it did not.
    """

    prompt: Prompt
    transfer: str
    engine: int
    sent_ns: int
    ttft_ms: float | None
    prefill_ms: float | None
    tokens: tuple[int, ...]
    error: str = ""

    @property
    def in_time(self) -> bool:
        """Whether it met its objective."""
        return self.ttft_ms is not None and self.ttft_ms <= self.prompt.objective_ms


class Router:
    """Chooses the prefill engine with the fewest tokens in progress, and measures.

    Args:
        prefill: management addresses of the prefill engines.
        decode: management address of the decode engine.
        to: HOST:PORT of the decode engine's connector.
        store: HOST:PORT of the prefix store; None for none.
        label: is part of the names of all transfers, which must differ between runs.
    """

    def __init__(self, prefill: Sequence[str], decode: str, to: str, store: str | None, label: str) -> None:
        self._prefill = prefill
        self._decode = decode
        self._to = to
        self._store = store
        self._label = label
        self._lock = threading.Lock()
        self._waiting = [0] * len(prefill)

    def play(self, prompts: Sequence[Prompt], output_tokens: int) -> list[Answer]:
        """Send the requests at their times, and return their outcomes in the same order."""
        start = time.monotonic()
        with ThreadPoolExecutor(CONCURRENT) as threads:
            pending = []
            for prompt in sorted(prompts, key=lambda each: each.arrival_s):
                time.sleep(max(0.0, start + prompt.arrival_s - time.monotonic()))
                pending.append(threads.submit(self._serve, prompt, output_tokens))
            return [each.result() for each in pending]

    def _serve(self, prompt: Prompt, output_tokens: int) -> Answer:
        with self._lock:
            engine = prompt.engine
            if engine is None:
                engine = min(range(len(self._prefill)), key=lambda number: self._waiting[number])
            self._waiting[engine] += len(prompt.tokens)
        transfer = f"{self._label}-{prompt.name}"
        sent_ns = time.monotonic_ns()
        prefill_ms: list[float] = []
        prefilling = threading.Thread(target=self._compute, args=(prompt, engine, transfer, sent_ns, prefill_ms))
        prefilling.start()
        ttft_ms: float | None = None
        tokens: list[int] = []
        error = ""
        try:
            params = {"transfer": transfer, "receive": True, "deadline_ms": prompt.objective_ms}
            with completion(self._decode, transfer, prompt.tokens, output_tokens, params, ANSWER_S) as response:
                for line in response:
                    if line.startswith(b"data: {"):
                        ttft_ms = ttft_ms if ttft_ms is not None else (time.monotonic_ns() - sent_ns) / 1e6
                        for choice in json.loads(line[6:]).get("choices", ()):
                            tokens += choice.get("token_ids") or ()
        except (OSError, EvaluationError, ValueError) as caught:
            error = str(caught)
        prefilling.join()
        if ttft_ms is None and not error:
            error = "the decode engine answered without a token"
        return Answer(
            prompt,
            transfer,
            engine,
            sent_ns,
            None if error else ttft_ms,
            prefill_ms[0] if prefill_ms else None,
            tuple(tokens),
            error,
        )

    def _compute(self, prompt: Prompt, engine: int, transfer: str, sent_ns: int, took_ms: list[float]) -> None:
        params = {"transfer": transfer, "to": self._to, "deadline_ms": prompt.objective_ms}
        if self._store is not None:
            params |= {"fetch": self._store, "store": self._store}
        try:
            with completion(self._prefill[engine], transfer, prompt.tokens, 1, params, ANSWER_S) as response:
                response.read()
            took_ms.append((time.monotonic_ns() - sent_ns) / 1e6)
        except (OSError, EvaluationError):
            pass  # the decode engine computes the prompt itself
        finally:
            with self._lock:
                self._waiting[engine] -= len(prompt.tokens)
