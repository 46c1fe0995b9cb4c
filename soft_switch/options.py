"""Options that the switch's commands share."""

from __future__ import annotations

import click

from soft_switch.backend import BACKENDS, ENVIRONMENT_VARIABLE

backend_option = click.option(
    "--pipeline",
    "backend",
    type=click.Choice(BACKENDS),
    envvar=ENVIRONMENT_VARIABLE,
    default="auto",
    show_default=True,
    help="Run programs as machine code (c), which needs a C compiler, or as Python; auto: machine code if possible.",
)
