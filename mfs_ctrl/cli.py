"""The command ``mfs``: a table of commands, each imported only when it is called. The base install has no gRPC."""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
from typing import Any

import click

from host_agent.command_line import TYPED, LazyGroup
from host_agent.protocol.errors import MfsError
from soft_switch.errors import SwitchError

COMMANDS = {
    "demo": "mfs_eval.cli:demo",
    "ablate": "mfs_eval.cli:ablate",
    "sweep": "mfs_eval.flow_level.cli:sweep",
    "report": "mfs_eval.cli:report",
    "explain": "mfs_eval.explain.command:explain",
    "advise": "mfs_eval.advise.cli:advise",
    "study": "mfs_eval.cli:study",
    "bench": "mfs_eval.cli:bench",
    "trace": "mfs_eval.serving.cli:trace",
    "switch": "mfs_ctrl.switch_command:switch",
    "stf": "soft_switch.stf.command:stf",
    "ctrl": "mfs_ctrl.commands:ctrl",
    "status": "mfs_ctrl.status_command:status",
    "top": "mfs_ctrl.top_command:top",
    "doctor": "mfs_ctrl.doctor_command:doctor",
    "agent": "host_agent.cli:agent",
    "live": "mfs_eval.live.cli:live",
    "serve": "mfs_eval.serve.cli:serve",
    "topology": "topologies.cli:topology",
    "clean": "topologies.cli:clean",
    "tofino": "mfs_ctrl.tofino.command:tofino",
    "p4": "p4src.cli:p4",
    "completion": "mfs_ctrl.completion:completion",
}
EXTRAS = {
    "agent": "net",
    "demo": "eval",
    "ablate": "eval",
    "sweep": "eval",
    "report": "eval",
    "explain": "eval",
    "advise": "eval",
    "study": "eval",
    "bench": "eval,net",
    "trace": "eval",
    "switch": "ctrl",
    "stf": "ctrl",
    "ctrl": "ctrl",
    "status": "ctrl",
    "top": "ctrl",
    "tofino": "ctrl",
    "live": "eval,net",
    "serve": "eval,net",
    "topology": "net",
    "clean": "net",
}
"""The extra of the distribution that each command needs."""
INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 plus the number of SIGINT, as in shells."""


class Commands(LazyGroup):
    """The commands; Ctrl-C ends each of them in one line."""

    def make_context(self, info_name: str | None, args: list[str], *others: Any, **extra: Any) -> click.Context:
        """See :meth:`click.Command.make_context`."""
        line = shlex.join(["mfs", *args])
        context = super().make_context(info_name, args, *others, **extra)
        context.meta[TYPED] = line
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """See :meth:`click.Group.invoke`."""
        try:
            result = super().invoke(ctx)
            # A full disk behind stdout is an error of the command, not of the interpreter's end.
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group(
    cls=Commands,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="mfs-switch")
def mfs() -> None:
    """Multi-stage flow scheduling for LLM serving, in a P4 switch.

    Start with `mfs demo`: it replays a trace of LLM requests as stamped packets through the compiled P4 program, under
    six scheduling policies, and shows what each does to the time to first token (TTFT).
    """


def main() -> None:
    """Run ``mfs`` on the arguments of the process. An expected error is one line on stderr and exit status 1."""
    # gRPC would log to stderr, among the messages of the command.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A locale that cannot show a character shows another one.
            stream.reconfigure(errors="replace")
    try:
        mfs(prog_name="mfs")
    except ModuleNotFoundError as error:
        extra = next((EXTRAS[word] for word in sys.argv[1:] if word in EXTRAS), "eval")
        click.echo(f"error: {error}; install it with: pip install '.[{extra}]'", err=True)
        sys.exit(1)
    except (MfsError, SwitchError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # What is still buffered would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.echo(f"error: cannot write {error.filename or 'the output'}: {error.strerror}", err=True)
        sys.exit(1)
