"""``mfs study rates``: request rates of the scenarios at which fair sharing has given shares of requests in time.

Rates are fixed on windows of the trace that no result is reported on. Every run of the search is a row of an ablation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import click

from host_agent.command_line import typed
from mfs_eval import options
from mfs_eval.defaults import ABLATION_REQUESTS, ABLATION_SCALE
from mfs_eval.errors import EvaluationError
from mfs_eval.results import command_log
from mfs_eval.results.markdown import table
from mfs_eval.results.output import writing
from mfs_eval.results.provenance import provenance
from mfs_eval.results.rows import RowStore
from mfs_eval.runner import run_all
from mfs_eval.serving.trace import TRACE_PATH, load_trace
from mfs_eval.setup import windows
from mfs_eval.setup.scenario import SCENARIOS, WINDOW_LOADS, Scenario, scenario_named
from mfs_eval.setup.variants import FLOOR, variant_named
from mfs_eval.studies import engines
from mfs_eval.studies.ablation import Cell, play
from mfs_eval.studies.ablation_rows import FILE, Row

CLOSE = 0.25
"""Between two rates whose shares differ by less, shares are interpolated."""
WIDEN = 1.4
"""Factor of the next rate where all rates so far are too low, or too high."""
MOST_STEPS = 30
PROMPTS = "windows"


def search(measure: Callable[[float], float], rates: Sequence[float], loads: Sequence[float]) -> dict[float, float]:
    """Return by load the rate at which ``measure`` gives that share, interpolated between two measured rates.

    Args:
        measure: share at a rate, which falls as the rate rises but for noise.
        rates: the first ones to measure.
        loads: shares from 0 to 1.

    Raises:
        EvaluationError: ``measure`` does not come to a load.
    """
    measured = {rate: measure(rate) for rate in rates}
    for _ in range(MOST_STEPS):
        nearest = next((rate for rate in (_next_rate(measured, load) for load in loads) if rate is not None), None)
        if nearest is None:
            return {load: interpolated(measured, load) for load in loads}
        measured[nearest] = measure(nearest)
    raise EvaluationError(f"no rates for the shares {', '.join(map(str, loads))} after {len(measured)} rates")


def interpolated(measured: Mapping[float, float], load: float) -> float:
    """Return the rate, to three digits, at which the share is ``load`` on the line between its two neighbours.

    Raises:
        EvaluationError: no two measured rates have ``load`` between them.
    """
    below, above = _neighbours(measured, load)
    if below is None or above is None:
        raise EvaluationError(f"{load:g} is not between the measured shares; measure more rates")
    low, high = measured[below], measured[above]
    return float(f"{below + (above - below) * (low - load) / (low - high):.3g}")


def _neighbours(measured: Mapping[float, float], load: float) -> tuple[float | None, float | None]:
    """Return the highest rate before the share falls below ``load``, and the one after it."""
    rates = sorted(measured)
    above = next((rate for rate in rates if measured[rate] < load), None)
    lower = [rate for rate in rates if above is None or rate < above]
    return (lower[-1] if lower else None), above


def _next_rate(measured: Mapping[float, float], load: float) -> float | None:
    """Return the next rate to measure for ``load``; None if those measured are close enough."""
    below, above = _neighbours(measured, load)
    if below is None:
        return float(f"{min(measured) / WIDEN:.3g}")
    if above is None:
        return float(f"{max(measured) * WIDEN:.3g}")
    if measured[below] - measured[above] < CLOSE:
        return None
    middle = float(f"{math.sqrt(below * above):.3g}")
    return middle if middle not in measured else None


def shares(rows: Sequence[Row], scenario: str) -> dict[float, float]:
    """Return by rate the share that fair sharing attains in ``scenario``, the mean over windows."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if (row.scenario, row.variant) == (scenario, FLOOR):
            found.setdefault(row.request_rate, []).append(row.slo_attainment)
    return {rate: fmean(values) for rate, values in found.items()}


def find(
    store: RowStore[Row],
    engine: str,
    scenario: Scenario,
    trace: Path,
    seeds: Sequence[int],
    requests: int,
    jobs: int | None,
) -> dict[float, float]:
    """Return the rates of ``scenario`` by load, and keep each run in ``store``.

    Raises:
        EvaluationError: the trace is too short, or no rate has a load.
    """
    available = load_trace(trace)
    served = [windows.chosen(scenario, available, requests, PROMPTS, seed) for seed in seeds]
    to_prepare = [(engine, scenario, window) for window in served]
    works = run_all("low-load TTFT of each request", engines.prepare, to_prepare, jobs)
    floor = variant_named(FLOOR)

    def measure(rate: float) -> float:
        cells = [
            Cell(scenario, floor, engine, rate, None, PROMPTS, seed, work)
            for seed, work in zip(seeds, works, strict=True)
            if (scenario.name, engine, PROMPTS, True, rate, FLOOR, seed) not in store.rows
        ]
        run_all(f"{scenario.name} at {rate:g}/s", play, [(cell,) for cell in cells], jobs, store.append)
        share = fmean(
            store.rows[scenario.name, engine, PROMPTS, True, rate, FLOOR, seed].slo_attainment for seed in seeds
        )
        click.echo(f"{scenario.name}: {100 * share:.1f} % in time at {rate:g}/s")
        return share

    lowest, *_, highest = scenario.request_rates
    return search(measure, (lowest / 2, lowest, highest), WINDOW_LOADS)


@click.command(short_help="Rates at which fair sharing attains given shares.")
@options.out_folder("out/rates", "ablation.csv with the runs of the search; rerun to resume")
@options.SCENARIOS
@options.TRACE
@options.ENGINE
@options.seeds("1-9")
@options.requests(ABLATION_REQUESTS)
@options.scale(ABLATION_SCALE)
@options.JOBS
def rates(
    out: Path,
    scenarios: tuple[str, ...],
    trace: Path | None,
    engine: str,
    seeds: tuple[int, ...],
    requests: int,
    scale: int,
    jobs: int | None,
) -> None:
    """Find the rates of scenarios at which fair sharing has 90, 80, 60 and 40 % of the requests in time.

    The share at a rate is the mean over the windows of the trace that belong to the seeds. Between two rates whose
    shares are close, the rate for a share is interpolated.
    """
    path = trace or TRACE_PATH

    def mismatch(row: Row) -> str | None:
        same = (row.requests_per_run, row.scale, row.engine, row.prompts) == (requests, scale, engine, PROMPTS)
        return None if same else "its runs have other requests, another scale, another engine or other prompts"

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        command_log.record(out, typed(), path.name)
        store = RowStore(out / FILE, Row, provenance(path, engines.program(engine)), mismatch)
        lines = []
        for name in scenarios or SCENARIOS:
            scenario = replace(scenario_named(name), scale=scale)
            found = find(store, engine, scenario, path, seeds, requests, jobs)
            lines.append((f"`{name}`", *(f"{found[load]:g}" for load in WINDOW_LOADS)))
        store.sort()
    click.echo(table(("scenario", *(f"{load:.0%}" for load in WINDOW_LOADS)), lines))
