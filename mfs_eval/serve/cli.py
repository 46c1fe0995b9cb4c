"""``mfs serve``: a real serving engine behind the switch."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import BitRate, Positive, logging_options, typed
from mfs_eval import options


@click.command(short_help="Serve requests with vLLM engines behind the switch (Linux, root).")
@options.policies(("fifo", "mfs"))
@click.option(
    "--workload",
    type=click.Choice(["trace", "behind-loose"]),
    default="trace",
    show_default=True,
    help="Requests of a trace, or a tight request while two loose ones' KV is in flight, in rounds.",
)
@click.option(
    "--requests", type=click.IntRange(1, 1000), default=12, show_default=True, help="Requests or rounds per run."
)
@click.option(
    "--request-rate", type=Positive(0.01, 1000), default=0.5, show_default=True, help="Requests per second (trace)."
)
@click.option("--rate", type=BitRate(), default="100M", show_default=True, help="Rate of each link.")
@click.option(
    "--model",
    type=click.Choice(["llama-4x256", "llama-8x512", "qwen2-8x512"]),
    default="qwen2-8x512",
    show_default=True,
    help="Model with seeded random weights, made on the spot.",
)
@click.option("--store/--no-store", default=True, show_default=True, help="Keep prefixes in a store, and reuse them.")
@click.option("--hold/--no-hold", default=False, show_default=True, help="Have host agents hold flows at their source.")
@click.option(
    "--loose-tokens",
    type=click.IntRange(128, 4096),
    default=2048,
    show_default=True,
    help="behind-loose: their prompts.",
)
@click.option(
    "--tight-tokens", type=click.IntRange(128, 4096), default=512, show_default=True, help="behind-loose: its prompt."
)
@click.option(
    "--loose-ms", type=Positive(1, 1e6), default=20_000.0, show_default=True, help="behind-loose: their objective."
)
@click.option(
    "--tight-ms", type=Positive(1, 1e6), default=2_000.0, show_default=True, help="behind-loose: its objective."
)
@click.option(
    "--tight-after",
    type=Positive(0.01, 60),
    default=2.5,
    show_default=True,
    help="behind-loose: seconds from the loose requests to the tight one.",
)
@click.option(
    "--round",
    "round_s",
    type=Positive(0.1, 600),
    default=8.0,
    show_default=True,
    help="behind-loose: seconds per round.",
)
@options.seeds("1")
@options.TRACE
@click.option(
    "--python",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Interpreter of an environment with vLLM.  [default: $MFS_VLLM_PYTHON]",
)
@click.option(
    "--models",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/models"),
    show_default=True,
    help="Folder for models.",
)
@options.out_folder("out/serve", "report.html, requests.csv, summary.md and the engines' records")
@click.option("--prefix", default="mfsserve", show_default=True, help="Prefix of namespaces and interfaces.")
@options.DRY_RUN
@logging_options
def serve(
    policies: tuple[str, ...],
    workload: str,
    requests: int,
    request_rate: float,
    rate: int,
    model: str,
    store: bool,
    hold: bool,
    loose_tokens: int,
    tight_tokens: int,
    loose_ms: float,
    tight_ms: float,
    tight_after: float,
    round_s: float,
    seeds: tuple[int, ...],
    trace: Path | None,
    python: Path | None,
    models: Path,
    out: Path,
    prefix: str,
    dry_run: bool,
) -> None:
    """Serve LLM requests with two prefill engines and a decode engine of vLLM, on CPUs, and measure.

    The engines, a prefix store and their host agents are in network namespaces around the embedded switch. Each
    objective for the time to first token is three times the TTFT of a request of that length that is alone (trace), or
    given (behind-loose). Some tokens of each run are compared with those of a single engine.
    """
    from mfs_eval.live import flow_log
    from mfs_eval.plan import plan_text
    from mfs_eval.results import command_log, page
    from mfs_eval.results.markdown import table
    from mfs_eval.results.output import write_atomically, writing
    from mfs_eval.results.provenance import provenance
    from mfs_eval.results.rows import RowStore
    from mfs_eval.serve import serve_page, serve_rows
    from mfs_eval.serve import workload as workloads
    from mfs_eval.serve.engines import LONGEST_PROMPT, checked_python
    from mfs_eval.serve.serve import CLUSTER, OBJECTIVE_FACTOR, ServeSettings, run_serve, serving_rack
    from mfs_eval.serve.summary import SUMMARY, summary
    from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
    from p4src import artifact

    if dry_run:
        runs = len(policies) * len(seeds)
        run_s = requests * round_s if workload == "behind-loose" else requests / request_rate
        click.echo(f"{plan_text(runs, 0, runs * run_s)}, and the engines' start")
        return
    interpreter = checked_python(python, CLUSTER.servers - 1)
    replayed, file = trace or SAMPLE_PATH, out / serve_rows.FILE
    origin = provenance(replayed, artifact.load())
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    settings = ServeSettings(interpreter, models.resolve(), model, rate, store and workload == "trace", hold)
    found: list[serve_rows.Row] = []
    with serving_rack(settings, policies[0], out.resolve(), prefix) as serving:
        objectives = {length: OBJECTIVE_FACTOR * ttft for length, ttft in serving.calibrated().items()}

        def prompts(seed: int) -> list[workloads.Prompt]:
            if workload == "trace":
                traced = load_trace(replayed)
                return workloads.of_trace(traced, requests, request_rate, seed, LONGEST_PROMPT // 2, objectives)
            return workloads.behind_loose(
                requests, seed, loose_tokens, loose_ms, tight_tokens, tight_ms, tight_after, round_s
            )

        per_second = request_rate if workload == "trace" else round(workloads.PER_ROUND / round_s, 4)
        kept: RowStore[serve_rows.Row] | None = None
        with writing(out):
            (out / flow_log.FILE).unlink(missing_ok=True)
        for served in run_serve(serving, policies, seeds, out / flow_log.FILE, prompts):
            new = serve_rows.rows(served, per_second, rate)
            with writing(out):
                if kept is None:
                    # Earlier results stay until there are new ones.
                    for earlier in (file, out / command_log.FILE):
                        earlier.unlink(missing_ok=True)
                    kept = RowStore(file, serve_rows.Row, origin)
                    command_log.record(out, typed(), replayed.name)
                for row in new:
                    kept.append(row)
            found += new
            levels = ", ".join(f"{level}: {count / 1e6:.1f}" for level, count in enumerate(served.stamped.level_bytes))
            click.echo(
                f"{served.policy}, seed {served.seed}: {sum(row.in_time for row in new)} of {len(new)} in time, "
                f"{served.stamped.packets} packets stamped, MB by level {levels}; "
                f"{served.checked} requests' tokens are those of a single engine"
            )
    text_table = table(SUMMARY, summary(found))
    with writing(out):
        write_atomically(out / "summary.md", text_table)
    click.echo("\n" + text_table, nl=False)
    click.echo(f"Report: {page.write(serve_page.page_of(file), out / page.FILE)}")
