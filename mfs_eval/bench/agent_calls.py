"""``mfs bench agent-calls``: what a call to the host agent costs the process that makes it. Needs root.

An agent serves an interface of a veth pair, in a process of its own. Each kind of call is timed one by one, from the
client's method to its return; the kinds take turns, so that other load on the machine affects them alike.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from host_agent.client import AgentClient
from host_agent.protocol.flow_request import FlowRequest, Match
from host_agent.protocol.stamp import Stage
from mfs_eval.bench.agent import ADDRESSES, INTERFACE, NAMES, linked
from mfs_eval.results.markdown import table
from topologies.processes import Process

TOGETHER = 16
"""Operations of one line in the kinds that end with ``together``."""
_HOUR_US = 3_600_000_000 // 4


def kinds(client: AgentClient) -> dict[str, tuple[int, Callable[[], object]]]:
    """Return the calls by name, each with the number of its operations."""
    numbers = itertools.count(1)

    def request(cookie: int) -> FlowRequest:
        return FlowRequest(Match(cookie=cookie), 7, Stage.P2D, time.monotonic_ns() + _HOUR_US * 1000, 1 << 20)

    def open_and_close() -> None:
        client.open(Match(cookie=1), batch=7, stage=Stage.P2D, slack_us=_HOUR_US, total_bytes=1 << 20).close()

    def open_and_close_together() -> None:
        client.close_all(client.open_all([request(100 + number) for number in range(TOGETHER)]))

    kept = client.open_all([request(1000 + number) for number in range(TOGETHER)])
    one = client.open(Match(cookie=2), batch=7, stage=Stage.P2D, slack_us=_HOUR_US, total_bytes=1 << 20)
    return {
        "advance": (1, lambda: client.advance(next(numbers), 1)),
        "update": (1, lambda: one.update(slack_us=_HOUR_US)),
        f"update, {TOGETHER} together": (TOGETHER, lambda: client.update_all(kept, slack_us=_HOUR_US)),
        "open that replaces": (
            1,
            lambda: client.open(Match(cookie=3), batch=7, stage=Stage.P2D, slack_us=_HOUR_US, total_bytes=1 << 20),
        ),
        "open and close": (2, open_and_close),
        f"open and close, {TOGETHER} together": (2 * TOGETHER, open_and_close_together),
        "connections": (1, lambda: client.connections(ADDRESSES[1])),
    }


@click.command(short_help="What a call to the host agent costs (root).")
@click.option("--calls", type=click.IntRange(min=10), default=1000, show_default=True, help="Calls of each kind.")
def agent_calls(calls: int) -> None:
    """Measure what a call to the host agent costs a serving engine, and print a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder, linked():
        path = Path(folder) / "agent.sock"
        command = [sys.executable, "-c", "from mfs_ctrl.cli import main; main()", "agent", "run"]
        command += ["--interface", INTERFACE, "--policy-url", "http://127.0.0.1:1", "--state-dir", folder]
        with Process([*command, "--socket", str(path)], lambda out: "serving" in out, NAMES[0]) as process:
            process.wait_ready()
            with AgentClient(path) as client:
                taken: dict[str, list[int]] = {}
                chosen = kinds(client)
                for _ in range(calls):
                    for name, (_, call) in chosen.items():
                        before = time.perf_counter_ns()
                        call()
                        taken.setdefault(name, []).append(time.perf_counter_ns() - before)
    load = os.getloadavg()[0]
    click.echo(f"{calls} calls of each kind, load average {load:.1f}; microseconds\n")
    rows = []
    for name, times in taken.items():
        operations = chosen[name][0]
        middle, tail = statistics.median(times) / 1000, sorted(times)[int(len(times) * 0.99)] / 1000
        rows.append([name, f"{middle:.0f}", f"{tail:.0f}", f"{middle / operations:.0f}"])
    click.echo(table(["call", "median", "99th percentile", "median per operation"], rows), nl=False)
