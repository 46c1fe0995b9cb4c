"""A run over real sockets, explained from its record: here that of a simulated run, so that both can be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mfs_eval.errors import EvaluationError
from mfs_eval.explain.account import UNSEEN
from mfs_eval.explain.command import explain as command
from mfs_eval.explain.explanation import explain
from mfs_eval.explain.recording import LiveRecording
from mfs_eval.explain.replay import Played, Wanted, replay
from mfs_eval.explain.timeline import trace_events
from mfs_eval.explain.words import told
from mfs_eval.live import live_record
from mfs_eval.live.live_record import LiveFlow, LiveRecord, SeenLevel
from mfs_eval.live.live_rows import FILE, Row
from mfs_eval.results.rows import RowStore
from mfs_eval.results.schema import Provenance
from mfs_eval.setup.scenario import scenario_named
from tests.support.live_rows import live_row
from tests.support.trace_events import check

REQUESTS = 20


@pytest.fixture(scope="module")
def played() -> Played:
    return replay(None, Wanted("incast", 39.0, 1, REQUESTS), REQUESTS).play("mfs")


@pytest.fixture(scope="module")
def record(played: Played) -> LiveRecord:
    """What is known of the same run from outside: levels only of each third flow, and at its NIC."""
    flows = [
        LiveFlow(
            flow.source,
            flow.spec,
            flow.opened_ns,
            flow.completed_ns,
            tuple(
                SeenLevel(one.time_ns, one.after, one.inputs.rli, one.inputs.slack_us, one.inputs.remaining_bytes)
                for one in flow.changes
                if one.place.switch is None and flow.index % 3 == 0
            ),
        )
        for flow in played.recorder.flows
    ]
    advances = {batch: list(steps) for batch, steps in played.recorder.advances.items()}
    return LiveRecord(list(played.recorder.requests.values()), list(played.recorder.batches.values()), advances, flows)


def recording_of(record: LiveRecord) -> LiveRecording:
    return LiveRecording(record, {host.id: host.port for host in scenario_named("incast").tors[0].hosts})


def test_stages_steps_and_waits_are_those_that_the_network_itself_would_tell(
    played: Played, record: LiveRecord
) -> None:
    recording = recording_of(record)
    for request in played.recorder.requests:
        inside = explain(played.recorder, played.names, played.run, request)
        outside = explain(recording, played.names, played.run, request, recorded=True)
        assert (outside.stages, outside.steps) == (inside.stages, inside.steps)
        assert [(wait.flow, wait.ms) for wait in outside.waits] == [(wait.flow, wait.ms) for wait in inside.waits]
        for wait in outside.waits:
            [hop] = wait.hops
            assert (hop.state, hop.ms) == (UNSEEN, pytest.approx(wait.ms))
            assert all(other.ms <= wait.ms + 1e-6 for other in hop.behind), "no longer than it waited"


def test_words_and_timeline_say_what_was_beside_a_flow(played: Played, record: LiveRecord) -> None:
    recording = recording_of(record)
    latest = min(played.recorder.requests.values(), key=lambda one: one.earliness_ns)
    one = explain(recording, played.names, played.run, latest.index, recorded=True)
    text = told(one)
    assert "(incast, 39 requests/s, seed 1, as recorded): first token after" in text
    assert " ms sending or waiting" in text
    assert " beside " in text
    document = json.loads(json.dumps(trace_events(recording, played.names, one)))
    check(document)
    assert {event["pid"] for event in document["traceEvents"] if event["ph"] == "X"} == {1, 2, 3, 4, 5}


def test_times_of_a_real_clock_still_make_a_valid_timeline(played: Played, record: LiveRecord) -> None:
    """Calls that note one event take some microseconds, so that a step may end after its batch."""
    later = {batch: [(at + 700, done) for at, done in steps] for batch, steps in record.advances.items()}
    ends = [replace(flow, ended_ns=flow.ended_ns + 300) for flow in record.flows]
    recording = recording_of(replace(record, advances=later, flows=ends))
    for request in list(played.recorder.requests)[:5]:
        one = explain(recording, played.names, played.run, request)
        check(json.loads(json.dumps(trace_events(recording, played.names, one))))


def test_the_command_takes_the_record_beside_the_rows(record: LiveRecord, tmp_path: Path) -> None:
    row = live_row("fifo", 1)
    RowStore(tmp_path / FILE, Row, Provenance(trace_digest="t", program_digest="p", version="v")).append(row)
    # One NIC per server there: only what fits is kept.
    fitting = [flow for flow in record.flows if max(flow.source, flow.spec.destination) < 8]
    live_record.write(replace(record, flows=fitting), live_record.path_of(tmp_path, row))
    assert live_record.read(live_record.path_of(tmp_path, row)) == replace(record, flows=fitting)
    listed = CliRunner().invoke(command, ["--run", str(tmp_path)], catch_exceptions=False)
    assert "testbed, 14 requests/s, seed 1: " in listed.output
    with pytest.raises(EvaluationError, match="there is no record of mfs, only of fifo"):
        CliRunner().invoke(command, ["--run", str(tmp_path), "--policy", "mfs"], catch_exceptions=False)


def test_a_record_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "record.json.gz"
    file.write_bytes(b"{}")
    with pytest.raises(EvaluationError, match=r"record\.json\.gz: cannot be read"):
        live_record.read(file)
