"""``mfs explain``: why one request was late."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from host_agent.command_line import JSON, Positive
from mfs_eval import defaults, options

LISTED = 20
"""Requests that a list shows."""
PICTURE = ".svg"


@click.command(short_help="Say why a request was late: where its time went.")
@click.argument("request", required=False)
@click.option(
    "--run",
    "source",
    type=click.Path(path_type=Path, exists=True),
    help="Results, a folder or a file: of mfs demo or mfs live, whose run is played again, or of mfs serve.",
)
@click.option("--scenario", help="Scenario, or cluster of mfs live.  [default: testbed, or as in --run]")
@click.option(
    "--request-rate",
    type=Positive(0.001, 1e6),
    help="Requests per second.  [default: the middle one of the scenario or of --run]",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the arrivals.  [default: 1, or as in --run]")
@options.policies()
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=defaults.DEMO_REQUESTS,
    show_default=True,
    help="Requests per run.",
)
@options.TRACE
@JSON
@click.option(
    "--timeline",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the request's timeline: Chrome trace events, for ui.perfetto.dev and chrome://tracing, or a picture "
    "if its name ends in .svg.",
)
def explain(
    request: str | None,
    source: Path | None,
    scenario: str | None,
    request_rate: float | None,
    seed: int | None,
    policies: tuple[str, ...],
    requests: int,
    trace: Path | None,
    as_json: bool,
    timeline: Path | None,
) -> None:
    """Play a run again and say where the time of REQUEST went: by stage, by layer, and by queue of the network.

    REQUEST is a number in the trace; without it the requests are listed, the latest first. Name the run by a scenario,
    a rate and a seed, or by results of mfs demo or mfs live. With two policies, the second is compared with the first.
    Results of mfs serve are explained by what its engines and agents recorded; there REQUEST is a name.
    """
    from mfs_eval.explain import explanation, words
    from mfs_eval.explain.replay import Wanted, replay
    from mfs_eval.explain.served import served_folder
    from mfs_eval.explain.timeline import trace_events

    if len(policies) > 2:
        raise click.UsageError("give one --policy, or two to compare them")
    if timeline is not None and (request is None or len(policies) > 1):
        raise click.UsageError("--timeline is of one REQUEST under one --policy")
    if (folder := served_folder(source)) is not None:
        _explain_served(folder, request, policies, seed, as_json, timeline)
        return
    if request is not None and not request.isdecimal():
        raise click.UsageError(f"REQUEST is a number in the trace, not {request!r}; leave it out for a list")
    chosen = replay(source, Wanted(scenario, request_rate, seed, requests, trace), requests)
    played = [chosen.play(policy) for policy in policies or chosen.policies[:1]]
    if request is None:
        records = [one.recorder.requests for one in played]
        if as_json:
            raise click.UsageError("--json is of one REQUEST")
        click.echo(words.listed([one.run for one in played], records, LISTED))
        return
    explanations = [explanation.explain(one.recorder, one.names, one.run, int(request), one.recorded) for one in played]
    if timeline is not None:
        _write_timeline(timeline, trace_events(played[0].recorder, played[0].names, explanations[0]))
    if as_json:
        documents = [one.model_dump(mode="json") for one in explanations]
        click.echo(json.dumps(documents if len(documents) > 1 else documents[0], indent=1))
        return
    click.echo("\n\n".join(map(words.told, explanations)))
    if len(explanations) == 2:
        click.echo("\n" + words.compared(*explanations))


def _explain_served(
    folder: Path, request: str | None, policies: tuple[str, ...], seed: int | None, as_json: bool, timeline: Path | None
) -> None:
    from mfs_eval.explain import served_words
    from mfs_eval.explain.served import ServedRun
    from mfs_eval.explain.served_timeline import trace_events

    run = ServedRun(folder)
    if request is None:
        if as_json:
            raise click.UsageError("--json is of one REQUEST")
        asked = [row for row in run.rows if row.policy in (policies or (row.policy,)) and seed in (None, row.seed)]
        click.echo(served_words.listed(asked, LISTED))
        return
    explanations = [run.explain(run.find(request, policy, seed)) for policy in policies or (None,)]
    if timeline is not None:
        if timeline.suffix == PICTURE:
            raise click.UsageError("of runs of mfs serve there is no picture; give --timeline FILE.json")
        _write_timeline(timeline, trace_events(explanations[0]))
    if as_json:
        documents = [one.model_dump(mode="json") for one in explanations]
        click.echo(json.dumps(documents if len(documents) > 1 else documents[0], indent=1))
        return
    click.echo("\n\n".join(map(served_words.told, explanations)))


def _write_timeline(file: Path, document: Mapping[str, Any]) -> None:
    from mfs_eval.errors import EvaluationError
    from mfs_eval.explain.timeline_picture import picture
    from mfs_eval.results.output import write_atomically, writing

    text = picture(document) if file.suffix == PICTURE else json.dumps(document)
    try:
        with writing(file):
            write_atomically(file, text + "\n")
    except EvaluationError as error:
        raise EvaluationError(str(error).replace("--out", "--timeline")) from None
