"""``mfs study engine-agreement``: the packet-level and the flow-level engine on the same requests.

Packet-level runs come from the rows of an ablation; runs that are missing there are played. Both engines have the same
arrivals, placements and rules. Each measures the low-load TTFTs of its objectives itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean

import click

from mfs_eval import defaults, options
from mfs_eval.flow_level.deep_queues import BufferedRacks, DeepQueues
from mfs_eval.flow_level.experiment import flow_workload, play
from mfs_eval.flow_level.fabric import Fabric, racks_of
from mfs_eval.flow_level.network import FlowNetwork
from mfs_eval.flow_level.variants import VARIANTS as FLOW_VARIANTS
from mfs_eval.packet_level.experiment import WARM_UP_SHARE, run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results.markdown import table
from mfs_eval.results.rows import read_rows
from mfs_eval.results.schema import Served
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.scenario import Scenario, scenario_named
from mfs_eval.setup.variants import variant_named
from mfs_eval.setup.workload import select
from mfs_eval.studies.ablation_rows import Row

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
HEADINGS = (
    "scenario", "requests/s", "variant", "in SLO, packets", "flows", "TTFT, packets", "flows", "collective, packets",
    "flows",
)  # fmt: skip
LOW_RATE = 2.0
"""Requests per second at which requests hardly ever overlap."""


@dataclass(frozen=True, slots=True)
class Line:
    """Means over seeds by engine: attainment, mean TTFT (seconds), mean collective completion (seconds)."""

    scenario: str
    rate: float
    variant: str
    packets: tuple[float, float, float]
    flows: tuple[float, float, float]

    def cells(self) -> list[str]:
        """Return the cells of the line."""
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
    """Yield a line for each of the ``wanted`` rates and variants as soon as it is complete.

    Args:
        scenario: what is served.
        wanted: request rates and variants.
        seeds: of the arrivals.
        rows: ``ablation.csv``, which need not exist.
        count: requests per run.
        deep: whether switches hold whole flows, as those of scaled packets do.

    Raises:
        EvaluationError: ``rows`` holds something else, or the trace has too few requests.
    """
    known = {
        row.key: row
        for row in (read_rows(rows, Row) if rows.exists() else ())
        if (row.requests_per_run, row.scale) == (count, scenario.scale)
    }
    trace = load_trace(SAMPLE_PATH)
    requests = select(scenario, trace, count)
    racks = racks_of(scenario)
    fabric: Fabric = BufferedRacks(racks) if deep else racks
    kind = DeepQueues if deep else FlowNetwork
    work = workload(scenario, trace, count)
    flow_work = flow_workload(scenario, fabric, requests, work.placements, kind=kind)
    for rate, name in wanted:
        variant = variant_named(name)
        packets: list[Served] = []
        flows: list[Served] = []
        for seed in seeds:
            key = scenario.name, "packets", "first", True, rate, name, seed
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


@click.command(short_help="Packet-level and flow-level results, side by side.")
@options.SCENARIOS
@click.option(
    "--variant",
    "variants",
    multiple=True,
    default=COMPARED,
    type=click.Choice(COMPARED),
    help="Variant to run; may be repeated. By default all.",
)
@options.request_rates("a low rate and two of the scenario's")
@options.seeds("11-13")
@options.requests(defaults.ABLATION_REQUESTS)
@options.scale(defaults.ABLATION_SCALE)
@click.option("--deep/--shallow", default=True, help="Whether flows also queue in switches, as scaled packets do.")
@click.option(
    "--rows",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("docs/studies/ablation/ablation.csv"),
    show_default=True,
    help="Rows of an ablation to take packet-level runs from.",
)
def engine_agreement(
    scenarios: tuple[str, ...],
    variants: tuple[str, ...],
    request_rates: tuple[float, ...],
    seeds: tuple[int, ...],
    requests: int,
    scale: int,
    deep: bool,
    rows: Path,
) -> None:
    """Print attainment (per cent), mean TTFT and mean collective completion (ms) of both engines, in Markdown."""
    click.echo(table(HEADINGS, ()), nl=False)
    for name in scenarios or ("testbed",):
        scenario = replace(scenario_named(name), scale=scale)
        chosen = request_rates or (LOW_RATE, scenario.request_rates[0], scenario.request_rates[-1])
        wanted = list(product(chosen, variants))
        for line in compare(scenario, wanted, seeds, rows, requests, deep):
            click.echo("| " + " | ".join(line.cells()) + " |")
