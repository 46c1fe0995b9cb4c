"""What one router over all units is worth: ``python -m mfs_eval.studies.pooling`` divides them, and prints.

The same units, requests and arrivals on the network without contention: under one router, and divided into groups with
a router each, to which requests are dealt at random or in turn. What differs is waiting for GPUs alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import click
import numpy as np

from mfs_ctrl.cli import reporting_errors
from mfs_eval.errors import ServingError
from mfs_eval.flow_level.cases import SERVERS, WARM_SHARE, Case, case_named, case_requests
from mfs_eval.flow_level.data_centre import GPUS_PER_SERVER
from mfs_eval.flow_level.experiment import play, uncontended_on
from mfs_eval.flow_level.variants import variant_named
from mfs_eval.serving.objectives import low_load_records, objectives
from mfs_eval.serving.placement import Placement
from mfs_eval.serving.router import route
from mfs_eval.serving.trace import Request
from mfs_eval.setup.policies import CEILING
from mfs_eval.setup.workload import Workload

REQUESTS_PER_SERVER = 6
DEALINGS = ("random", "in turn")


def routed_in_groups(
    requests: Sequence[Request], units: int, before: Sequence[Request], groups: int, dealing: str, seed: int
) -> dict[int, Placement]:
    """Placements by ``groups`` routers, each over its part of the ``units``; each part served ``before``.

    Raises:
        ServingError: groups do not divide the units.
    """
    if groups < 1 or units % groups:
        raise ServingError(f"{units} units cannot be divided into {groups} groups")
    turns = np.arange(len(requests)) % groups
    dealt = np.random.default_rng(seed).integers(0, groups, len(requests)) if dealing == "random" else turns
    placements: dict[int, Placement] = {}
    for group in range(groups):
        first = group * units // groups
        own = [request for request, whose in zip(requests, dealt, strict=True) if whose == group]
        placements |= _shifted(route(own, units // groups, before), first)
    return placements


def ceiling(case: Case, servers: int, rate_per_gpu: float, seed: int, groups: int, dealing: str) -> float:
    """Attainment of ``case`` without contention, 0 to 1; objectives are low-load TTFTs without contention too."""
    count = REQUESTS_PER_SERVER * servers
    before, requests = case_requests(case, count, seed)
    scenario, fabric = case.scenario(servers), case.fabric(servers)
    placements = routed_in_groups(requests, len(scenario.cluster.units), before, groups, dealing, seed)
    slo_ns = objectives(low_load_records(scenario.serving, requests, placements, uncontended_on(fabric)))
    work = Workload(tuple(requests), placements, slo_ns)
    rate = rate_per_gpu * servers * GPUS_PER_SERVER
    played = play(scenario, fabric, work, variant_named(CEILING), rate, seed, round(WARM_SHARE * count))
    return played.run.slo_attainment


def _shifted(placements: Mapping[int, Placement], first: int) -> dict[int, Placement]:
    """``placements`` at units from ``first`` on."""
    shifted = {}
    for index, one in placements.items():
        holder = one.reuse.holder
        reuse = one.reuse if holder is None else replace(one.reuse, holder=holder + first)
        shifted[index] = Placement(one.unit + first, reuse)
    return shifted


@click.command()
@click.option("--case", "name", default="dbrx-conversation", show_default=True)
@click.option("--rate-per-gpu", type=click.FloatRange(min=1e-6), default=0.65, show_default=True)
@click.option("--servers", type=click.IntRange(min=8), default=SERVERS, show_default=True)
@click.option("--groups", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def pooling(name: str, rate_per_gpu: float, servers: int, groups: int, seed: int) -> None:
    """Print attainment without contention under one router and under several."""
    case = case_named(name)
    for count, dealing in ((1, "in turn"), *((groups, dealing) for dealing in DEALINGS)):
        share = ceiling(case, servers, rate_per_gpu, seed, count, dealing)
        what = "one router" if count == 1 else f"{count} routers, requests dealt {dealing}"
        click.echo(f"{what}: {100 * share:.0f} % in time")


if __name__ == "__main__":
    reporting_errors(pooling)
