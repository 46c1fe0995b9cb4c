"""Reading, writing and re-timing request traces (mfs_eval.serving.trace)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfs_eval.errors import TraceError
from mfs_eval.serving.trace import (
    BLOCK_TOKENS,
    NS_PER_S,
    SAMPLE_PATH,
    Request,
    block_count,
    load_trace,
    with_poisson_arrivals,
    write_trace,
)

GOOD = '{"timestamp": 27, "input_length": 513, "output_length": 4, "hash_ids": [0, 7]}'


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fields_and_units(tmp_path: Path) -> None:
    assert load_trace(write(tmp_path, GOOD)) == [Request(0, 27_000_000, 513, 4, (0, 7))]


def test_sample_of_the_mooncake_trace() -> None:
    requests = load_trace(SAMPLE_PATH)
    assert len(requests) == 1800
    assert requests[0] == Request(0, 0, 6758, 500, tuple(range(14)))
    assert [request.index for request in requests] == list(range(1800))
    assert load_trace(SAMPLE_PATH, limit=20) == requests[:20]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ('{"timestamp": 27, "input', "is not JSON"),
        ("[1, 2]", "not an object"),
        (GOOD.replace('"timestamp": 27, ', ""), "field 'timestamp' is missing"),
        (GOOD.replace('"output_length": 4, ', ""), "field 'output_length' is missing"),
        (GOOD.replace("27", "-1"), "field 'timestamp' must not be negative"),
        (GOOD.replace("27", "NaN"), "field 'timestamp' must be a number"),
        (GOOD.replace("27", '"27"'), "field 'timestamp' must be a number"),
        (GOOD.replace("27", "3"), "field 'timestamp' goes back in time"),
        (GOOD.replace("513", "0"), "field 'input_length' must be at least 1"),
        (GOOD.replace("513", "5.5"), "field 'input_length' must be a whole number"),
        (GOOD.replace("513", "true"), "field 'input_length' must be a whole number"),
        (GOOD.replace(": 4", ": -4"), "field 'output_length' must be at least 0"),
        (GOOD.replace("[0, 7]", "[0]"), "field 'hash_ids' has 1 blocks, but a prompt of 513 tokens has 2"),
        (GOOD.replace("[0, 7]", "[0, -7]"), "field 'hash_ids' must be a list"),
        (GOOD.replace("[0, 7]", "7"), "field 'hash_ids' must be a list"),
    ],
)
def test_error_names_file_line_and_field(tmp_path: Path, bad: str, complaint: str) -> None:
    path = write(tmp_path, GOOD, "", bad)
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert complaint in str(caught.value)


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        load_trace(tmp_path / "missing.jsonl")
    with pytest.raises(TraceError, match="holds no requests"):
        load_trace(write(tmp_path))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(TraceError, match="not UTF-8"):
        load_trace(binary)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**13), st.integers(1, 5000), st.integers(0, 100), st.integers(0, 10**9)), min_size=1
    )
)
def test_written_traces_read_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, ...]]
) -> None:
    requests = [
        Request(index, arrival, prompt, output, tuple(range(first, first + block_count(prompt))))
        for index, (arrival, prompt, output, first) in enumerate(sorted(rows))
    ]
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    write_trace(path, requests)
    assert load_trace(path) == requests


def test_block_count_rounds_up() -> None:
    assert [block_count(tokens) for tokens in (1, BLOCK_TOKENS, BLOCK_TOKENS + 1)] == [1, 1, 2]


def test_poisson_arrivals() -> None:
    requests = load_trace(SAMPLE_PATH)
    timed = with_poisson_arrivals(requests, rate=8.0, seed=3)
    assert [(r.index, r.blocks) for r in timed] == [(r.index, r.blocks) for r in requests]
    arrivals = [request.arrival_ns for request in timed]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] / NS_PER_S == pytest.approx(len(requests) / 8.0, rel=0.15)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.15), "gaps of a Poisson process are as wide as their mean"
    assert timed == with_poisson_arrivals(requests, rate=8.0, seed=3)
    assert timed != with_poisson_arrivals(requests, rate=8.0, seed=4)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_absurd_rates_are_refused(rate: float) -> None:
    with pytest.raises(TraceError, match="positive number of requests per second"):
        with_poisson_arrivals([], rate, seed=1)
