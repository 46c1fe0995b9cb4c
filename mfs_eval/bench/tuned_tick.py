"""Cost of a tick of the controller: reading the counters over P4Runtime, tuning, and writing what changed.

The cost depends on protobuf, which is pure Python in version 3.20 and compiled code in later versions. An environment
has one version, so each measurement runs in its own process under the interpreter of its environment.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[2]
WARM_UP_TICKS = 10
TICK_NS = 1_000_000_000
RATE_BPS = 100_000_000_000
CELLS_PER_TICK = 100
FRAME_BYTES = 1500
MEASUREMENT = (
    "import json, sys; from mfs_eval.bench.tuned_tick import measure; "
    "print(json.dumps(measure(*map(int, sys.argv[1:]))))"
)


@dataclass(frozen=True, slots=True)
class TickCost:
    """Means per tick. ``milliseconds`` is elapsed time, ``cpu_ms`` the processor time of the controller's process."""

    protobuf: str
    ports: int
    milliseconds: float
    cpu_ms: float
    updates: float


def measure(ports: int, ticks: int, seed: int) -> dict[str, Any]:
    """Measure ``ticks`` ticks for a switch with ``ports`` ports; return the fields of a :class:`TickCost`.

    Before each tick a random part of the switch's counters grows, so that the tuner has evidence. The switch runs in
    another process.
    """
    from google.protobuf import __version__
    from google.protobuf.internal import api_implementation

    from mfs_ctrl import policies
    from mfs_ctrl.controller import Controller
    from mfs_ctrl.p4rt.session import Session
    from p4src import artifact
    from topologies.topology import tor

    topology = tor(servers=ports, nics=1, rate_bps=RATE_BPS)
    with _switch() as address:
        controller = Controller(Session(address), artifact.load(), topology, policies.mfs())
        controller.start(0)
        traffic = _Traffic(address, topology.ports, random.Random(seed))
        elapsed, cpu, updates = [], [], []
        traffic.grow(cells=None)
        for number in range(WARM_UP_TICKS + ticks):
            traffic.grow()
            began, cpu_before = time.perf_counter(), time.process_time()
            record = controller.tick((number + 1) * TICK_NS)
            elapsed.append(1000 * (time.perf_counter() - began))
            cpu.append(1000 * (time.process_time() - cpu_before))
            updates.append(0 if record is None else record.writes.updates)
        traffic.close()
        controller.stop()
    means = (statistics.fmean(values[WARM_UP_TICKS:]) for values in (elapsed, cpu, updates))
    return asdict(TickCost(f"{__version__} ({api_implementation.Type()})", ports, *means))


class _Traffic:
    """Made-up traffic: counter cells that are written in the name of the primary controller."""

    def __init__(self, address: str, ports: Sequence[int], rnd: random.Random) -> None:
        from p4.v1 import p4runtime_pb2, p4runtime_pb2_grpc

        from host_agent.protocol.stamp import LEVELS, Stage
        from mfs_ctrl import counters
        from mfs_ctrl.p4rt.channel import open_channel
        from mfs_ctrl.p4rt.p4info import P4InfoIndex
        from p4src import artifact

        index = P4InfoIndex.from_text(artifact.load().p4info)
        self._rnd = rnd
        self._channel = open_channel(address)
        self._stub: Any = p4runtime_pb2_grpc.P4RuntimeStub(self._channel)
        self._request = p4runtime_pb2.WriteRequest(device_id=1)
        self._request.election_id.low = 1
        grown = {
            counters.PORT_LEVEL: counters.cells_of_ports(tuple(ports)),
            counters.LAXITY: [
                counters.LaxityCell(Stage.COLLECTIVE, level, bucket).index
                for level in range(LEVELS)
                for bucket in range(counters.LAXITY_BUCKETS)
            ],
            counters.COMPLETION: [
                counters.CompletionCell(Stage.P2D, level, late, octave).index
                for level in range(LEVELS)
                for late in (False, True)
                for octave in range(counters.OCTAVES)
            ],
        }
        for name, cells in grown.items():
            for cell in cells:
                update = self._request.updates.add(type=p4runtime_pb2.Update.MODIFY)
                update.entity.counter_entry.counter_id = index.counters.named(name).id
                update.entity.counter_entry.index.index = cell

    def grow(self, cells: int | None = CELLS_PER_TICK) -> None:
        """Count packets in that many random cells; None means all."""
        request = type(self._request)(device_id=1, election_id=self._request.election_id)
        updates = self._request.updates
        for update in updates if cells is None else self._rnd.sample(list(updates), cells):
            data = update.entity.counter_entry.data
            packets = self._rnd.randrange(100_000)
            data.packet_count += packets
            data.byte_count += packets * FRAME_BYTES
            request.updates.append(update)
        self._stub.Write(request)

    def close(self) -> None:
        self._channel.close()


@contextmanager
def _switch() -> Iterator[str]:
    """Run an embedded switch in another process; yield its address."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()


def _serve(connection: Connection) -> None:
    from soft_switch.p4runtime.server import P4RuntimeServer
    from soft_switch.switch import Switch

    server = P4RuntimeServer(Switch())
    server.start()
    connection.send(server.address)
    connection.recv()
    server.stop(0)


@click.command(short_help="Cost of a tick of the controller.")
@click.option(
    "--ports",
    type=click.IntRange(1, 200),
    multiple=True,
    default=(8, 64),
    show_default=True,
    help="Ports of the switch; may be repeated.",
)
@click.option("--ticks", type=click.IntRange(min=1), default=200, show_default=True, help="Ticks per measurement.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Measurements of each kind.")
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="FILE",
    help="The Python interpreter of another environment to compare with, for instance one with another protobuf.",
)
def tuned_tick(ports: tuple[int, ...], ticks: int, rounds: int, pythons: tuple[str, ...]) -> None:
    """Measure a tick of the controller with the mfs policy against an embedded switch over gRPC.

    The environments take turns. Each figure is the mean of the rounds, with the smallest and the largest of them.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    costs: dict[tuple[str, int], list[TickCost]] = {}
    for number in range(rounds):
        for python in (sys.executable, *pythons):
            for size in ports:
                command = [python, "-c", MEASUREMENT, str(size), str(ticks), str(number)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                    raise click.ClickException(f"{python}: {reason}")
                costs.setdefault((python, size), []).append(TickCost(**json.loads(done.stdout)))
    for (_, size), measured in costs.items():
        elapsed = [cost.milliseconds for cost in measured]
        cpu, updates = (statistics.fmean(getattr(cost, name) for cost in measured) for name in ("cpu_ms", "updates"))
        click.echo(
            f"protobuf {measured[0].protobuf}, {size} ports: {statistics.fmean(elapsed):.1f} ms a tick "
            f"({min(elapsed):.1f} to {max(elapsed):.1f}), {cpu:.1f} ms of CPU in the controller, "
            f"{updates:.1f} updates written"
        )
