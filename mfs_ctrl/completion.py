"""``mfs completion``: scripts that complete commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_MFS_COMPLETE"
"""In which the script tells ``mfs`` to complete a command line, by click's convention."""


@click.command(short_help="Print a script that completes mfs in a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands and options of mfs in SHELL.

    For this session: eval "$(mfs completion bash)". For all: ~/.local/share/bash-completion/completions/mfs, a file
    _mfs in a folder of zsh's fpath, or ~/.config/fish/completions/mfs.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(ctx.find_root().command, {}, "mfs", VARIABLE)
    # Not source(), which also looks for a bash of the right version on this machine.
    click.echo(made.source_template % made.source_vars())
