"""The command ``mfs``. Each subcommand imports what it needs when it runs: the base install has no gRPC."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mfs-switch")
def mfs() -> None:
    """Multi-stage flow scheduling for LLM serving, in a P4 switch.

    Start with `mfs demo`: it replays a trace of LLM requests as stamped packets through the compiled P4 program, under
    five scheduling policies, and shows what each does to the time to first token.
    """


@mfs.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/demo"),
    show_default=True,
    help="Where report.html and results.json go.",
)
@click.option("--scenario", "scenarios", multiple=True, help="Only these scenarios (may be given more than once).")
@click.option("--policy", "policies", multiple=True, help="Only these policies (may be given more than once).")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="A Mooncake trace (JSONL) in place of the one that comes along.",
)
@click.option("--requests", type=click.IntRange(min=1), default=None, help="Requests per run.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the arrivals.")
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Processes; as many as cores by default.")
def demo(
    out: Path,
    scenarios: tuple[str, ...],
    policies: tuple[str, ...],
    trace: Path | None,
    requests: int | None,
    seed: int,
    jobs: int | None,
) -> None:
    """Replay a request trace on a rack of 8 servers and report TTFT per policy."""
    from evaluation.demo import run_demo

    run_demo(out, scenarios, policies, trace, requests, seed, jobs)


def main() -> None:
    """Run the command; an error that was foreseen is one line on stderr and exit status 1."""
    try:
        mfs()
    except ImportError as error:
        extra = "eval" if "demo" in sys.argv else "ctrl"
        print(f"error: {error}; install it with: pip install 'mfs-switch[{extra}]'", file=sys.stderr)
        sys.exit(1)
