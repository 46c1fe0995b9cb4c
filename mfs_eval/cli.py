"""Commands of the evaluation: ``mfs demo``, ``mfs ablate``, and the groups ``mfs study`` and ``mfs bench``."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import LazyGroup, typed
from mfs_eval import defaults, options

STUDIES = {
    "tables": "mfs_eval.studies.tables:tables",
    "sweep-tables": "mfs_eval.studies.sweep_tables:sweep_tables",
    "faults": "mfs_eval.studies.faults:faults",
    "engine-agreement": "mfs_eval.studies.engine_agreement:engine_agreement",
    "pooling": "mfs_eval.studies.pooling:pooling",
    "pruning": "mfs_eval.studies.pruning:pruning",
    "rates": "mfs_eval.studies.rates:rates",
    "rotation": "mfs_eval.studies.rotation:rotation",
    "rdma": "mfs_eval.studies.rdma:rdma",
    "soak": "mfs_eval.studies.soak:soak",
    "stranding": "mfs_eval.studies.stranding:stranding",
    "tcp-agreement": "mfs_eval.studies.tcp_agreement:tcp_agreement",
    "tcp-policies": "mfs_eval.studies.tcp_policies:tcp_policies",
    "tofino-cost": "mfs_eval.studies.tofino_cost:tofino_cost",
    "tuner-recovery": "mfs_eval.studies.tuner_recovery:tuner_recovery",
}
BENCHMARKS = {
    "packets": "mfs_eval.bench.packets:packets",
    "flows": "mfs_eval.bench.flows:flows",
    "pipelines": "mfs_eval.bench.pipelines:pipelines",
    "queues": "mfs_eval.bench.queues:queues",
    "interfaces": "mfs_eval.bench.interfaces:interfaces",
    "agent": "mfs_eval.bench.agent:agent",
    "agent-calls": "mfs_eval.bench.agent_calls:agent_calls",
    "carriers": "mfs_eval.bench.carriers:carriers",
    "fabric": "mfs_eval.bench.fabric:fabric",
    "table-writes": "mfs_eval.bench.table_writes:table_writes",
    "tuned-tick": "mfs_eval.bench.tuned_tick:tuned_tick",
}


@click.command(short_help="Compare policies on a small testbed, packet by packet.")
@options.out_folder("out/demo", "report.html and results.json")
@options.SCENARIOS
@options.policies()
@options.TRACE
@options.requests(defaults.DEMO_REQUESTS)
@options.seeds("1")
@options.JOBS
@click.option(
    "--order",
    type=click.Choice(["both", "hosts", "switch"]),
    default="both",
    show_default=True,
    help="Who schedules by the policy: hosts and switch, or one of them; the other has a single queue.",
)
def demo(
    out: Path,
    scenarios: tuple[str, ...],
    policies: tuple[str, ...],
    trace: Path | None,
    requests: int,
    seeds: tuple[int, ...],
    jobs: int | None,
    order: str,
) -> None:
    """Replay LLM requests on a testbed of 8 servers, packet by packet, and report the time to first token (TTFT).

    Prints a table per scenario and request rate, and writes report.html and results.json.
    """
    from mfs_eval.demo import run_demo

    run_demo(out, scenarios, policies, trace, requests, seeds, jobs, order)


@click.command(short_help="Show what each part of the scheduler is worth.")
@options.out_folder("out/ablation", "ablation.csv, report.html and the pictures; rerun to resume")
@options.SCENARIOS
@options.VARIANTS
@click.option(
    "--load",
    "loads",
    type=click.Choice(["0.9", "0.8", "0.6", "0.4", "0.2"]),
    multiple=True,
    help="Only the request rate at which fair sharing attains about this share; may be repeated. Scenarios have rates "
    "for 0.6 to 0.2 with --prompts first. Over windows they have none yet: mfs study rates finds those for 0.9 to 0.4.",
)
@options.request_rates("the scenario's rates")
@click.option(
    "--prompts",
    type=click.Choice(["windows", "all-lengths", "first"]),
    default="windows",
    show_default=True,
    help="windows: each seed has a window of the trace of its own, without prompts above 16,384 tokens; all-lengths: "
    "with them; first: all seeds share the first prompts.",
)
@options.TRACE
@options.ENGINE
@click.option(
    "--hand-over",
    type=click.Choice(["early", "late"]),
    default="early",
    show_default=True,
    help="Whether a step's KV leaves beside its all-to-all or after it.",
)
@options.seeds("11-20")
@options.requests(defaults.ABLATION_REQUESTS)
@options.scale(defaults.ABLATION_SCALE)
@options.JOBS
@options.DRY_RUN
def ablate(
    out: Path,
    scenarios: tuple[str, ...],
    variants: tuple[str, ...],
    loads: tuple[str, ...],
    request_rates: tuple[float, ...],
    prompts: str,
    trace: Path | None,
    engine: str,
    hand_over: str,
    seeds: tuple[int, ...],
    requests: int,
    scale: int,
    jobs: int | None,
    dry_run: bool,
) -> None:
    """Run the scheduler, the scheduler without one of its parts, and the policies it is compared with.

    All of them run over the same seeds, each of which draws arrivals and a window of the trace. Each run is a line of
    ablation.csv as soon as it ends, and finished runs are not repeated: rerun the command to resume.
    """
    from mfs_eval.studies.ablation import run_ablation

    chosen_loads = [float(load) for load in loads]
    run_ablation(
        out,
        seeds,
        scenarios,
        variants,
        chosen_loads,
        request_rates,
        prompts,
        trace,
        engine,
        hand_over == "early",
        requests,
        scale,
        jobs,
        command=typed(),
        dry_run=dry_run,
    )


@click.command(short_help="Draw results again, or compare those of two folders.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("other", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the page.  [default: in FOLDER]")
def report(folder: Path, other: Path | None, out: Path | None) -> None:
    """Write report.html for the results in FOLDER: of mfs demo, mfs ablate, mfs sweep, mfs live or mfs serve.

    With OTHER, of the same command, write compared.html with what changed from FOLDER to OTHER (not of mfs serve). Of a
    sweep, print the tables too.
    """
    from mfs_eval.report import write_report

    click.echo(f"Report: {write_report(folder, other, out)}")


@click.group(cls=LazyGroup, table=STUDIES, short_help="Studies behind the documentation.")
def study() -> None:
    """Run one of the studies behind the documentation."""


@click.group(cls=LazyGroup, table=BENCHMARKS, short_help="Benchmarks of the project itself.")
def bench() -> None:
    """Measure how fast a part of the project is on this machine."""
