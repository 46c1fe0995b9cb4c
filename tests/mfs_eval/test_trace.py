"""Reading, writing and re-timing request traces (mfs_eval.serving.trace)."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.units import NS_PER_S
from mfs_eval.errors import TraceError
from mfs_eval.serving.cli import trace
from mfs_eval.serving.generator import generate
from mfs_eval.serving.trace import (
    BLOCK_TOKENS,
    SAMPLE_PATH,
    TRACE_PATH,
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


def test_fields_are_read_in_their_units(tmp_path: Path) -> None:
    assert load_trace(write(tmp_path, GOOD)) == [Request(0, 27_000_000, 513, 4, (0, 7))]


def test_the_bundled_sample_is_the_start_of_the_mooncake_trace() -> None:
    requests = load_trace(SAMPLE_PATH)
    assert len(requests) == 1800
    assert requests[0] == Request(0, 0, 6758, 500, tuple(range(14)))
    assert [request.index for request in requests] == list(range(1800))
    assert load_trace(SAMPLE_PATH, limit=20) == requests[:20]
    whole = load_trace(TRACE_PATH)
    assert len(whole) == 12_031
    assert whole[:1800] == requests


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_traces_are_read_and_damaged_ones_refused(
    suffix: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    packed = pack(f"{GOOD}\n".encode() * 9)
    path = tmp_path / f"trace.jsonl{suffix}"
    path.write_bytes(packed)
    assert len(load_trace(path)) == 9
    for damaged in (packed[: len(packed) // 2], b"not packed"):
        path.write_bytes(damaged)
        with pytest.raises(TraceError, match=rf"trace\.jsonl\{suffix}: cannot be unpacked"):
            load_trace(path)


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
        (GOOD.replace("27", "Infinity"), "field 'timestamp' must be at most 1000000000000, it is inf"),
        (GOOD.replace("27", "1e300"), "field 'timestamp' must be at most 1000000000000, it is 1e+300"),
        (
            GOOD.replace("27", "9" * 400),
            "field 'timestamp' must be at most 1000000000000, it is 9999999999",
        ),
        (GOOD.replace("27", "9" * 5000), "holds a number of several thousand digits"),
        (
            GOOD.replace("513", "9" * 400),
            "field 'input_length' must be at most 2147483647, it is 9999999999",
        ),
        (GOOD.replace("[0, 7]", "[" * 100_000), "is nested too deeply to be a request"),
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
def test_an_error_names_file_line_and_field(tmp_path: Path, bad: str, complaint: str) -> None:
    path = write(tmp_path, GOOD, "", bad)
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_trace(path) == [Request(0, 27_000_000, 513, 4, (0, 7))]


def test_a_trace_that_cannot_be_written_completely_leaves_the_old_one(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    before = path.read_bytes()

    def broken() -> Iterator[Request]:
        yield load_trace(path)[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_trace(path, broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_trace_written_to_a_link_or_a_device_leaves_both_in_place(tmp_path: Path) -> None:
    target, link = tmp_path / "trace.jsonl", tmp_path / "link"
    link.symlink_to(target)
    write_trace(link, generate(3, seed=1))
    assert link.is_symlink()
    assert load_trace(target) == generate(3, seed=1)
    with pytest.raises(OSError, match="No space left"):
        write_trace("/dev/full", generate(3, seed=1))
    assert Path("/dev/full").is_char_device()


def test_trace_commands_generate_a_trace_and_show_its_statistics(tmp_path: Path) -> None:
    path = tmp_path / "generated.jsonl"
    made = CliRunner().invoke(trace, ["generate", "--requests", "300", "--seed", "5", "--out", str(path)])
    assert (made.exit_code, made.output) == (0, f"{path}: 300 requests\n")
    assert load_trace(path) == generate(300, seed=5)
    shown = CliRunner().invoke(trace, ["stats", str(path)])
    assert shown.exit_code == 0
    assert re.match(r"requests +300 in \d+ s \(\d\.\d\d per second\)\nprompt tokens +mean ", shown.output)
    missing = tmp_path / "missing" / "trace.jsonl"
    with pytest.raises(TraceError, match=f"cannot write {missing}: No such file or directory; choose another file"):
        CliRunner().invoke(
            trace, ["generate", "--requests", "1", "--out", str(missing)], catch_exceptions=False, standalone_mode=False
        )


def test_files_that_are_not_traces_are_refused(tmp_path: Path) -> None:
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


def test_the_block_count_is_rounded_up() -> None:
    assert [block_count(tokens) for tokens in (1, BLOCK_TOKENS, BLOCK_TOKENS + 1)] == [1, 1, 2]


def test_poisson_arrivals_keep_requests_and_have_the_given_rate() -> None:
    requests = load_trace(SAMPLE_PATH)
    timed = with_poisson_arrivals(requests, rate=8.0, seed=3)
    assert [(r.index, r.blocks) for r in timed] == [(r.index, r.blocks) for r in requests]
    arrivals = [request.arrival_ns for request in timed]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] / NS_PER_S == pytest.approx(len(requests) / 8.0, rel=0.15)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.15), "the gaps of a Poisson process deviate by their mean"
    assert timed == with_poisson_arrivals(requests, rate=8.0, seed=3)
    assert timed != with_poisson_arrivals(requests, rate=8.0, seed=4)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_that_are_not_positive_numbers_are_refused(rate: float) -> None:
    with pytest.raises(TraceError, match="positive number of requests per second"):
        with_poisson_arrivals([], rate, seed=1)
