"""``mfs sweep`` and ``mfs report``: grids that resume, and the workloads of a data centre."""

from __future__ import annotations

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mfs_ctrl.cli import mfs
from mfs_eval.errors import ClusterError, EvaluationError, TraceError
from mfs_eval.flow_level import sweep as sweeping
from mfs_eval.flow_level.cases import CASES, case_named, case_workload
from mfs_eval.flow_level.data_centre import data_centre
from mfs_eval.flow_level.sweep import Grid, run_sweep
from mfs_eval.flow_level.sweep_report import rate_at, report_sweep
from mfs_eval.flow_level.sweep_rows import FILE
from mfs_eval.flow_level.variants import VARIANTS, variant_named
from mfs_eval.serving.prompts import AGENT_LIKE, CONVERSATION_LIKE, PromptClass, openers, prompts
from mfs_eval.serving.router import route
from mfs_eval.serving.trace import BLOCK_TOKENS, SAMPLE_PATH, Request

GRID = Grid(
    cases=("dbrx-agent",), variants=("fifo", "ceiling"), seeds=(1, 2), rates_per_gpu=(0.5,), servers=8, requests=6
)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    run_sweep(GRID, out, jobs=1, console=quiet())
    return out


def test_a_sweep_has_a_row_for_each_point(swept: Path) -> None:
    rows = run_sweep(GRID, swept, jobs=1, console=quiet())
    assert [(row.variant, row.seed) for row in rows] == [("ceiling", 1), ("ceiling", 2), ("fifo", 1), ("fifo", 2)]
    assert all(row.requests == 4 and row.ttft_mean_s > 0 for row in rows)
    assert all(row.request_rate == 0.5 * 64 for row in rows)


def test_a_dry_run_says_what_is_missing_and_writes_nothing(swept: Path, tmp_path: Path) -> None:
    def said(grid: Grid, out: Path) -> str:
        console = quiet()
        run_sweep(grid, out, console=console, dry_run=True)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    assert re.fullmatch(r"4 runs; about \d+ s\n", said(GRID, tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    before = (swept / FILE).read_bytes()
    assert "6 runs, 4 of them finished; the others take about" in said(replace(GRID, seeds=(1, 2, 3)), swept)
    assert said(GRID, swept) == "4 runs, 4 of them finished\n"
    assert (swept / FILE).read_bytes() == before


def test_finished_points_are_not_repeated(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (swept / FILE).read_text().splitlines(keepends=True)
    # Killed in the middle of its third line.
    (tmp_path / FILE).write_text("".join(lines[:3]) + lines[3][:20])
    played: list[tuple[str, int]] = []
    play = sweeping.play_point

    def noted(point: sweeping.Point, work: sweeping.Workload) -> sweeping.Row:
        played.append((point.variant, point.seed))
        return play(point, work)

    monkeypatch.setattr(sweeping, "play_point", noted)
    rows = run_sweep(GRID, tmp_path, jobs=1, console=quiet())
    assert sorted(played) == [("fifo", 1), ("fifo", 2)]
    again = {row.key: row.slo_attainment for row in run_sweep(GRID, swept, jobs=1, console=quiet())}
    assert {row.key: row.slo_attainment for row in rows} == again


def test_rows_of_another_trace_are_refused(swept: Path, tmp_path: Path) -> None:
    shutil.copy(swept / FILE, tmp_path / FILE)
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(SAMPLE_PATH.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(EvaluationError, match=r"sweep\.csv: its rows come from another trace \([0-9a-f]+, not"):
        run_sweep(replace(GRID, trace=other), tmp_path, jobs=1, console=quiet())


def test_a_report_has_a_table_and_a_picture(swept: Path) -> None:
    console = quiet()
    [picture] = report_sweep(swept, console)
    assert picture.read_text("utf-8").startswith("<svg")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "dbrx-agent, 8 servers, 1:1" in text
    assert all(variant in text for variant in GRID.variants)


def test_the_command_writes_the_page_with_its_command(swept: Path) -> None:
    grid = ["--case", "dbrx-agent", "--variant", "fifo", "--variant", "ceiling", "--seeds", "1-2"]
    grid += ["--request-rate-per-gpu", "0.5", "--servers", "8", "--requests", "6", "--jobs", "1"]
    result = CliRunner().invoke(mfs, ["sweep", *grid, "--out", str(swept)], catch_exceptions=False)
    assert f"Report: {swept}/report.html" in result.output
    page = (swept / "report.html").read_text("utf-8")
    assert f"mfs sweep {' '.join(grid)} --out {swept}" in page
    assert "8 servers, 1 prefill unit" in page
    assert "At 0.5 requests per second and GPU, fifo serves" in page


def test_impossible_grids_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no .*sweep\.csv"):
        report_sweep(tmp_path, quiet())
    for changes, message in (
        ({"cases": ("gpt",)}, "no case 'gpt'"),
        ({"variants": ("best",)}, "no flow-level variant 'best'"),
        ({"oversubscriptions": (3,)}, "3:1"),
        ({"servers": 4}, "too few"),
    ):
        with pytest.raises(EvaluationError, match=message):
            run_sweep(replace(GRID, **changes), tmp_path, jobs=1, console=quiet())  # type: ignore[arg-type]
    (tmp_path / FILE).write_text("a,b\n1,2\n")
    with pytest.raises(EvaluationError, match="its columns differ from those of this version"):
        run_sweep(GRID, tmp_path, jobs=1, console=quiet())
    with pytest.raises(EvaluationError, match="has 1800 requests, but the run needs 2000"):
        case_workload(case_named("llama3-8b-mooncake"), 8, 2000)


def test_the_rate_at_an_attainment_is_interpolated() -> None:
    curve = [(1.0, 1.0), (2.0, 0.8), (3.0, 0.4)]
    assert rate_at(curve, 0.9) == pytest.approx(1.5)
    assert rate_at(curve, 0.5) == pytest.approx(2.75)
    assert rate_at(curve, 0.3) == 3.0
    assert rate_at([(1.0, 0.2)], 0.5) is None


@pytest.mark.parametrize("kind", [CONVERSATION_LIKE, AGENT_LIKE])
def test_prompts_have_the_length_and_the_reuse_that_they_should(kind: PromptClass) -> None:
    drawn = prompts(kind, 4000, seed=3)
    total = sum(one.prompt_tokens for one in drawn)
    assert total / len(drawn) == pytest.approx(kind.mean_tokens, rel=0.06)
    [placement, *_] = placements = list(route(drawn, 1, openers(kind)).values())
    assert placement.unit == 0
    assert sum(one.reuse.tokens for one in placements) / total == pytest.approx(kind.reusable, abs=0.04)
    assert prompts(kind, 50, seed=3) == prompts(kind, 50, seed=3) != prompts(kind, 50, seed=4)


def test_prompts_that_are_entirely_reusable_are_refused() -> None:
    with pytest.raises(TraceError, match="100% reusable"):
        prompts(replace(AGENT_LIKE, reusable=1.0), 3, 1)


def request(index: int, *blocks: int) -> Request:
    return Request(index, 0, len(blocks) * BLOCK_TOKENS + 100, 1, (*blocks, 1000 + index))


def test_the_router_goes_where_the_prefix_is_until_that_unit_has_too_much_to_do() -> None:
    alike = [request(index, 1, 2, 3, 4) for index in range(40)]
    placed = route(alike, 4, [request(99, 1, 2, 3, 4)])
    units = [placed[one.index].unit for one in alike]
    assert units[0] == placed[0].unit
    assert placed[0].reuse.remote_tokens == 0
    # Others take over, by fetching what the first has.
    assert len(set(units)) > 1
    assert any(one.reuse.remote_tokens for one in placed.values())
    # By load alone it fetches sooner.
    by_load = route(alike, 4, [request(99, 1, 2, 3, 4)], fetch_weight=0)
    assert [by_load[one.index].unit for one in alike[:4]] != units[:4]


@given(st.integers(1, 6), st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=30))
def test_the_router_spreads_work_and_reuses_what_is_there(units: int, prefixes: list[list[int]]) -> None:
    requests = [request(index, *blocks) for index, blocks in enumerate(prefixes)]
    placed = route(requests, units)
    assert placed.keys() == {one.index for one in requests}
    for one in requests:
        reuse = placed[one.index].reuse
        assert 0 <= placed[one.index].unit < units
        assert reuse.tokens < one.prompt_tokens
        assert (reuse.holder is None) == (reuse.remote_tokens == 0)
        assert reuse.holder != placed[one.index].unit


def test_a_data_centre_is_half_prefill_and_half_decode() -> None:
    cluster = data_centre(256, 4)
    assert cluster.servers == 256
    assert len(cluster.units) == 32
    assert {cluster.unit_gpus(unit) for unit in range(32)} == {32}
    assert len(cluster.decode_servers) == 128
    with pytest.raises(ClusterError, match="too few"):
        data_centre(4, 4)


@pytest.mark.parametrize("name", CASES)
def test_every_case_has_a_fabric_and_a_scenario(name: str) -> None:
    case = CASES[name]
    scenario, fabric = case.scenario(64), case.fabric(64, 2)
    hosts = scenario.cluster.servers * scenario.cluster.nics_per_server
    assert fabric.servers * fabric.nics_per_server == hosts
    assert scenario.serving.kv_nics in (0, case.tensor_parallel)
    # A unit has its own edge switch.
    assert {len({server // fabric.servers_per_edge for server in unit}) for unit in scenario.cluster.units} == {1}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_plays(name: str) -> None:
    point = sweeping.Point("mixtral-8x22b-agent", 8, 6, 1, 3.0, "packed", "alike", 0.5, name, 1)
    row = sweeping.play_point(point, _tiny())
    assert row.variant == variant_named(name).name
    assert row.requests == 4
    assert row.unsettled == 0


_WORK: list[sweeping.Workload] = []


def _tiny() -> sweeping.Workload:
    if not _WORK:
        _WORK.append(case_workload(case_named("mixtral-8x22b-agent"), 8, 6))
    return _WORK[0]
