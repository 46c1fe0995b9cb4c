"""The commands ``mfs p4 ...``."""

from __future__ import annotations

import click

from p4src.build import build_command


@click.group()
def p4() -> None:
    """Work on the P4 program."""


p4.add_command(build_command)
