"""The command ``mfs stf``: run one program and script, or every pair in a folder of p4c's samples."""

from __future__ import annotations

import json
import sys
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import click

from soft_switch.backend import Backend
from soft_switch.errors import SwitchError
from soft_switch.options import backend_option
from soft_switch.stf.samples import (
    COMPILER,
    FAIL,
    PASS,
    UNSUPPORTED,
    Compiler,
    Outcome,
    find_pairs,
    run_pair,
    run_sample,
)

_STYLES = {PASS: "green", FAIL: "red", UNSUPPORTED: "yellow"}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(short_help="Run scripts in p4c's Simple Test Framework (STF).")
@click.argument("program", type=_FILE, required=False)
@click.argument("script", type=_FILE, required=False)
@click.option("--samples", type=_FOLDER, help="Folder with pairs NAME.p4 and NAME.stf, such as testdata/p4_16_samples.")
@click.option("--cache", type=_FOLDER, help="Folder that keeps compiled programs between runs.")
@click.option("--only", default="*", show_default=True, help="Run only pairs whose name matches this pattern.")
@click.option("--compiler", default=COMPILER, show_default=True, help="Command of p4c's bmv2 backend.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file for the results, one row per script.",
)
@backend_option
def stf(
    program: Path | None,
    script: Path | None,
    samples: Path | None,
    cache: Path | None,
    only: str,
    compiler: str,
    json_file: Path | None,
    backend: Backend,
) -> None:
    """Run scripts in p4c's Simple Test Framework (STF) on the embedded switch.

    Takes a compiled PROGRAM (the JSON of p4c-bm2-ss) and a SCRIPT, or all pairs for v1model in a folder (--samples and
    --cache). Exits with 1 if a script does not pass.
    """
    try:
        if samples is not None:
            if cache is None:
                raise click.UsageError("--samples needs --cache, a folder for compiled programs")
            outcomes = _run_samples(samples, Compiler(cache, compiler), only, backend)
        elif program is not None and script is not None:
            outcomes = [run_pair(script.stem, program.read_bytes(), script.read_text(), backend)]
        else:
            raise click.UsageError("give a compiled program and a script, or --samples FOLDER --cache FOLDER")
    except (SwitchError, OSError, UnicodeError) as error:
        raise click.ClickException(str(error)) from error
    if json_file is not None:
        json_file.write_text(json.dumps([outcome.row() for outcome in outcomes], indent=1) + "\n")
    _show(outcomes)
    sys.exit(any(outcome.outcome != PASS for outcome in outcomes))


def _run_samples(samples: Path, compiler: Compiler, only: str, backend: Backend) -> list[Outcome]:
    # `mfs --help` imports this module, and the base install has no rich.
    from rich.console import Console
    from rich.progress import track

    pairs = [pair for pair in find_pairs(samples) if fnmatch(pair[1].stem, only)]
    if not pairs:
        raise click.UsageError(f"{samples} has no pair NAME.p4 (for v1model) and NAME.stf that matches {only!r}")
    return [run_sample(compiler, *pair, backend) for pair in track(pairs, "scripts", console=Console(stderr=True))]


def _show(outcomes: list[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("script", "outcome", "reason", box=None)
    for outcome in outcomes:
        if outcome.outcome != PASS or len(outcomes) == 1:
            style = _STYLES[outcome.outcome]
            table.add_row(outcome.name, f"[{style}]{outcome.outcome}[/]", outcome.reason.replace("[", r"\["))
    if table.row_count:
        console.print(table)
    counts = Counter(outcome.outcome for outcome in outcomes)
    console.print(", ".join(f"{counts[kind]} {kind}" for kind in (PASS, FAIL, UNSUPPORTED)))
