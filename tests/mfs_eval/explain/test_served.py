"""A request of ``mfs serve``, explained by records of a run that is made up, so that each part is known."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from host_agent.protocol.policy_document import PolicyDocument
from host_agent.protocol.stamp import LEVELS, Stage
from mfs_ctrl import policies
from mfs_eval.errors import EvaluationError
from mfs_eval.explain.command import explain
from mfs_eval.explain.served import ServedRun
from mfs_eval.explain.served_timeline import trace_events
from mfs_eval.explain.served_words import told
from mfs_eval.live import flow_log
from mfs_eval.live.flow_log import Sighting
from mfs_eval.results.rows import RowStore
from mfs_eval.results.schema import Provenance
from mfs_eval.serve import serve_rows
from tests.support.agent import INTERFACE, linked, running
from tests.support.serve_rows import serve_row
from tests.support.trace_events import check

SENT_NS = 5_000_000_000
MS = 1_000_000


def record(role: str, request: str, peer: str, batch: int, times: tuple[int, int, int], **changed: Any) -> str:
    """A line of an engine's log; ``times`` in milliseconds after the first request was sent."""
    opened, began, ended = (SENT_NS + at * MS for at in times)
    fields = {
        "role": role, "request": f"cmpl-{request}-0-abc", "transfer": request if role == "push" else "",
        "stage": "KV_REUSE" if role == "fetch" else "P2D", "peer": peer, "batch": batch, "deadline_ns": 0,
        "payload_bytes": 2_000_000, "blocks": 2, "layers": 4, "stamped": role == "push", "opened_ns": opened,
        "began_ns": began, "ended_ns": ended, "error": "",
    }  # fmt: skip
    return json.dumps(fields | changed) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = RowStore(
        tmp_path / serve_rows.FILE, serve_rows.Row, Provenance(trace_digest="t", program_digest="p", version="v")
    )
    store.append(
        serve_row("mfs", "s1-1", 3000.0, sent_ns=SENT_NS, prefill_ms=900.0, fetch_ms=300.0, push_bytes=2_000_000)
    )
    store.append(serve_row("mfs", "s1-10", 1500.0, sent_ns=SENT_NS + 500 * MS, prefill_ms=1000.0, push_bytes=7_000_000))
    store.append(serve_row("fifo", "s1-1", 4000.0, sent_ns=SENT_NS + 90_000 * MS))
    (tmp_path / "prefill1.jsonl").write_text(
        record("fetch", "mfs-x-s1-1", "10.0.4.1:7200", 7, (50, 100, 400))
        + record("push", "mfs-x-s1-1", "10.0.3.1:7100", 7, (600, 700, 2800))
        + record("push", "mfs-x-s1-1", "10.0.4.1:7200", 7, (600, 650, 700), transfer="")
        + record("push", "mfs-x-s1-10", "10.0.3.1:7100", 8, (900, 1000, 2000), payload_bytes=7_000_000),
        "utf-8",
    )
    (tmp_path / "decode3.jsonl").write_text(
        record("receive", "mfs-x-s1-1", "10.0.1.1:50000", 0, (10, 700, 2800)), "utf-8"
    )
    seen = [
        Sighting(
            time_ns=SENT_NS + at * MS, host=0, flow=3, batch=batch, number=0, stage="P2D", total_bytes=2_000_000,
            sent_bytes=at, slack_us=1000 * (2000 - at), layers_to_go=0, level=level,
        )
        for at, batch, level in ((750, 7, 2), (900, 8, 1), (1600, 7, 5))
    ]  # fmt: skip
    (tmp_path / flow_log.FILE).write_text("".join(one.model_dump_json() + "\n" for one in seen), "utf-8")
    return tmp_path


def test_stages_transfers_and_levels_are_those_of_the_request(folder: Path) -> None:
    run = ServedRun(folder)
    one = run.explain(run.find("s1-1", "mfs", None))
    assert one.stages is not None
    assert one.stages.model_dump() == {"fetch": 300.0, "prefill": 600.0, "last_kv": 1900.0, "first_step": 200.0}
    assert [(moved.what, moved.source, moved.target) for moved in one.transfers] == [
        ("reused KV", "s4", "s1"),
        ("KV to decode", "s1", "s3"),
        ("KV to the store", "s1", "s4"),
    ]
    nic, port = one.transfers[1].links
    assert (nic.place, port.place) == ("NIC of s1", "switch port to s3")
    assert [(other.what, other.ms) for other in nic.besides] == [("KV to decode of request s1-10", 1000.0)]
    assert [other.what for other in port.besides] == ["KV to decode of request s1-10"]
    assert [(shared.what, shared.ms) for shared in one.engine_shared_with] == [("request s1-10", 400.0)]
    assert [(seen.time_ms, seen.level) for seen in one.levels] == [(750.0, 2), (1600.0, 5)]


def test_the_words_name_who_it_waited_behind_and_when_it_rose(folder: Path) -> None:
    run = ServedRun(folder)
    text = told(run.explain(run.find("s1-1", "mfs", 1)))
    assert "first token after 3000 ms, objective 2000 ms: 1000 ms late." in text
    assert "switch port to s3, shared with KV to decode of request s1-10 (7.0 MB) for 1000 ms" in text
    assert "1600 ms  P2D flow 3 of s1 from level 2 to 5 (slack 400 ms" in text


def test_the_timeline_follows_the_trace_event_format(folder: Path) -> None:
    run = ServedRun(folder)
    document = json.loads(json.dumps(trace_events(run.explain(run.find("s1-1", "mfs", None)))))
    check(document)
    assert {event["pid"] for event in document["traceEvents"] if event["ph"] == "X"} == {1, 2, 3, 4, 5}


def test_the_command_lists_and_explains_and_writes_a_timeline(folder: Path) -> None:
    listed = CliRunner().invoke(explain, ["--run", str(folder)], catch_exceptions=False).output
    assert listed.splitlines()[0] == "2 of 3 requests were late or failed. The latest 3:"
    assert [line.split()[:2] for line in listed.splitlines()[3:]] == [
        ["s1-1", "fifo"],
        ["s1-1", "mfs"],
        ["s1-10", "mfs"],
    ]
    timeline = folder / "late.json"
    arguments = [
        "s1-1",
        "--run",
        str(folder / serve_rows.FILE),
        "--policy",
        "mfs",
        "--json",
        "--timeline",
        str(timeline),
    ]
    answer = json.loads(CliRunner().invoke(explain, arguments, catch_exceptions=False).output)
    assert answer["stages"]["last_kv"] == 1900.0
    check(json.loads(timeline.read_text("utf-8")))
    arguments[-1] = str(folder / "late.svg")
    refused = CliRunner().invoke(explain, arguments)
    assert refused.exit_code == 2
    assert "of runs of mfs serve there is no picture; give --timeline FILE.json" in refused.stderr


def test_a_request_that_is_not_there_or_not_one_is_refused_with_the_way_out(folder: Path) -> None:
    run = ServedRun(folder)
    with pytest.raises(EvaluationError, match="no such request s9-9; its requests are s1-1, s1-10 and so on"):
        run.find("s9-9", None, None)
    with pytest.raises(EvaluationError, match="served under mfs, fifo; choose by --policy"):
        run.find("s1-1", None, None)
    (folder / "prefill2.jsonl").write_text("{", "utf-8")
    with pytest.raises(EvaluationError, match="a record of the engines or agents cannot be read"):
        ServedRun(folder)
    result = CliRunner().invoke(explain, ["s1-1"])
    assert result.exit_code == 2
    assert "REQUEST is a number in the trace, not 's1-1'" in result.output


def test_a_name_is_not_that_of_a_request_whose_name_begins_alike() -> None:
    assert serve_rows.is_of("cmpl-mfs-x-s1-1-0-abc", "mfs-x-s1-1")
    assert not serve_rows.is_of("cmpl-mfs-x-s1-10-0-abc", "mfs-x-s1-1")


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_the_log_has_the_level_that_the_agent_gave_a_flow(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    document = PolicyDocument("mfs", policies.mfs().rules)
    (tmp_path / "state" / f"policy-{INTERFACE}.json").write_text(document.to_json(), "utf-8")
    log = tmp_path / flow_log.FILE
    with (
        linked() as (sender, receiver),
        running(sender, tmp_path) as agent,
        running(receiver, tmp_path),
        receiver.inside(lambda: socket.create_server((receiver.address, 0))) as server,
        sender.inside(lambda: socket.create_connection((receiver.address, server.getsockname()[1]))) as connection,
        agent.client() as client,
        flow_log.FlowLog({4: agent.socket}, log),
    ):
        client.open(connection, batch=7, stage=Stage.KV_REUSE, total_bytes=5000, slack_us=10_000_000, target_layer=3)
        connection.sendall(bytes(5000))
        give_up = time.monotonic() + 30
        while not (found := flow_log.read(log)) and time.monotonic() < give_up:
            time.sleep(0.05)
    assert [(seen.host, seen.batch, seen.stage, seen.layers_to_go) for seen in found] == [(4, 7, "KV_REUSE", 3)]
    assert 0 <= found[0].level < LEVELS
