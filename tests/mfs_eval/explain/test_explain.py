"""Why a request was late: the accounts add up exactly, and recording changes nothing."""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from mfs_eval.errors import EvaluationError
from mfs_eval.explain.account import QUEUE, spans
from mfs_eval.explain.command import explain as command
from mfs_eval.explain.explanation import STAGE_NAMES, Explanation, explain, played_steps
from mfs_eval.explain.replay import Played, Wanted, replay
from mfs_eval.explain.timeline import trace_events
from mfs_eval.explain.timeline_picture import picture
from mfs_eval.explain.words import compared, told
from mfs_eval.live.live_rows import FILE, Row
from mfs_eval.packet_level import experiment
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results.provenance import provenance
from mfs_eval.results.rows import RowStore
from mfs_eval.results.schema import Results
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.scenario import scenario_named
from p4src import artifact
from tests.support.live_rows import live_row
from tests.support.trace_events import check

REQUESTS = 30
RUNS = (("incast", 39.0, "mfs"), ("incast", 39.0, "fifo"), ("uplink-4", 36.5, "mfs"))


@lru_cache
def played(scenario: str, rate: float, policy: str) -> Played:
    return replay(None, Wanted(scenario, rate, 1, REQUESTS), REQUESTS).play(policy)


@pytest.fixture(params=RUNS, ids=lambda run: f"{run[0]}-{run[2]}")
def one(request: pytest.FixtureRequest) -> Played:
    return played(*request.param)


@lru_cache
def explanations(one: Played) -> list[Explanation]:
    return [explain(one.recorder, one.names, one.run, request) for request in one.recorder.requests]


def test_a_recorded_run_gives_the_same_results() -> None:
    scenario = scenario_named("incast")
    work = workload(scenario, load_trace(SAMPLE_PATH), REQUESTS)
    assert played("incast", 39.0, "mfs").run == experiment.run(scenario, work, "mfs", 39.0, 1)


def test_the_spans_of_a_flow_cover_its_time_without_gaps(one: Played) -> None:
    for flow in one.recorder.flows:
        parts = spans(flow)
        assert parts[0].start_ns == flow.opened_ns
        assert parts[-1].end_ns == flow.completed_ns
        assert all(before.end_ns == after.start_ns for before, after in pairwise(parts))


def test_the_steps_seen_from_outside_are_those_that_the_serving_model_recorded(one: Played) -> None:
    for number, batch in one.recorder.batches.items():
        steps = [step.within(batch.start_ns, batch.end_ns) for step in played_steps(one.recorder, number)]
        seen = [round(sum(column) * 1e6) for column in zip(*steps, strict=True)]
        assert seen == [batch.stage1_wait_ns, batch.compute_ns, batch.stage2_ns]


def test_stages_waits_and_hops_add_up_to_the_time_to_first_token(one: Played) -> None:
    for each in explanations(one):
        assert sum(each.stages.model_dump().values()) == pytest.approx(each.ttft_ms)
        assert each.late_ms == pytest.approx(each.ttft_ms - each.objective_ms)
        assert sum(batch.ms for batch in each.queued_behind) == pytest.approx(each.stages.queued)
        for key in ("reuse", "collective", "hand_over"):
            waits = sum(wait.ms for wait in each.waits if wait.stage == STAGE_NAMES[key])
            assert waits == pytest.approx(getattr(each.stages, key), abs=1e-6)
        for wait in each.waits:
            assert sum(hop.ms for hop in wait.hops) == pytest.approx(wait.ms)


def test_a_link_serves_others_no_longer_than_a_flow_waits_for_it(one: Played) -> None:
    for each in explanations(one):
        for hop in each.hops:
            assert sum(other.ms for other in hop.behind) <= hop.ms * (1 + 1e-9)


def test_under_fair_sharing_no_level_changes_and_under_mfs_each_change_has_its_reason() -> None:
    def reasons(policy: str) -> set[str]:
        flows = played("incast", 39.0, policy).recorder.flows
        return {change.reason for flow in flows for change in flow.changes}

    assert reasons("fifo") == {"first"}
    assert {"first", "layer", "time"} <= reasons("mfs")


def test_a_promotion_by_progress_follows_fewer_layers_to_go() -> None:
    for flow in played("incast", 39.0, "mfs").recorder.flows:
        for change in flow.changes:
            if change.reason == "layer":
                assert change.earlier is not None
                assert change.inputs.rli < change.earlier.rli
                assert change.before is not None
                assert change.after > change.before


def test_what_waits_at_a_strictly_lower_level_waits_behind_higher_ones() -> None:
    one = played("incast", 39.0, "mfs")
    found = [
        (hop.level, other.level)
        for each in explanations(one)
        for hop in each.hops
        if hop.state == QUEUE and hop.level == 0
        for other in hop.behind
    ]
    assert found
    assert max(level for _, level in found) > 0


def test_the_words_name_the_request_its_lateness_and_its_longest_wait() -> None:
    one = played("incast", 39.0, "mfs")
    latest = max(explanations(one), key=lambda each: each.late_ms)
    text = told(latest)
    assert f"Request {latest.request} under mfs" in text
    assert f"{latest.late_ms:.0f} ms late" in text
    assert latest.waits[0].flow in text
    other = explain(*_parts(played("incast", 39.0, "fifo")), latest.request)
    assert f"{abs(other.ttft_ms - latest.ttft_ms):.0f} ms" in compared(other, latest)


def _parts(one: Played) -> tuple[Any, Any, Any]:
    return one.recorder, one.names, one.run


def test_the_timeline_follows_the_trace_event_format(one: Played) -> None:
    """See :mod:`tests.support.trace_events` for the rules, and for why they are not Perfetto's own parser."""
    request = max(explanations(one), key=lambda each: each.late_ms)
    document = json.loads(json.dumps(trace_events(one.recorder, one.names, request)))
    check(document)
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert {event["pid"] for event in slices} == {1, 2, 3, 4, 5}, "request, units, flows, NICs, switch ports"
    [whole] = [event for event in slices if event["name"] == f"request {request.request}"]
    assert whole["dur"] == pytest.approx(1000 * request.ttft_ms, abs=1e-3)


def test_a_picture_of_the_timeline_has_the_stages_and_is_the_same_again() -> None:
    one = played("incast", 39.0, "mfs")
    latest = max(explanations(one), key=lambda each: each.late_ms)
    document = trace_events(one.recorder, one.names, latest)
    drawn = picture(document)
    assert drawn.startswith("<svg")
    assert drawn == picture(document)


def test_the_command_lists_the_latest_requests_and_writes_a_timeline(tmp_path: Path) -> None:
    common = ["--scenario", "incast", "--request-rate", "39", "--requests", "20"]
    listed = CliRunner().invoke(command, [*common, "--policy", "mfs"], catch_exceptions=False)
    number = listed.output.splitlines()[3].split()[0]
    file = tmp_path / "timeline.json"
    result = CliRunner().invoke(command, [*common, number, "--json", "--timeline", str(file)], catch_exceptions=False)
    explained = Explanation.model_validate_json(result.output)
    assert str(explained.request) == number
    assert json.loads(file.read_text())["otherData"]["request"] == int(number)
    drawn = tmp_path / "timeline.svg"
    CliRunner().invoke(command, [*common, number, "--timeline", str(drawn)], catch_exceptions=False)
    assert ElementTree.fromstring(drawn.read_text()).tag == "{http://www.w3.org/2000/svg}svg"


def test_an_unknown_request_is_refused_with_the_numbers_there_are() -> None:
    with pytest.raises(EvaluationError, match="has no request 7; its requests have numbers from"):
        explain(*_parts(played("incast", 39.0, "mfs")), 7)


def _results(folder: Path, one: Played, **changes: Any) -> Path:
    settings = {"trace": SAMPLE_PATH.name, "requests per run": REQUESTS, "scheduled by the policy": "hosts and switch"}
    run = one.run.model_copy(update=changes)
    Results(settings=settings, provenance=provenance(SAMPLE_PATH, artifact.load()), runs=[run]).write(
        folder / "results.json"
    )
    return folder


def test_a_run_of_a_results_folder_is_played_again(tmp_path: Path) -> None:
    one = played("incast", 39.0, "mfs")
    found = replay(_results(tmp_path, one), Wanted(), 1)
    assert found.policies == ("mfs",)
    assert found.play("mfs").run == one.run


def test_results_that_the_run_does_not_repeat_are_refused(tmp_path: Path) -> None:
    one = played("incast", 39.0, "mfs")
    folder = _results(tmp_path, one, ttft_s=[0.0, *one.run.ttft_s[1:]])
    with pytest.raises(EvaluationError, match="gives other times"):
        replay(folder, Wanted(), 1).play("mfs")


def test_a_run_that_the_results_lack_is_refused(tmp_path: Path) -> None:
    folder = _results(tmp_path, played("incast", 39.0, "mfs"))
    with pytest.raises(EvaluationError, match="it has incast at 39/s with seed 1"):
        replay(folder, Wanted(request_rate=1.0), 1)
    with pytest.raises(EvaluationError, match=r"no results\.json"):
        replay(tmp_path.parent, Wanted(), 1)


def test_a_request_of_a_live_row_is_explained_over_the_simulated_tcp(tmp_path: Path) -> None:
    row = live_row(requests_per_run=10)
    RowStore(tmp_path / FILE, Row, provenance(SAMPLE_PATH, artifact.load())).append(row)
    one = replay(tmp_path, Wanted(), 1).play("mfs-tail")
    for each in explanations(one):
        for wait in each.waits:
            assert sum(hop.ms for hop in wait.hops) == pytest.approx(wait.ms)
