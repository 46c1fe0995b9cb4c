"""Parts that the commands of ``mfs`` share: types of option values, lazy groups, options."""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from host_agent import log
from host_agent.protocol.units import parse_bit_rate

R = TypeVar("R")
TYPED = "mfs.typed"
"""Where click's context keeps the command line as it was typed."""


def typed() -> str:
    """Return the command line of the command that is running; its name alone if it was not started by ``mfs``."""
    context = click.get_current_context()
    return str(context.meta.get(TYPED, context.command_path))


class Positive(click.FloatRange):
    """A number from ``least`` to ``most``; unlike :class:`click.FloatRange` it refuses NaN."""

    def __init__(self, least: float, most: float) -> None:
        super().__init__(min=least, max=most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See :meth:`click.ParamType.convert`."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class Seeds(click.ParamType):  # type: ignore[type-arg]
    """Seeds of random draws: numbers and inclusive ranges, separated by commas: ``1``, ``1-10``, ``3,7,11-20``."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """See :meth:`click.ParamType.convert`."""
        if isinstance(value, tuple):
            return value
        seeds: list[int] = []
        for part in str(value).split(","):
            matched = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
            if matched is None or (matched[2] and int(matched[2]) < int(matched[1])):
                self.fail(f"{value!r} is not a list of seeds; write numbers and ranges, e.g. 1-10 or 3,7.", param, ctx)
            first = int(matched[1])
            seeds += range(first, int(matched[2] or first) + 1)
        if len(set(seeds)) != len(seeds):
            self.fail(f"{value!r} names a seed twice.", param, ctx)
        return tuple(seeds)


class BitRate(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """A rate in bits per second, with an optional decimal suffix: 500k, 20M, 1.5G."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See :meth:`click.ParamType.convert`."""
        if isinstance(value, int):
            return value
        rate = parse_bit_rate(value)
        if rate is None:
            self.fail(f"{value!r} is not a rate from 8k to 1000G; write bits per second, e.g. 20M.", param, ctx)
        return rate


class LazyGroup(click.Group):
    """A group of commands that are imported on first use, from a table of ``"module:attribute"`` by command."""

    def __init__(self, *args: Any, table: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """See :meth:`click.Group.list_commands`."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """See :meth:`click.Group.get_command`."""
        if cmd_name not in self.table:
            return None
        module, attribute = self.table[cmd_name].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def logging_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add ``-v``, ``-q`` and ``--log-format``, which configure logging to stderr, to a long-running command."""

    @click.option("-v", "--verbose", count=True, help="Log more; -vv logs everything.")
    @click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors alone.")
    @click.option(
        "--log-format",
        type=click.Choice(log.FORMATS),
        default="text",
        show_default=True,
        envvar="MFS_LOG_FORMAT",
        show_envvar=True,
        help="Format of the log on stderr.",
    )
    @functools.wraps(command)
    def with_logging(*args: Any, verbose: int, quiet: bool, log_format: str, **kwargs: Any) -> R:
        if quiet and verbose:
            raise click.UsageError("--quiet and --verbose exclude each other.")
        log.configure(-1 if quiet else verbose, log_format)
        return command(*args, **kwargs)

    return with_logging
