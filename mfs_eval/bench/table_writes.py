"""``mfs bench table-writes``: the latency of table writes over P4Runtime.

It is the price of telling the switch about requests by table entries instead of stamps.
"""

from __future__ import annotations

import statistics
import time

import click

from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import SCAVENGER, Stage
from mfs_ctrl import policies
from mfs_ctrl.controller import Controller
from mfs_ctrl.desired import rmlq_row
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.p4rt.updates import DELETE, INSERT, Update
from mfs_ctrl.switch import Session as AnySession
from mfs_eval.bench.packets import TOPOLOGY
from p4src import artifact
from soft_switch.backend import backend_of_environment
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch

UNUSED_EPOCH = 3
FIRST_PRIORITY = 1000


def latencies_ms(session: AnySession, index: P4InfoIndex, entries: int, rounds: int) -> list[float]:
    """Return the milliseconds, sorted, of 2 x ``rounds`` writes that insert and delete ``entries`` rows of ``rmlq``."""
    rows = [
        rmlq_row(LevelRule(Stage.P2D, SCAVENGER, slack_code=(code, code)), UNUSED_EPOCH, FIRST_PRIORITY + code)
        for code in range(entries)
    ]
    measured = []
    for _ in range(rounds):
        for operation in (INSERT, DELETE):
            began = time.perf_counter()
            session.write([Update(operation, row) for row in rows], index)
            measured.append((time.perf_counter() - began) * 1000)
    return sorted(measured)


@click.command(short_help="Latency of table writes over P4Runtime.")
@click.option("--rounds", type=click.IntRange(min=1), default=200, show_default=True, help="Writes of each kind.")
def table_writes(rounds: int) -> None:
    """Measure writes of 1, 10 and 50 entries to the embedded switch over gRPC on the loopback interface."""
    server = P4RuntimeServer(Switch(), backend=backend_of_environment())
    server.start()
    try:
        controller = Controller(Session(server.address), program := artifact.load(), TOPOLOGY, policies.mfs())
        controller.start()
        index = P4InfoIndex.from_text(program.p4info)
        for entries in (1, 10, 50):
            measured = latencies_ms(controller.session, index, entries, rounds)
            late = measured[len(measured) * 99 // 100]
            click.echo(f"{entries:3} entries: median {statistics.median(measured):.2f} ms, 99 % within {late:.2f} ms")
        controller.stop()
    finally:
        server.stop(0)
