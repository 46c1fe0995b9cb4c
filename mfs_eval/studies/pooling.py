"""``mfs study pooling``: what one router over all units is worth.

The same units, requests and arrivals run on a network without contention: once under one router, and once divided into
groups with a router each. Requests are dealt to the groups at random or in turn. Only waiting for GPUs differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import click
import numpy as np

from mfs_eval import options
from mfs_eval.defaults import SWEEP_SERVERS
from mfs_eval.errors import ServingError
from mfs_eval.flow_level.cases import WARM_SHARE, Case, case_named, case_requests
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
    """Return the placements by ``groups`` routers, each over its share of the ``units``.

    The caches of every group hold the requests ``before``.

    Raises:
        ServingError: the units cannot be divided into so many groups.
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
    """Return the attainment of ``case`` without contention, 0 to 1; so are the low-load TTFTs of its objectives."""
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
    """Return ``placements`` with their units numbered from ``first``."""
    shifted = {}
    for index, one in placements.items():
        holder = one.reuse.holder
        reuse = one.reuse if holder is None else replace(one.reuse, holder=holder + first)
        shifted[index] = Placement(one.unit + first, reuse)
    return shifted


@click.command(short_help="What one router over all prefill units is worth.")
@click.option("--case", "name", default="dbrx-conversation", show_default=True, help="Model and prompts.")
@options.request_rates_per_gpu((0.65,))
@click.option(
    "--servers", type=click.IntRange(min=8), default=SWEEP_SERVERS, show_default=True, help="Servers of 8 GPUs."
)
@click.option("--groups", type=click.IntRange(min=2), default=8, show_default=True, help="Groups of units.")
@options.seeds("1")
def pooling(name: str, rates_per_gpu: tuple[float, ...], servers: int, groups: int, seeds: tuple[int, ...]) -> None:
    """Print attainment without contention under one router and under several: the mean over seeds."""
    case = case_named(name)
    for rate in rates_per_gpu:
        for count, dealing in ((1, "in turn"), *((groups, dealing) for dealing in DEALINGS)):
            share = fmean(ceiling(case, servers, rate, seed, count, dealing) for seed in seeds)
            what = "one router" if count == 1 else f"{count} routers, requests dealt {dealing}"
            click.echo(f"{rate:g} requests/s per GPU, {what}: {100 * share:.0f} % in time")
