"""Small complete runs of mfs_eval.packet_level.experiment, including the compiled program."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from host_agent.protocol.level import LevelRule
from mfs_ctrl.controller import Controller
from mfs_ctrl.desired import SwitchParameters, base_entities, policy_rows
from mfs_ctrl.p4rt.entries import Entity, TableEntry
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.writer import EPOCHS
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level import testbed
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results.schema import Results, ResultsError, Run, read
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.policies import POLICIES, policy_for
from mfs_eval.setup.run_settings import ControlSettings, PortSettings, RunSettings
from mfs_eval.setup.scenario import SCENARIOS, scenario_named
from mfs_eval.setup.workload import Workload
from p4src import artifact

REQUESTS = 8
COUNTED = 6
"""Requests after the warm-up, which is a fifth."""
RATE = 25.0
TINY = replace(SCENARIOS["testbed"], scale=60_000, layers_per_step=8)


@cache
def work() -> Workload:
    return workload(TINY, load_trace(SAMPLE_PATH), REQUESTS)


def play(policy: str = "mfs", seed: int = 1, settings: RunSettings | None = None) -> Run:
    return run(TINY, work(), policy, RATE, seed, settings)


@cache
def played(policy: str) -> Run:
    return play(policy)


def written(one: Run, path: Path) -> bytes:
    Results(settings={}, runs=[one]).write(path)
    return path.read_bytes()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = written(played("mfs"), tmp_path / "first.json")
    assert written(play("mfs"), tmp_path / "second.json") == first
    assert read(tmp_path / "first.json").runs == [played("mfs")]


def test_another_seed_gives_other_arrivals() -> None:
    assert play("fifo", seed=2).ttft_s != played("fifo").ttft_s


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_all_requests(policy: str) -> None:
    one = played(policy)
    assert (one.policy, one.requests, len(one.ttft_s)) == (policy, COUNTED, COUNTED)
    assert min(one.ttft_s) > 0
    assert 0 <= one.slo_attainment <= 1
    assert 0 < one.network_share < 1
    assert one.packets > 0
    # Losses are repaired, so the queues are empty when everything is served.
    assert one.occupancy[-1].bytes_by_level == [0] * 8
    assert any(sum(sample.bytes_by_level) for sample in one.occupancy)


def test_levels_in_use_are_those_of_the_policy() -> None:
    def used(policy: str) -> set[int]:
        samples = play(
            policy, settings=RunSettings(control=ControlSettings(sample_ns=2_000_000, tick_ns=100_000_000))
        ).occupancy
        return {level for sample in samples for level, held in enumerate(sample.bytes_by_level) if held}

    assert used("fifo") == {1}
    assert used("static") <= {2, 4, 6, 7}
    assert len(used("static")) > 1


def test_only_mfs_has_thresholds_to_tune() -> None:
    assert played("mfs").tuner
    assert all(point.mlu_threshold > 0 and point.tight_slack_s > 0 for point in played("mfs").tuner)
    assert not any(played(policy).tuner for policy in POLICIES if policy != "mfs")


@pytest.mark.parametrize("policy", ["mfs", "edf"])
def test_the_switch_holds_what_the_controller_wrote(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[Entity], tuple[LevelRule, ...], dict[int, int]]] = []

    class Watched(Controller):
        """Reads the switch's state before it stops."""

        def stop(self) -> None:
            index = P4InfoIndex.from_text(artifact.load().p4info)
            seen.append((set(self.session.read_state(index)), self.policy.rules, self.biases))
            super().stop()

    work()  # its objectives are measured with another controller
    monkeypatch.setattr(testbed, "Controller", Watched)
    play(policy, settings=RunSettings(control=ControlSettings(tick_ns=500_000_000)))
    [(state, rules, biases)] = seen
    ports = PortSettings()
    parameters = SwitchParameters(queue_bytes=ports.queue_bytes, guaranteed_share=float(ports.guaranteed_share))
    assert set(base_entities(TINY.tors[0], parameters, biases)) <= state
    rows = {entity for entity in state if isinstance(entity, TableEntry) and entity.table == "rmlq"}
    wanted = policy_rows(rules, TINY.tors[0], parameters)
    [epoch] = [epoch for epoch in EPOCHS if wanted.activation(epoch) in state]
    assert rows == set(wanted.entries(epoch))


def test_without_the_compiled_program_there_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "BUILD", tmp_path)
    with pytest.raises(artifact.ArtifactError, match="cannot read the compiled program"):
        play()


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="no policy 'lifo'; the built-in ones are edf"):
        policy_for("lifo", TINY, work(), work().requests)
    with pytest.raises(EvaluationError, match="no scenario 'moon'; there are testbed, incast"):
        scenario_named("moon")


def test_results_of_another_schema_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(ResultsError, match=r"results\.json: No such file"):
        read(path)
    path.write_text('{"settings": {}, "runs": [{"scenario": "testbed"}]}')
    with pytest.raises(ResultsError, match=r"results\.json: runs\.0\.policy: Field required"):
        read(path)
    path.write_text("{")
    with pytest.raises(ResultsError, match=r"results\.json: .*JSON"):
        read(path)
