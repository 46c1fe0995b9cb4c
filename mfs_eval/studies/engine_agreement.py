"""Both engines on the same requests: ``python -m mfs_eval.studies.engine_agreement`` prints what each says, as a table.

Packet-level runs are taken from the rows of an ablation; those that are not there are played. Both have the same
arrivals, placements and rules, and objectives from low-load TTFTs of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean

import click

from mfs_ctrl.cli import reporting_errors
from mfs_eval.flow_level.deep_queues import BufferedRacks, DeepQueues
from mfs_eval.flow_level.experiment import flow_workload, play
from mfs_eval.flow_level.fabric import Fabric, racks_of
from mfs_eval.flow_level.network import FlowNetwork
from mfs_eval.flow_level.variants import VARIANTS as FLOW_VARIANTS
from mfs_eval.packet_level.experiment import WARM_UP_SHARE, run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results.ablation_rows import RowFile
from mfs_eval.results.schema import Served
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.scenario import SCENARIOS, Scenario, scenario_named
from mfs_eval.setup.variants import variant_named
from mfs_eval.setup.workload import select
from mfs_eval.studies.ablation import REQUESTS, SCALE

COMPARED = (
    "fifo",
    "static",
    "static-reuse",
    "sjf",
    "edf",
    "karuna",
    "llf",
    "mfs",
    "hosts-only",
    "switch-only",
    "ceiling",
)
LOW_RATE = 2.0
"""Requests per second at which requests hardly ever meet."""


@dataclass(frozen=True, slots=True)
class Line:
    """Means over seeds of both engines: attainment, mean TTFT (seconds), mean collective (seconds)."""

    scenario: str
    rate: float
    variant: str
    packets: tuple[float, float, float]
    flows: tuple[float, float, float]

    def cells(self) -> list[str]:
        """The line of the table."""
        (share, ttft, collective), (flow_share, flow_ttft, flow_collective) = self.packets, self.flows
        return [
            f"`{self.scenario}`",
            f"{self.rate:g}",
            f"`{self.variant}`",
            f"{100 * share:.0f}",
            f"{100 * flow_share:.0f}",
            f"{1000 * ttft:.0f}",
            f"{1000 * flow_ttft:.0f}",
            f"{1000 * collective:.1f}",
            f"{1000 * flow_collective:.1f}",
        ]


def compare(
    scenario: Scenario,
    wanted: Sequence[tuple[float, str]],
    seeds: Sequence[int],
    rows: Path,
    count: int,
    deep: bool = True,
) -> Iterable[Line]:
    """A line for each of the ``wanted`` rates and variants, as they are found.

    ``deep``: switches hold whole flows, as scaled ones do.
    """
    known = (
        RowFile(rows, REQUESTS, SCALE).rows if count == REQUESTS and scenario.scale == SCALE and rows.exists() else {}
    )
    trace = load_trace(SAMPLE_PATH)
    requests = select(scenario, trace, count)
    racks = racks_of(scenario)
    fabric: Fabric = BufferedRacks(racks) if deep else racks
    kind = DeepQueues if deep else FlowNetwork
    # Objectives by packets take as long as a run; without any run to make they are not needed.
    work = workload(scenario, trace, count)
    flow_work = flow_workload(scenario, fabric, requests, work.placements, kind=kind)
    for rate, name in wanted:
        variant = variant_named(name)
        packets: list[Served] = []
        flows: list[Served] = []
        for seed in seeds:
            key = scenario.name, rate, name, seed
            packets.append(
                known[key] if key in known else run(scenario, work, variant.policy, rate, seed, variant.settings)
            )
            warm = round(WARM_UP_SHARE * count)
            flows.append(play(scenario, fabric, flow_work, FLOW_VARIANTS[name], rate, seed, warm, kind).run)
        yield Line(scenario.name, rate, name, _means(packets), _means(flows))


def _means(runs: Sequence[Served]) -> tuple[float, float, float]:
    return (
        fmean(one.slo_attainment for one in runs),
        fmean(one.ttft_mean_s for one in runs),
        fmean(one.collective_completion_mean_s for one in runs),
    )


@click.command()
@click.option("--scenario", "names", multiple=True, default=("testbed",), type=click.Choice(tuple(SCENARIOS)))
@click.option("--variant", "variants", multiple=True, default=COMPARED, type=click.Choice(COMPARED))
@click.option("--rate", "rates", multiple=True, type=float, help="Requests per second; by default low, and two loads.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--first-seed", type=click.IntRange(min=0), default=11, show_default=True)
@click.option("--requests", type=click.IntRange(min=1), default=REQUESTS, show_default=True)
@click.option("--scale", type=click.IntRange(min=1), default=SCALE, show_default=True)
@click.option("--deep/--shallow", default=True, help="Whether fluids wait in switches too, as scaled packets do.")
@click.option(
    "--rows", type=click.Path(path_type=Path, dir_okay=False), default=Path("docs/studies/ablation/ablation.csv")
)
def agreement(
    names: tuple[str, ...],
    variants: tuple[str, ...],
    rates: tuple[float, ...],
    seeds: int,
    first_seed: int,
    requests: int,
    scale: int,
    deep: bool,
    rows: Path,
) -> None:
    """Print attainment (per cent), mean TTFT and mean collective (ms) of both engines."""
    click.echo(
        "| scenario | requests/s | variant | in SLO, packets | flows "
        "| TTFT, packets | flows | collective, packets | flows |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        scenario = replace(scenario_named(name), scale=scale)
        chosen = rates or (LOW_RATE, scenario.request_rates[0], scenario.request_rates[-1])
        wanted = list(product(chosen, variants))
        for line in compare(scenario, wanted, range(first_seed, first_seed + seeds), rows, requests, deep):
            click.echo("| " + " | ".join(line.cells()) + " |")
            sys.stdout.flush()


if __name__ == "__main__":
    reporting_errors(agreement)
