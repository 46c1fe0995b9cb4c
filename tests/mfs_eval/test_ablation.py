"""``mfs ablate``: its runs, its file and what is made of it; and the clairvoyants it compares with."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from host_agent.protocol.stamp import Stage
from mfs_ctrl import policies
from mfs_eval.errors import EvaluationError, ServingError
from mfs_eval.packet_level.experiment import alone_on_the_rack, run
from mfs_eval.packet_level.hosts.virtual_host import SEGMENT_BYTES
from mfs_eval.packet_level.testbed import RunSettings, rack
from mfs_eval.results.ablation_rows import COLUMNS, Row, RowFile
from mfs_eval.results.statistics import gap_closed, mean_interval, paired_difference
from mfs_eval.serving.laxity import BatchTimes
from mfs_eval.serving.network_interface import FlowSpec
from mfs_eval.setup.policies import CEILING, LLF, policy_for
from mfs_eval.setup.scenario import SCENARIOS
from mfs_eval.setup.variants import VARIANTS
from mfs_eval.studies import ablation
from tests.mfs_eval import test_serving as serving
from tests.mfs_eval.test_experiment import RATE, TINY, work

GRID: dict[str, Any] = {
    "scenarios": ["testbed"],
    "variants": ["fifo", "mfs", "ceiling"],
    "loads": [0.2],
    "seeds": 2,
    "scale": 8000,
}
REQUESTS = 3


class OneProcess:
    """Runs in this process, in the order given or the other way round."""

    def __init__(self, backwards: bool = False, after: int | None = None) -> None:
        self.backwards = backwards
        self.after = after
        self.runs = 0

    @contextmanager
    def __call__(self, jobs: int | None, console: Console) -> Iterator[OneProcess]:
        del jobs, console
        yield self

    def all(
        self,
        title: str,
        function: Callable[..., Any],
        arguments: Sequence[tuple[object, ...]],
        on_done: Callable[[Any], None] | None = None,
    ) -> list[Any]:
        results = []
        for given in reversed(arguments) if self.backwards else arguments:
            if title == "runs" and self.runs == self.after:
                raise KeyboardInterrupt
            results.append(function(*given))
            self.runs += title == "runs"
            if on_done is not None:
                on_done(results[-1])
        return results


def ablate(out: Path, monkeypatch: pytest.MonkeyPatch, pool: OneProcess, **grid: Any) -> list[Row]:
    monkeypatch.setattr(ablation, "workers", pool)
    console = Console(file=(out.parent / "printed").open("a"), width=200)
    return ablation.run_ablation(out, requests=REQUESTS, console=console, **(GRID | grid))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ablation that ran to its end, in processes of its own."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with (out.parent / "printed").open("w") as printed:
        ablation.run_ablation(out, requests=REQUESTS, jobs=1, console=Console(file=printed, width=200), **GRID)
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
    printed = (finished.parent / "printed").read_text()
    assert "testbed, 28 requests per second" in printed
    assert "ceiling: each flow alone on its path" in printed


def test_stopped_in_the_middle_of_a_line_it_goes_on_to_the_same_file(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        ablate(out, monkeypatch, OneProcess(backwards=True, after=4))
    path = out / "ablation.csv"
    path.write_bytes(path.read_bytes()[:-20])
    pool = OneProcess()
    ablate(out, monkeypatch, pool)
    # Two were left, and the one that was cut off.
    assert pool.runs == 3
    for name in ("ablation.csv", "ablation-testbed.svg"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_what_is_there_is_not_run_again(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "ablation.csv").write_bytes((finished / "ablation.csv").read_bytes())
    pool = OneProcess()
    assert len(ablate(out, monkeypatch, pool)) == 6
    assert pool.runs == 0
    assert len(ablate(out, monkeypatch, pool, variants=["ceiling"], rates=[5.0], loads=[], seeds=1)) == 7
    assert pool.runs == 1


def test_a_file_of_other_runs_is_refused_by_name_and_kept(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ablation.csv"
    before = (finished / "ablation.csv").read_bytes()
    path.write_bytes(before)
    with pytest.raises(EvaluationError, match=r"ablation\.csv: its runs have 3 requests, not 4; remove it or.*--out"):
        RowFile(path, REQUESTS + 1, 8000)
    assert path.read_bytes() == before
    path.write_text("a,b\n1,2\n")
    with pytest.raises(EvaluationError, match=r"ablation\.csv: its columns are others"):
        ablate(tmp_path, monkeypatch, OneProcess())
    path.write_bytes(before.replace(b"testbed,fifo,fifo,28.0", b"testbed,fifo,fifo,fast", 1))
    with pytest.raises(EvaluationError, match=r"line 4: request_rate: .*number"):
        RowFile(path, REQUESTS, 8000)


def test_a_picture_keeps_the_rates_that_are_not_asked_for_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "ablation.csv").write_bytes((finished / "ablation.csv").read_bytes())
    ablate(out, monkeypatch, OneProcess(), variants=["ceiling"], rates=[5.0], loads=[], seeds=1)
    with_both = (out / "ablation-testbed.svg").read_bytes()
    assert with_both != (finished / "ablation-testbed.svg").read_bytes()
    ablate(out, monkeypatch, OneProcess(), variants=["ceiling"])
    assert (out / "ablation-testbed.svg").read_bytes() == with_both


def test_an_unknown_variant_is_refused_with_those_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match="no variant 'without-luck'; there are mfs, hosts-only, switch-only"):
        ablate(tmp_path / "out", monkeypatch, OneProcess(), variants=["fifo", "without-luck"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_settings_and_a_policy(name: str) -> None:
    variant = VARIANTS[name]
    changed = {field for field in variant.changes if getattr(variant.settings, field) != getattr(RunSettings(), field)}
    assert changed == set(variant.changes)
    if variant.policy != CEILING:
        assert policy_for(variant.policy, TINY, work(), work().requests).name == variant.policy


def made_up(variant: str, seed: int, attained: float) -> Row:
    numbers = dict.fromkeys(COLUMNS, 1)
    return Row.model_validate(
        numbers | {"scenario": "s", "policy": "p", "variant": variant, "seed": seed, "slo_attainment": attained}
    )


def test_lines_pair_seeds_with_the_full_scheduler() -> None:
    attained = {"mfs": [0.4, 0.6], "fifo": [0.2, 0.3], "sjf": [0.3, 0.45], "ceiling": [0.5, 0.8]}
    rows = [made_up(name, seed, share) for name, shares in attained.items() for seed, share in enumerate(shares)]
    full, fifo, sjf, ceiling = ablation.lines([*rows, made_up("mfs", 9, 1.0).model_copy(update={"load": None})], 1)
    assert [line.variant for line in (full, fifo, sjf, ceiling)] == ["mfs", "fifo", "sjf", "ceiling"]
    assert full.against is None
    assert (full.seeds, full.attainment.mean) == (3, pytest.approx(2 / 3))
    assert sjf.against is not None
    # Of the seeds that both have: 0.3 - 0.4 and 0.45 - 0.6, and t of one degree of freedom is 12.706.
    assert sjf.against.mean == pytest.approx(-0.125)
    assert sjf.against.half == pytest.approx(12.706 * 0.025, rel=1e-4)
    assert [line.gap_closed for line in (full, fifo, sjf, ceiling)] == pytest.approx([0.625, 0, 0.3125, 1])
    assert ablation.lines(rows, 2) == []


def test_what_a_cheat_costs_is_against_the_same_requests_without_it() -> None:
    attained = {"mfs": 0.4, "fifo": 0.2, "ceiling": 0.6, "bystanders": 0.5, "policing": 0.45}
    rows = [made_up(name, seed, share + seed / 10) for name, share in attained.items() for seed in range(2)]
    bystanders, policed = (line for line in ablation.lines(rows, 1) if line.variant in ("bystanders", "policing"))
    assert (bystanders.against, bystanders.gap_closed, policed.gap_closed) == (None, None, None)
    assert policed.against is not None
    assert policed.against.mean == pytest.approx(-0.05)


def test_intervals_on_paper() -> None:
    three = mean_interval([1, 2, 3])
    # Standard deviation 1, so an error of 1 / sqrt 3; t of two degrees of freedom is 4.303.
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
        # Computing takes 10, 20, 30, all-to-alls 1, 2, 3, the last KV 5. Beside the last all-to-all, that one hides.
        (True, [10 + 1 + 57, 20 + 2 + 35, 30 + 5], [20 + 2 + 30 + 5, 30 + 5, 0]),
        (False, [10 + 1 + 60, 20 + 2 + 38, 30 + 3 + 5], [20 + 2 + 30 + 3 + 5, 30 + 3 + 5, 5]),
    ],
)
def test_laxity_deadlines_leave_what_must_follow(early: bool, fetches: list[int], collectives: list[int]) -> None:
    times = BatchTimes((10, 20, 30), (1, 2, 3), 5, early, layers_per_step=4, bits_per_second=8_000_000_000)
    layers = (0, 4, 8)
    assert [1000 - times.deadline_ns(flow(Stage.KV_REUSE, layer)) for layer in layers] == fetches
    assert [1000 - times.deadline_ns(flow(Stage.COLLECTIVE, layer)) for layer in layers] == collectives
    # A byte takes a nanosecond.
    assert 1000 - times.deadline_ns(flow(Stage.P2D, 12, beyond=700)) == 700


@pytest.mark.parametrize("early", [False, True])
def test_a_request_that_just_makes_it_alone_has_no_laxity(early: bool) -> None:
    config = replace(serving.tiny(), laxity_deadlines=True, hand_over_early=early)
    requests = [serving.request(0, 100)]
    ttft_ns = serving.run(config, requests).records[0].ttft_ns
    network = serving.RecordingNetwork(config.scaled_nic_bits_per_second)
    serving.run(config, requests, network, slo_ns=ttft_ns)
    left = [
        (spec.stage, spec.deadline_ns - start_ns - network.flow_ns(spec.total_bytes))
        for start_ns, _, spec in network.flows
    ]
    # To a nanosecond of rounding for each flow in a row.
    assert all(laxity >= -8 for _, laxity in left)
    assert min(laxity for stage, laxity in left if stage == Stage.COLLECTIVE) <= 8


def test_a_wrong_estimate_of_computing_moves_laxity_deadlines_and_nothing_else() -> None:
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
def test_the_ceiling_is_what_a_flow_takes_alone_on_the_rack(count: int) -> None:
    ended: list[int] = []
    with rack(TINY, policies.fifo(), RunSettings()) as idle:
        idle.serving_network.start_flow(0, FlowSpec(2, 1, Stage.P2D, 10**12, count), ended.append)
        idle.serving_network.run()
    assert ended == [pytest.approx(alone_on_the_rack(TINY).flow_ns(count), rel=0.01)]


def test_a_clairvoyant_serves_all_and_does_not_pass_the_ceiling() -> None:
    clairvoyant, ceiling = (run(TINY, work(), name, RATE, 1) for name in (LLF, CEILING))
    assert clairvoyant.requests == ceiling.requests
    assert clairvoyant.ttft_mean_s > ceiling.ttft_mean_s
    assert ceiling.slo_attainment >= clairvoyant.slo_attainment
