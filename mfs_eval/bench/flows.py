"""``mfs bench flows``: events per second of the flow-level engine on one core, from 64 GPUs to 2,048.

An event is the start or the end of a flow. Load and requests grow with the number of GPUs, so all sizes are equally
busy.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from mfs_eval import options
from mfs_eval.defaults import SWEEP_REQUESTS, SWEEP_SERVERS
from mfs_eval.flow_level.cases import case_named
from mfs_eval.flow_level.data_centre import GPUS_PER_SERVER
from mfs_eval.flow_level.experiment import play
from mfs_eval.flow_level.variants import variant_named
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.serving.prompts import CONVERSATION_LIKE, openers, prompts
from mfs_eval.serving.router import route
from mfs_eval.setup.workload import Workload

CASE = "mixtral-8x22b-conversation"
RATE_PER_GPU = 0.45
SIZES = (8, 32, 128, 256)
"""Servers."""
LEAST_NS = 60_000_000
NS_PER_TOKEN = 60_000
"""Objectives of about the size of measured ones; measuring them is not part of the benchmark."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed at one size. ``memory_mb`` is the peak memory of the process so far."""

    gpus: int
    requests: int
    flows: int
    seconds: float
    events_per_s: float
    memory_mb: float


def measure(variant: str, sizes: tuple[int, ...]) -> Iterator[Speed]:
    """Measure each of ``sizes`` in turn, after a run that compiles what is compiled."""
    _play(variant, sizes[0], 6)
    for servers in sizes:
        yield _play(variant, servers, SWEEP_REQUESTS * servers // SWEEP_SERVERS)


def _play(variant: str, servers: int, count: int) -> Speed:
    case = case_named(CASE)
    scenario = case.scenario(servers)
    gpus = servers * GPUS_PER_SERVER
    requests = prompts(CONVERSATION_LIKE, count, seed=1)
    placements = route(requests, len(scenario.cluster.units), openers(CONVERSATION_LIKE))
    slo_ns = {one.index: LEAST_NS + NS_PER_TOKEN * one.prompt_tokens for one in requests}
    work = Workload(tuple(requests), placements, slo_ns)
    run = play(scenario, case.fabric(servers), work, variant_named(variant), RATE_PER_GPU * gpus, 1, count // 3).run
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Speed(gpus, count, run.flows, run.cpu_s, 2 * run.flows / run.cpu_s, memory_mb)


@click.command(short_help="Events per second of the flow-level engine.")
@options.out_file()
@click.option("--variant", default="mfs", show_default=True, help="Policy and who follows it.")
@click.option(
    "--servers",
    "sizes",
    type=click.IntRange(min=8),
    multiple=True,
    default=SIZES,
    show_default=True,
    help="Servers of 8 GPUs; may be repeated.",
)
def flows(out: Path | None, variant: str, sizes: tuple[int, ...]) -> None:
    """Measure how many flow events per second one core handles, by the size of the data centre."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("GPUs", "requests", "flows", "core seconds", "events/s", "MB"):
        table.add_column(heading, justify="right")
    speeds = []
    for speed in measure(variant, sizes):
        speeds.append(speed)
        table.add_row(
            f"{speed.gpus:,}",
            f"{speed.requests:,}",
            f"{speed.flows:,}",
            f"{speed.seconds:.1f}",
            f"{speed.events_per_s:,.0f}",
            f"{speed.memory_mb:.0f}",
        )
    console = Console()
    console.print(f"Flow-level engine on one core, {CASE} under {variant}; an event is a flow's start or end")
    console.print(table)
    if out is not None:
        with writing(out):
            write_atomically(out, json.dumps([asdict(speed) for speed in speeds], indent=1) + "\n")
