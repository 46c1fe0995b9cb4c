"""``mfs ablate``: its runs, its rows, its tables and pictures; and the clairvoyants it compares with."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from mfs_ctrl import policies
from mfs_eval.errors import EvaluationError, ServingError
from mfs_eval.packet_level.experiment import run, uncontended_network
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.testbed import open_testbed
from mfs_eval.results.rows import PROVENANCE
from mfs_eval.results.statistics import gap_closed, mean_interval, paired_difference
from mfs_eval.serving.laxity import BatchTimes
from mfs_eval.setup.policies import CEILING, LLF, policy_for
from mfs_eval.setup.run_settings import RunSettings
from mfs_eval.setup.scenario import SCENARIOS
from mfs_eval.setup.variants import VARIANTS
from mfs_eval.studies import ablation, ablation_lines
from mfs_eval.studies.ablation_rows import Row
from tests.mfs_eval import test_serving as serving
from tests.mfs_eval.test_experiment import RATE, TINY, work

GRID: dict[str, Any] = {
    "scenarios": ["testbed"],
    "variants": ["fifo", "mfs", "ceiling"],
    "loads": [0.2],
    "seeds": (1, 2),
    "prompts": "first",
    "scale": 8000,
}
REQUESTS = 3


class Plays:
    """Runs of an ablation in this process, counted; the one after ``stop_after`` of them is interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> None:
        self.count = 0
        self._stop_after = stop_after
        self._play = run_cell
        monkeypatch.setattr(ablation, "play", self)

    def __call__(self, cell: ablation.Cell) -> Row:
        if self.count == self._stop_after:
            raise KeyboardInterrupt
        self.count += 1
        return self._play(cell)


run_cell = ablation.play


def ablate(out: Path, **grid: Any) -> list[Row]:
    with (out.parent / "printed").open("a") as printed:
        console = Console(file=printed, width=200)
        return ablation.run_ablation(out, requests=REQUESTS, jobs=1, console=console, **(GRID | grid))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished ablation, run in two worker processes."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with (out.parent / "printed").open("w") as printed:
        ablation.run_ablation(out, requests=REQUESTS, jobs=2, console=Console(file=printed, width=200), **GRID)
    return out


def test_a_row_for_every_run_with_the_same_seeds_for_all(finished: Path) -> None:
    with (finished / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [
        (variant, seed) for variant in ("ceiling", "fifo", "mfs") for seed in ("1", "2")
    ]
    assert {(row["scenario"], row["load"], float(row["request_rate"])) for row in rows} == {
        ("testbed", "0.2", SCENARIOS["testbed"].request_rates[2])
    }
    for seed in ("1", "2"):
        ttft = {row["variant"]: float(row["ttft_mean_s"]) for row in rows if row["seed"] == seed}
        assert 0 < ttft["ceiling"] <= ttft["mfs"]
    assert all((row["packets"] == "0") == (row["variant"] == "ceiling") for row in rows)
    assert (finished / "ablation-testbed.svg").read_text().startswith("<svg")
    page = (finished / "report.html").read_text("utf-8")
    assert "<strong>testbed:</strong> At 28 requests per second, mfs serves" in page
    printed = (finished.parent / "printed").read_text()
    assert "testbed, 28 requests per second" in printed
    assert "ceiling: each flow alone on its path" in printed


def test_a_dry_run_tells_the_missing_runs_and_writes_nothing(finished: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert ablate(new, dry_run=True) == []
    assert not new.exists()
    printed = (tmp_path / "printed").read_text()
    assert re.fullmatch(r"\d+ runs; about \d+ (s|min)\n", printed)
    before = (finished / "ablation.csv").read_bytes()
    assert len(ablate(finished, dry_run=True)) == int(printed.split()[0])
    assert (finished / "ablation.csv").read_bytes() == before


def test_after_an_interruption_within_a_line_it_resumes_and_yields_the_same_file(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    Plays(monkeypatch, stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        ablate(out)
    path = out / "ablation.csv"
    path.write_bytes(path.read_bytes()[:-20])
    plays = Plays(monkeypatch)
    ablate(out)
    # Two were missing, and the one that was cut off.
    assert plays.count == 3
    for name in ("ablation.csv", "ablation-testbed.svg", "report.html"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_finished_runs_are_not_repeated(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "ablation.csv").write_bytes((finished / "ablation.csv").read_bytes())
    plays = Plays(monkeypatch)
    assert len(ablate(out)) == 6
    assert plays.count == 0
    assert len(ablate(out, variants=["ceiling"], request_rates=[5.0], loads=[], seeds=(1,))) == 7
    assert plays.count == 1


def test_rows_of_other_runs_are_refused_and_kept(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "ablation.csv"
    before = (finished / "ablation.csv").read_bytes()
    path.write_bytes(before)
    with pytest.raises(EvaluationError, match=r"ablation\.csv: its runs have scale 8,000, not 4,000; remove .*--out"):
        ablate(tmp_path, scale=4000)
    assert path.read_bytes() == before
    for other, reason in (
        ({"prompts": "windows", "loads": []}, "its runs have the prompts 'first' and not 'windows'"),
        ({"hand_over_early": False}, "its runs hand KV over beside the all-to-all and not after the all-to-all"),
    ):
        with pytest.raises(EvaluationError, match=reason):
            ablate(tmp_path, **other)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(EvaluationError, match=r"ablation\.csv: its columns differ from those of this version"):
        ablate(tmp_path)
    path.write_bytes(before.replace(b"testbed,fifo,fifo,packets,28.0", b"testbed,fifo,fifo,packets,fast", 1))
    with pytest.raises(EvaluationError, match=r"line 4: request_rate: .*number"):
        ablate(tmp_path)


def test_rows_record_the_trace_the_program_and_the_version(finished: Path) -> None:
    with (finished / "ablation.csv").open() as file:
        origins = {tuple(row[name] for name in PROVENANCE) for row in csv.DictReader(file)}
    assert len(origins) == 1
    assert all(origins.pop())


def test_a_picture_also_shows_the_rates_of_earlier_commands(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "ablation.csv").write_bytes((finished / "ablation.csv").read_bytes())
    ablate(out, variants=["ceiling"], request_rates=[5.0], loads=[], seeds=(1,))
    with_both = (out / "ablation-testbed.svg").read_bytes()
    assert with_both != (finished / "ablation-testbed.svg").read_bytes()
    ablate(out, variants=["ceiling"])
    assert (out / "ablation-testbed.svg").read_bytes() == with_both


def test_an_unknown_variant_is_refused_with_a_list(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no variant 'without-luck'; there are mfs, hosts-only, switch-only"):
        ablate(tmp_path / "out", variants=["fifo", "without-luck"])
    assert not (tmp_path / "out").exists()


def test_flows_serve_a_window_for_each_seed_and_pass_no_program(tmp_path: Path) -> None:
    asked = {"prompts": "windows", "loads": [], "request_rates": [22.0], "variants": ["fifo", "fifo-giving-up"]}
    rows = ablate(tmp_path / "out", engine="flows", **asked)
    assert {(row.engine, row.prompts, row.program_digest, row.packets) for row in rows} == {
        ("flows", "windows", "none", 0)
    }
    # At this load nothing is late, so that giving up changes nothing; another window does.
    ttft = {(row.variant, row.seed): row.ttft_mean_s for row in rows}
    assert ttft["fifo", 1] == ttft["fifo-giving-up", 1] != ttft["fifo", 2]
    with pytest.raises(EvaluationError, match="another compiled program \\(none, not"):
        ablate(tmp_path / "out", **asked)


def test_what_flows_or_windows_lack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no flow-level variant 'policing'"):
        ablate(tmp_path / "out", engine="flows", variants=["policing"])
    with pytest.raises(EvaluationError, match=r"'windows' has no rate for load 0\.2, .*; give a --request-rate"):
        ablate(tmp_path / "out", prompts="windows")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_settings_and_a_policy(name: str) -> None:
    variant = VARIANTS[name]
    alike = [one.name for one in VARIANTS.values() if (one.policy, one.settings) == (variant.policy, variant.settings)]
    assert alike == [name]
    if variant.policy != CEILING:
        assert policy_for(variant.policy, TINY, work(), work().requests).name == variant.policy


def made_up(variant: str, seed: int, attained: float) -> Row:
    numbers = dict.fromkeys(Row.columns(), 1) | dict.fromkeys(PROVENANCE, "x")
    return Row.model_validate(
        numbers
        | {
            "scenario": "s",
            "engine": "packets",
            "prompts": "first",
            "policy": "p",
            "variant": variant,
            "seed": seed,
            "slo_attainment": attained,
        }
    )


def test_lines_pair_seeds_with_the_full_scheduler() -> None:
    attained = {"mfs": [0.4, 0.6], "fifo": [0.2, 0.3], "sjf": [0.3, 0.45], "ceiling": [0.5, 0.8]}
    rows = [made_up(name, seed, share) for name, shares in attained.items() for seed, share in enumerate(shares)]
    full, fifo, sjf, ceiling = ablation_lines.lines(
        [*rows, made_up("mfs", 9, 1.0).model_copy(update={"load": None})], 1
    )
    assert [line.variant for line in (full, fifo, sjf, ceiling)] == ["mfs", "fifo", "sjf", "ceiling"]
    assert full.against is None
    assert (full.seeds, full.attainment.mean) == (3, pytest.approx(2 / 3))
    assert sjf.against is not None
    # Seeds that both have: 0.3 - 0.4 and 0.45 - 0.6; Student's t with one degree of freedom is 12.706.
    assert sjf.against.mean == pytest.approx(-0.125)
    assert sjf.against.half == pytest.approx(12.706 * 0.025, rel=1e-4)
    assert [line.gap_closed for line in (full, fifo, sjf, ceiling)] == pytest.approx([0.625, 0, 0.3125, 1])
    assert ablation_lines.lines(rows, 2) == []


def test_the_cost_of_cheating_is_relative_to_the_same_requests_without_it() -> None:
    attained = {"mfs": 0.4, "fifo": 0.2, "ceiling": 0.6, "bystanders": 0.5, "policing": 0.45}
    rows = [made_up(name, seed, share + seed / 10) for name, share in attained.items() for seed in range(2)]
    bystanders, policed = (line for line in ablation_lines.lines(rows, 1) if line.variant in ("bystanders", "policing"))
    assert (bystanders.against, bystanders.gap_closed, policed.gap_closed) == (None, None, None)
    assert policed.against is not None
    assert policed.against.mean == pytest.approx(-0.05)


def test_intervals_agree_with_hand_calculation() -> None:
    three = mean_interval([1, 2, 3])
    # Standard deviation 1, so a standard error of 1 / sqrt 3; t with two degrees of freedom is 4.303.
    assert (three.mean, three.half) == (2, pytest.approx(4.303 / math.sqrt(3), rel=1e-4))
    assert mean_interval([0.5]).half == math.inf
    assert paired_difference({1: 0.5}, {2: 0.5}) is None
    assert gap_closed({1: 0.5, 2: 9}, {1: 0.2, 3: 9}, {1: 0.6}) == pytest.approx(0.75)
    assert gap_closed({1: 0.5}, {1: 0.5}, {1: 0.5}) is None
    assert gap_closed({1: 0.5}, {}, {1: 0.5}) is None


def flow(stage: Stage, layer: int, beyond: int = 0) -> FlowSpec:
    return FlowSpec(1, 1, stage, 1000, 50, layer, beyond)


@pytest.mark.parametrize(
    ("early", "fetches", "collectives"),
    [
        # Computing takes 10, 20, 30, all-to-alls 1, 2, 3, the last KV 5, which overlaps the last all-to-all if early.
        (True, [10 + 1 + 57, 20 + 2 + 35, 30 + 5], [20 + 2 + 30 + 5, 30 + 5, 0]),
        (False, [10 + 1 + 60, 20 + 2 + 38, 30 + 3 + 5], [20 + 2 + 30 + 3 + 5, 30 + 3 + 5, 5]),
    ],
)
def test_laxity_deadlines_leave_time_for_what_follows(early: bool, fetches: list[int], collectives: list[int]) -> None:
    times = BatchTimes((10, 20, 30), (1, 2, 3), 5, early, layers_per_step=4, bits_per_second=8_000_000_000)
    layers = (0, 4, 8)
    assert [1000 - times.deadline_ns(flow(Stage.KV_REUSE, layer)) for layer in layers] == fetches
    assert [1000 - times.deadline_ns(flow(Stage.COLLECTIVE, layer)) for layer in layers] == collectives
    # A byte takes a nanosecond.
    assert 1000 - times.deadline_ns(flow(Stage.P2D, 12, beyond=700)) == 700


@pytest.mark.parametrize("early", [False, True])
def test_a_request_that_is_just_in_time_alone_has_no_laxity(early: bool) -> None:
    config = replace(serving.tiny(), laxity_deadlines=True, hand_over_early=early)
    requests = [serving.request(0, 100)]
    ttft_ns = serving.run(config, requests).records[0].ttft_ns
    network = serving.RecordingNetwork(config.scaled_nic_bits_per_second)
    serving.run(config, requests, network, slo_ns=ttft_ns)
    left = [
        (spec.stage, spec.deadline_ns - start_ns - network.flow_ns(spec.total_bytes))
        for start_ns, _, spec in network.flows
    ]
    # Up to a nanosecond of rounding per flow of the chain.
    assert all(laxity >= -8 for _, laxity in left)
    assert min(laxity for stage, laxity in left if stage == Stage.COLLECTIVE) <= 8


def test_a_wrong_estimate_of_computing_moves_only_laxity_deadlines() -> None:
    def first_collective(estimate: float) -> tuple[int, int]:
        config = replace(serving.tiny(), laxity_deadlines=True, compute_estimate=estimate)
        network = serving.RecordingNetwork(config.scaled_nic_bits_per_second)
        [record] = serving.run(config, [serving.request(0, 100)], network).records
        deadlines = [spec.deadline_ns for _, _, spec in network.flows if spec.stage == Stage.COLLECTIVE]
        return deadlines[0], record.ttft_ns

    (early, *_), (right, ttft_ns), (late, *_) = map(first_collective, (1.5, 1.0, 0.5))
    assert right - early == pytest.approx(late - right, abs=8)
    assert early < right < late
    assert {first_collective(estimate)[1] for estimate in (0.0, 0.5, 1.5)} == {ttft_ns}
    with pytest.raises(ServingError, match="compute_estimate"):
        replace(serving.tiny(), compute_estimate=-1.0)


@pytest.mark.parametrize("count", [1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 30 * SEGMENT_BYTES])
def test_the_ceiling_is_what_a_flow_takes_alone_on_the_testbed(count: int) -> None:
    ended: list[int] = []
    with open_testbed(TINY, policies.fifo(), RunSettings()) as idle:
        idle.serving_network.start_flow(0, FlowSpec(2, 1, Stage.P2D, 10**12, count), ended.append)
        idle.serving_network.run()
    assert ended == [pytest.approx(uncontended_network(TINY).flow_ns(count), rel=0.01)]


def test_a_clairvoyant_serves_everything_and_does_not_beat_the_ceiling() -> None:
    clairvoyant, ceiling = (run(TINY, work(), name, RATE, 1) for name in (LLF, CEILING))
    assert clairvoyant.requests == ceiling.requests
    assert clairvoyant.ttft_mean_s > ceiling.ttft_mean_s
    assert ceiling.slo_attainment >= clairvoyant.slo_attainment
