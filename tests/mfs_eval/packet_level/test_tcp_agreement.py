"""``mfs study tcp-agreement``: which live rows it plays, with what settings, its tolerance, and its table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mfs_eval.errors import EvaluationError
from mfs_eval.live.live_rows import Row
from mfs_eval.live.virtual_time import read, run_settings, trace_of
from mfs_eval.results.provenance import digest
from mfs_eval.results.rows import RowStore
from mfs_eval.results.schema import Provenance
from mfs_eval.serving.trace import SAMPLE_PATH, TRACE_PATH
from mfs_eval.studies.tcp_agreement import Simulated, agrees, tcp_agreement
from tests.support.live_rows import live_row

SIMULATED = Simulated(0.47, 0.7, 3.0, 204, 4000)
LIVE = live_row("mfs", slo_attainment=0.47, ttft_mean_s=0.7)
ORIGIN = Provenance(trace_digest=digest(TRACE_PATH.read_bytes()), program_digest="2", version="3")


def stored(path: Path, *rows: Row) -> Path:
    store = RowStore(path, Row, ORIGIN)
    for row in rows:
        store.append(row)
    return path


def test_only_rows_that_can_be_simulated_are_read(tmp_path: Path) -> None:
    held, bmv2, bare = live_row(hosts="order-hold"), live_row(switch="bmv2"), live_row(hosts="no-stamps")
    plain = live_row(hosts="order-kernel-tcp")
    found = read(stored(tmp_path / "some.csv", held, bmv2, plain, bare))
    assert [row.hosts for row in found] == ["order-kernel-tcp"]
    with pytest.raises(EvaluationError, match="without --hold"):
        read(stored(tmp_path / "none.csv", held, bmv2, bare))


def test_a_run_has_the_timers_queues_and_order_of_its_row() -> None:
    linux = run_settings(live_row(hosts="order-kernel-tcp", queue_bytes=1 << 18), "tcp")
    assert (linux.hosts.tcp.rto_min_ns, linux.hosts.tcp.timestamps) == (40_000_000, True)
    assert linux.ports.queue_bytes == 1 << 18
    mended = run_settings(live_row(hosts="no-order"), "tcp")
    assert (mended.hosts.tcp.rto_min_ns, mended.hosts.tcp.timestamps) == (1_000_000_000, False)
    assert (linux.control.order, mended.control.order) == ("both", "switch")
    assert run_settings(live_row(), "windowed", "hosts").control.order == "hosts"


def test_a_run_has_the_trace_of_its_row() -> None:
    assert trace_of(live_row(trace_digest=digest(SAMPLE_PATH.read_bytes()))) == SAMPLE_PATH
    assert trace_of(live_row(trace_digest=ORIGIN.trace_digest)) == TRACE_PATH
    with pytest.raises(EvaluationError, match="the trace beef is none of those"):
        trace_of(live_row(trace_digest="beef"))


def test_the_tolerance_is_10_points_and_a_quarter_of_the_mean() -> None:
    assert agrees(replace(SIMULATED, slo_attainment=0.56, ttft_mean_s=0.87), LIVE)
    assert not agrees(replace(SIMULATED, slo_attainment=0.58), LIVE)
    assert not agrees(replace(SIMULATED, ttft_mean_s=0.88), LIVE)


def test_the_study_prints_simulated_beside_live_means(tmp_path: Path) -> None:
    fields = {"hosts": "order", "requests_per_run": 6, "requests": 5, "ttft_mean_s": 0.3}
    rows = [live_row("fifo", seed, timeouts=seed, **fields) for seed in (1, 2)]
    file = stored(tmp_path / "live.csv", *rows, live_row("mfs", **fields))
    result = CliRunner().invoke(tcp_agreement, [str(file), "--policy", "fifo"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines()]
    assert len(lines) == 3
    found = dict(zip(lines[0], lines[2], strict=True))
    assert (found["policy"], found["runs"]) == ("`fifo`", "2")
    assert found["TTFT mean, ms"].endswith(" / 300")
    assert int(found["TTFT mean, ms"].partition(" ")[0]) > 0
    assert found["timeouts"].endswith(" / 2")
