"""Request traces in the JSON Lines format of the Mooncake release: reading, writing, and new arrival times.

Each line is one object: ``timestamp`` (milliseconds since the start), ``input_length`` and ``output_length`` (tokens)
and ``hash_ids``, the ids of the prompt's 512-token blocks in order. Two prompts that begin with the same ids begin with
the same tokens, so the KV cache of that prefix can be reused.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import math
import os
import reprlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

# Imported now: numpy loads its random module at first use, and swallows what a signal handler raises meanwhile.
from numpy.random import default_rng

from host_agent.protocol.units import NS_PER_S
from mfs_eval.errors import TraceError

BLOCK_TOKENS = 512
"""Tokens in one block of ``hash_ids``."""
NS_PER_MS = 1_000_000
MOST_MS = 10**12
"""Latest timestamp, about 30 years: nanoseconds then fit 64 bits."""
MOST_TOKENS = 2**31 - 1
_DATA = Path(__file__).parents[1] / "data"
TRACE_PATH = _DATA / "mooncake_conversation.jsonl.xz"
"""The Mooncake conversation trace: 12,031 requests over one hour."""
SAMPLE_PATH = _DATA / "mooncake_conversation_sample.jsonl"
"""Its first 1,800 requests."""
_OPENERS: Mapping[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".xz": lzma.open}
"""By the end of a name: what reads a compressed trace."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt.

    Attributes:
        index: number of the request in its trace, from 0.
        arrival_ns: arrival time in nanoseconds since the start of the trace.
        prompt_tokens: length of the prompt, at least 1.
        output_tokens: length of the answer.
        blocks: ids of the prompt's blocks of :data:`BLOCK_TOKENS` tokens, in order; the last one may be partly filled.
    """

    index: int
    arrival_ns: int
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


def block_count(prompt_tokens: int) -> int:
    """Return the number of blocks of a prompt; the last one may be partly filled."""
    return -(-prompt_tokens // BLOCK_TOKENS)


def load_trace(path: Path | str, limit: int | None = None) -> list[Request]:
    """Read the first ``limit`` requests (by default all) of the trace at ``path``. A byte order mark is skipped.

    A name that ends in ``.gz`` or ``.xz`` is that of a compressed trace.

    Raises:
        TraceError: the file cannot be read or is empty, or a line is not a request. The message names file, line and
            field.
    """
    requests: list[Request] = []
    try:
        with _OPENERS.get(Path(path).suffix, open)(path, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if limit is not None and len(requests) >= limit:
                    break
                if line.strip():
                    place = f"{path}, line {number}"
                    request = _parse_line(line, len(requests), place)
                    if requests and request.arrival_ns < requests[-1].arrival_ns:
                        raise TraceError(f"{place}: field 'timestamp' goes back in time; sort the trace by timestamp")
                    requests.append(request)
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError) as error:
        raise TraceError(f"{path}: cannot be unpacked ({error}); give a whole .gz or .xz file") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); give the path of a JSON Lines trace") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: is not UTF-8 text; give the path of a JSON Lines trace") from None
    if not requests:
        raise TraceError(f"{path}: holds no requests")
    return requests


def write_trace(path: Path | str, requests: Iterable[Request]) -> None:
    """Write ``requests`` so that :func:`load_trace` reads them back the same, renumbered from 0.

    The file is written under a temporary name and renamed when it is complete, so ``path`` never holds half a trace. A
    device or pipe is written directly.

    Raises:
        OSError: the file cannot be written; a regular file is as it was.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open("w", encoding="utf-8") as stream:
            stream.writelines(_line(request) + "\n" for request in requests)
        return
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}-", delete=False
    ) as out:
        try:
            for request in requests:
                out.write(_line(request) + "\n")
            out.close()
            os.chmod(out.name, 0o666 & ~_umask())
            os.replace(out.name, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(out.name)
            raise


def with_poisson_arrivals(requests: Sequence[Request], rate: float, seed: int) -> list[Request]:
    """Return the same requests in the same order, arriving as a Poisson process of ``rate`` requests per second.

    Raises:
        TraceError: ``rate`` is not a positive number.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise TraceError(f"the arrival rate must be a positive number of requests per second, not {rate}")
    gaps = default_rng(seed).exponential(NS_PER_S / rate, len(requests))
    return [
        replace(request, arrival_ns=round(float(arrival)))
        for request, arrival in zip(requests, np.cumsum(gaps), strict=True)
    ]


def _line(request: Request) -> str:
    whole, rest = divmod(request.arrival_ns, NS_PER_MS)
    fields = {
        "timestamp": request.arrival_ns / NS_PER_MS if rest else whole,
        "input_length": request.prompt_tokens,
        "output_length": request.output_tokens,
        "hash_ids": list(request.blocks),
    }
    return json.dumps(fields)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _parse_line(line: str, index: int, place: str) -> Request:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise TraceError(f"{place}: is not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise TraceError(f"{place}: is nested too deeply to be a request") from None
    except ValueError:  # the interpreter does not convert longer ones
        raise TraceError(f"{place}: holds a number of several thousand digits") from None
    if not isinstance(fields, dict):
        raise TraceError(f"{place}: is JSON, but not an object with the fields of a request")
    timestamp = _field(fields, "timestamp", place)
    if type(timestamp) not in (int, float) or (isinstance(timestamp, float) and math.isnan(timestamp)):
        raise TraceError(f"{place}: field 'timestamp' must be a number of milliseconds, not {reprlib.repr(timestamp)}")
    if timestamp < 0:
        raise TraceError(f"{place}: field 'timestamp' must not be negative, it is {reprlib.repr(timestamp)}")
    if timestamp > MOST_MS:
        raise TraceError(f"{place}: field 'timestamp' must be at most {MOST_MS}, it is {reprlib.repr(timestamp)}")
    prompt_tokens = _count(fields, "input_length", place, minimum=1)
    output_tokens = _count(fields, "output_length", place, minimum=0)
    blocks = _field(fields, "hash_ids", place)
    if not isinstance(blocks, list) or not all(type(block) is int and block >= 0 for block in blocks):
        raise TraceError(f"{place}: field 'hash_ids' must be a list of whole numbers that are not negative")
    if len(blocks) != block_count(prompt_tokens):
        raise TraceError(
            f"{place}: field 'hash_ids' has {len(blocks)} blocks, but a prompt of {prompt_tokens} tokens "
            f"has {block_count(prompt_tokens)} blocks of {BLOCK_TOKENS} tokens"
        )
    return Request(index, round(timestamp * NS_PER_MS), prompt_tokens, output_tokens, tuple(blocks))


def _field(fields: dict[str, Any], name: str, place: str) -> Any:
    if name not in fields:
        raise TraceError(f"{place}: field '{name}' is missing")
    return fields[name]


def _count(fields: dict[str, Any], name: str, place: str, minimum: int) -> int:
    value = _field(fields, name, place)
    if type(value) is not int:
        raise TraceError(f"{place}: field '{name}' must be a whole number of tokens, not {reprlib.repr(value)}")
    if not minimum <= value <= MOST_TOKENS:
        bound = f"at least {minimum}" if value < minimum else f"at most {MOST_TOKENS}"
        raise TraceError(f"{place}: field '{name}' must be {bound}, it is {reprlib.repr(value)}")
    return value
