"""``mfs study tcp-agreement``: ``mfs live`` with simulated TCP, beside rows measured over real sockets.

The scenario, its scale and its stretched time are those of ``mfs live``; so are messages, queues and constants of TCP.
What differs: sending processes and host agents take no time, and each host's level rules are those of the simulation.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import click

from mfs_eval import options
from mfs_eval.errors import EvaluationError
from mfs_eval.live.live import MESSAGE_BYTES, LiveSettings, prepared
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.packet_network import PacketNetwork, Totals
from mfs_eval.results.markdown import table
from mfs_eval.setup.run_settings import HostSettings, PortSettings, RunSettings, TcpSettings

TOLERANCE = 0.25
"""A mean TTFT agrees if it is within this share of the live one, ..."""
POINTS = 0.1
"""... and an attainment within this difference, which is what 64 requests can tell."""
HEADINGS = ("policy", "seed", "from", "in SLO, %", "TTFT mean, ms", "p50", "p99", "timeouts", "sent again", "agrees")


@dataclass(frozen=True, slots=True)
class Row:
    """One run; the fields are the columns of a file of live rows. TTFTs are in seconds of the model's time."""

    policy: str
    seed: int
    attainment: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    timeouts: int
    retransmitted: int

    def cells(self, origin: str, verdict: str = "") -> tuple[str, ...]:
        """Return the cells of the table."""
        times = (self.ttft_mean_s, self.ttft_p50_s, self.ttft_p99_s)
        milliseconds = (f"{1000 * time:.0f}" for time in times)
        share = f"{100 * self.attainment:.0f}"
        counts = (str(self.timeouts), str(self.retransmitted))
        return (f"`{self.policy}`", str(self.seed), origin, share, *milliseconds, *counts, verdict)


def agrees(simulated: Row, live: Row) -> bool:
    """Return whether attainment and mean TTFT are within :data:`POINTS` and :data:`TOLERANCE`."""
    near = abs(simulated.attainment - live.attainment) <= POINTS
    return near and abs(simulated.ttft_mean_s - live.ttft_mean_s) <= TOLERANCE * live.ttft_mean_s


def read(path: Path) -> list[Row]:
    """Read live rows from a CSV file whose columns are the fields of :class:`Row`.

    Raises:
        EvaluationError: the file has other columns, or a value is no number.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        try:
            return [
                Row(
                    line["policy"],
                    int(line["seed"]),
                    float(line["attainment"]),
                    float(line["ttft_mean_s"]),
                    float(line["ttft_p50_s"]),
                    float(line["ttft_p99_s"]),
                    int(line["timeouts"]),
                    int(line["retransmitted"]),
                )
                for line in reader
            ]
        except (KeyError, TypeError, ValueError) as error:
            wanted = ",".join(field.name for field in fields(Row))
            raise EvaluationError(f"{path}: its columns must be {wanted}, with numbers ({error})") from error


def run_settings(live: LiveSettings, tcp: TcpSettings, queue_bytes: int) -> RunSettings:
    """Return the settings of a simulated run of ``live``; the times of ``tcp`` are real."""
    hosts = HostSettings(
        message_segments=max(1, MESSAGE_BYTES // SEGMENT_BYTES), transport="tcp", tcp=tcp.stretched(live.stretch)
    )
    return RunSettings(hosts=hosts, ports=PortSettings(queue_bytes=queue_bytes))


def simulate(
    live: LiveSettings, settings: RunSettings, policies: Sequence[str], rate: float, seeds: Sequence[int], count: int
) -> Iterable[Row]:
    """Yield a row for each policy and seed as soon as it is played."""
    work = prepared(live, count)
    totals: list[Totals] = []

    def keep(network: PacketNetwork) -> None:
        totals.append(network.totals())

    for policy in policies:
        for seed in seeds:
            one = run(live.scenario, work, policy, rate, seed, settings, keep)
            times = (one.ttft_mean_s, one.ttft_p50_s, one.ttft_p99_s)
            yield Row(policy, seed, one.slo_attainment, *times, totals[-1].timeouts, totals[-1].retransmitted)


@click.command(short_help="Simulated TCP beside rows of mfs live.")
@options.policies(("fifo", "mfs"))
@options.requests(80, minimum=5)
@options.seeds("1-2")
@click.option("--request-rate", type=float, default=20.0, show_default=True, help="Requests per second.")
@click.option("--rto-min", type=float, default=200.0, show_default=True, help="Least timeout, in real milliseconds.")
@click.option("--queue", type=click.IntRange(min=2), default=256, show_default=True, help="Bytes per queue, in KiB.")
@click.option("--timestamps/--no-timestamps", default=True, help="Whether segments carry time stamps.")
@click.option(
    "--live",
    "live_rows",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV of rows of mfs live to print beside: policy,seed,attainment,ttft_mean_s,ttft_p50_s,ttft_p99_s,timeouts,"
    "retransmitted.",
)
def tcp_agreement(
    policies: tuple[str, ...],
    requests: int,
    seeds: tuple[int, ...],
    request_rate: float,
    rto_min: float,
    queue: int,
    timestamps: bool,
    live_rows: Path | None,
) -> None:
    """Play the runs of mfs live with simulated TCP and print them in Markdown, beside rows of mfs live if given.

    A run agrees if its attainment is within 10 points and its mean TTFT within 25 %.
    """
    measured = {(row.policy, row.seed): row for row in (read(live_rows) if live_rows else ())}
    live = LiveSettings()
    tcp = TcpSettings(rto_min_ns=round(rto_min * 1e6), timestamps=timestamps)
    settings = run_settings(live, tcp, queue * 1024)
    click.echo(table(HEADINGS, ()), nl=False)
    for row in simulate(live, settings, policies, request_rate, seeds, requests):
        real = measured.get((row.policy, row.seed))
        verdict = "" if real is None else "yes" if agrees(row, real) else "no"
        lines = [row.cells("simulation", verdict), *([real.cells("live")] if real is not None else [])]
        for line in lines:
            click.echo("| " + " | ".join(line) + " |")
