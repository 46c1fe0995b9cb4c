"""Options that several commands share: one spelling and one meaning for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from host_agent.command_line import Positive, Seeds

Option = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Decorator of a command's function."""


def out_folder(default: str | None, contents: str) -> Option:
    """Return the option ``--out``, a folder for ``contents``; required if there is no default."""
    shown: dict[str, Any] = {"required": True} if default is None else {"default": Path(default), "show_default": True}
    return click.option(
        "--out", type=click.Path(path_type=Path, file_okay=False), help=f"Folder for {contents}.", **shown
    )


def out_file() -> Option:
    """Return the option ``--out``, a file for the numbers of a benchmark."""
    return click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON file for the numbers.")


def requests(default: int, minimum: int = 1) -> Option:
    """Return the option ``--requests``."""
    kind = click.IntRange(min=minimum)
    return click.option("--requests", type=kind, default=default, show_default=True, help="Requests per run.")


def seeds(default: str) -> Option:
    """Return the option ``--seeds``, which gives the command a tuple."""
    return click.option(
        "--seeds",
        type=Seeds(),
        default=default,
        show_default=True,
        help="Seeds of the runs, such as 1-10 or 3,7; every policy gets the same.",
    )


def policies(default: Sequence[str] = ()) -> Option:
    """Return the option ``--policy``, which may be repeated."""
    return click.option(
        "--policy",
        "policies",
        multiple=True,
        default=default,
        show_default=bool(default),
        help="Policy to run, by name or as FILE.toml; may be repeated.",
    )


def request_rates_per_gpu(default: Sequence[float] = ()) -> Option:
    """Return the option ``--request-rate-per-gpu``, which may be repeated."""
    return click.option(
        "--request-rate-per-gpu",
        "rates_per_gpu",
        type=Positive(1e-6, 1e6),
        multiple=True,
        default=default,
        show_default=bool(default),
        help="Requests per second and GPU; may be repeated." + ("" if default else " By default those of each case."),
    )


def request_rates(default: str) -> Option:
    """Return the option ``--request-rate``, which may be repeated; ``default`` describes its default."""
    return click.option(
        "--request-rate",
        "request_rates",
        type=Positive(0.001, 1e6),
        multiple=True,
        help=f"Requests per second; may be repeated. By default {default}.",
    )


def scale(default: int) -> Option:
    """Return the option ``--scale``."""
    return click.option(
        "--scale",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Divisor of rates and bytes; smaller is more faithful and slower.",
    )


TRACE: Option = click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Mooncake trace (JSON Lines) to replay instead of the bundled one.",
)
ENGINE: Option = click.option(
    "--engine",
    type=click.Choice(["packets", "flows"]),
    default="packets",
    show_default=True,
    help="packets: through the compiled program; flows: as fluids, several times faster.",
)
JOBS: Option = click.option("--jobs", type=click.IntRange(min=1), help="Number of processes; by default one per core.")
DRY_RUN: Option = click.option(
    "--dry-run", is_flag=True, help="Say how many runs there would be and about how long they take, and end."
)
SCENARIOS: Option = click.option("--scenario", "scenarios", multiple=True, help="Scenario to run; may be repeated.")
VARIANTS: Option = click.option("--variant", "variants", multiple=True, help="Variant to run; may be repeated.")
