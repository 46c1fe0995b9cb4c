"""``mfs study rdma``: RoCEv2 flows that go back N, registered, stamped, or with one DSCP per stage.

Runs are kept by scenario, variant and seed: rerun to resume, or to add scenarios and seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import click

from mfs_eval import options
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.low_load import workload
from mfs_eval.packet_level.packet_network import Totals
from mfs_eval.results.csv_text import text_of
from mfs_eval.results.markdown import table
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.results.schema import Run
from mfs_eval.results.statistics import mean_interval, paired_difference
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.run_settings import HostSettings, RdmaSettings, RunSettings
from mfs_eval.setup.scenario import SCENARIOS, Scenario, scenario_named
from mfs_eval.setup.workload import Workload

SCENARIO_NAMES = ("testbed", "incast", "colocated", "hot-prefix")
BASE = "stamped"
_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy and what tells the switch of flows."""

    policy: str
    rdma: RdmaSettings


VARIANTS: Mapping[str, Variant] = {
    BASE: Variant("mfs", RdmaSettings("stamp")),
    "registered": Variant("mfs", RdmaSettings("registration", "drained")),
    "registered, rises at once": Variant("mfs", RdmaSettings("registration", "at once")),
    "registered, pauses to rise": Variant("mfs", RdmaSettings("registration", "paused")),
    "registered 1 ms late": Variant("mfs", RdmaSettings("registration", "drained", 1 * _MS)),
    "registered 10 ms late": Variant("mfs", RdmaSettings("registration", "drained", 10 * _MS)),
    "registered 100 ms late": Variant("mfs", RdmaSettings("registration", "drained", 100 * _MS)),
    "DSCP per stage": Variant("static-reuse", RdmaSettings("dscp")),
    "fifo": Variant("fifo", RdmaSettings("dscp")),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A run. Queued bytes are those in all queues of the switches, sampled every 50 ms."""

    scenario: str
    variant: str
    seed: int
    requests: int
    slo_attainment: float
    ttft_mean_s: float
    ttft_p99_s: float
    packets: int
    retransmitted: int
    go_backs: int
    timeouts: int
    queued_p99_bytes: int
    queued_max_bytes: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What no other run has."""
        return self.scenario, self.variant, self.seed


def row(variant: str, result: Run, totals: Totals) -> Row:
    """Return the row of a run."""
    queued = sorted(sum(sample.bytes_by_level) for sample in result.occupancy)
    return Row(
        result.scenario,
        variant,
        result.seed,
        result.requests,
        result.slo_attainment,
        result.ttft_mean_s,
        result.ttft_p99_s,
        totals.sent,
        totals.retransmitted,
        totals.go_backs,
        totals.timeouts,
        queued[len(queued) * 99 // 100],
        queued[-1],
    )


def measure(scenario: Scenario, work: Workload, variant: str, seed: int) -> Row:
    """Run ``variant`` at the middle request rate of ``scenario``."""
    chosen = VARIANTS[variant]
    totals: list[Totals] = []
    settings = RunSettings(HostSettings(transport="rocev2", rdma=chosen.rdma))
    rate = scenario.request_rates[1]
    result = run(
        scenario, work, chosen.policy, rate, seed, settings, on_end=lambda network: totals.append(network.totals())
    )
    return row(variant, result, totals[0])


def csv_text(rows: Iterable[Row]) -> str:
    """Return the runs as CSV, in the order of scenarios, variants and seeds."""
    order = list(VARIANTS)
    names = [field.name for field in fields(Row)]
    ordered = sorted(rows, key=lambda one: (one.scenario, order.index(one.variant), one.seed))
    return text_of(names, ([getattr(one, name) for name in names] for one in ordered))


def read(path: Path) -> list[Row]:
    """Read the runs that :func:`csv_text` wrote; none if there is no such file.

    Raises:
        EvaluationError: the file is not such a table.
        OSError: it cannot be read.
    """
    if not path.exists():
        return []
    lines = list(csv.reader(path.read_text("utf-8").splitlines()))
    kinds = {"str": str, "int": int, "float": float}
    convert = [kinds[str(field.type)] for field in fields(Row)]
    try:
        if lines[0] != [field.name for field in fields(Row)]:
            raise ValueError(lines[0])
        rows = [Row(*(made(cell) for made, cell in zip(convert, line, strict=True))) for line in lines[1:]]
        if unknown := {one.variant for one in rows} - VARIANTS.keys():
            raise ValueError(unknown)
    except (ValueError, IndexError) as error:
        raise EvaluationError(f"{path} is not of `mfs study rdma` ({error}); choose another --out") from None
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Return the means over seeds with 95 % intervals; differences to the stamped runs seed by seed."""
    cells = []
    for scenario in dict.fromkeys(one.scenario for one in rows):
        chosen = [one for one in rows if one.scenario == scenario]
        base = {one.seed: 100 * one.slo_attainment for one in chosen if one.variant == BASE}
        for variant in VARIANTS:
            runs = [one for one in chosen if one.variant == variant]
            if runs:
                cells.append((scenario, variant, *_cells(runs, base)))
    return table(HEADINGS, cells)


HEADINGS = (
    "scenario",
    "variant",
    "runs",
    "attainment, %",
    "to stamped",
    "TTFT mean, ms",
    "TTFT p99, ms",
    "go-backs a run",
    "sent again, %",
    "timeouts a run",
    "queued at most, packets",
)
_PACKET_BYTES = 1364
"""Of a full packet: 1,280 bytes of payload, headers, and the shim or not."""


def _cells(runs: Sequence[Row], base: Mapping[int, float]) -> Iterable[str]:
    attainment = {one.seed: 100 * one.slo_attainment for one in runs}
    mean = mean_interval(list(attainment.values()))
    difference = paired_difference(attainment, base)
    count = len(runs)
    yield str(count)
    yield f"{mean.mean:.1f} ± {mean.half:.1f}" if count > 1 else f"{mean.mean:.1f}"
    if difference is None or runs[0].variant == BASE:
        yield ""
    else:
        yield f"{difference.mean:+.1f} ± {difference.half:.1f}" if count > 1 else f"{difference.mean:+.1f}"
    yield f"{1000 * sum(one.ttft_mean_s for one in runs) / count:.0f}"
    yield f"{1000 * sum(one.ttft_p99_s for one in runs) / count:.0f}"
    yield f"{sum(one.go_backs for one in runs) / count:.1f}"
    yield f"{100 * sum(one.retransmitted for one in runs) / sum(one.packets for one in runs):.2f}"
    yield f"{sum(one.timeouts for one in runs) / count:.1f}"
    yield f"{max(one.queued_max_bytes for one in runs) / _PACKET_BYTES:.0f}"


@click.command(short_help="RoCEv2 flows: registered, stamped, one DSCP per stage.")
@options.out_folder(None, "rdma.md and rdma.csv")
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice(sorted(SCENARIOS)),
    multiple=True,
    default=SCENARIO_NAMES,
    show_default=True,
    help="Scenario; may be repeated.",
)
@options.requests(60, minimum=5)
@options.seeds("1-3")
def rdma(out: Path, scenarios: tuple[str, ...], requests: int, seeds: tuple[int, ...]) -> None:
    """Compare what tells the switch of RoCEv2 flows; write rdma.md and rdma.csv. Rerun to resume."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    rows = {one.key: one for one in read(out / "rdma.csv")}
    trace = load_trace(SAMPLE_PATH)
    for name in scenarios:
        scenario = scenario_named(name)
        missing = [(variant, seed) for seed in seeds for variant in VARIANTS if (name, variant, seed) not in rows]
        if not missing:
            continue
        work = workload(scenario, trace, requests)
        for variant, seed in missing:
            made = measure(scenario, work, variant, seed)
            rows[made.key] = made
            with writing(out):
                write_atomically(out / "rdma.csv", csv_text(rows.values()))
    text = markdown(list(rows.values()))
    with writing(out):
        write_atomically(out / "rdma.md", text)
    click.echo(text, nl=False)
