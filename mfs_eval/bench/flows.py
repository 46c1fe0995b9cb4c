"""``make bench``: events per second of the flow-level engine on one core, from 64 GPUs to 2,048.

An event is the start or the end of a flow. Load and requests grow with the GPUs, so that each size is as busy.
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

from mfs_ctrl.cli import reporting_errors
from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level.cases import REQUESTS, SERVERS, case_named
from mfs_eval.flow_level.data_centre import GPUS_PER_SERVER
from mfs_eval.flow_level.experiment import play
from mfs_eval.flow_level.variants import variant_named
from mfs_eval.serving.prompts import CONVERSATION_LIKE, openers, prompts
from mfs_eval.serving.router import route
from mfs_eval.setup.workload import Workload

CASE = "mixtral-8x22b-conversation"
RATE_PER_GPU = 0.45
SIZES = (8, 32, 128, 256)
"""Servers."""
LEAST_NS = 60_000_000
NS_PER_TOKEN = 60_000
"""Objectives are of the measured ones' size; measuring them is no part of the bench."""


@dataclass(frozen=True, slots=True)
class Speed:
    """One size. ``memory_mb`` is the most that the process had until then."""

    gpus: int
    requests: int
    flows: int
    seconds: float
    events_per_s: float
    memory_mb: float


def measure(variant: str, sizes: tuple[int, ...]) -> Iterator[Speed]:
    """Each of ``sizes`` in turn; what is compiled is compiled before."""
    _play(variant, sizes[0], 6)
    for servers in sizes:
        yield _play(variant, servers, REQUESTS * servers // SERVERS)


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


@click.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the numbers, as JSON.")
@click.option("--variant", default="mfs", show_default=True)
@click.option("--servers", "sizes", type=click.IntRange(min=8), multiple=True, default=SIZES, show_default=True)
def bench(out: Path | None, variant: str, sizes: tuple[int, ...]) -> None:
    """Measure how many flow events a second one core handles, and how that changes with the size."""
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
        try:
            out.write_text(json.dumps([asdict(speed) for speed in speeds], indent=1) + "\n", "utf-8")
        except OSError as error:
            raise EvaluationError(f"cannot write {out}: {error.strerror}; choose another file with --out") from None


if __name__ == "__main__":
    reporting_errors(bench)
