"""Parts that all commands share: lists of seeds, lazy groups, and the log."""

from __future__ import annotations

import json
import logging

import click
import pytest
from click.testing import CliRunner

from host_agent import log
from host_agent.command_line import LazyGroup, Seeds, logging_options


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", (1,)), ("1-3", (1, 2, 3)), ("3,7,11-12", (3, 7, 11, 12)), ("0", (0,))]
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: tuple[int, ...]) -> None:
    assert Seeds().convert(text, None, None) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "5-3", "1,,2", "1,1", "1-3,2", "1.5", "9999999999"])
def test_an_invalid_list_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Seeds().convert(text, None, None)


def test_a_lazy_group_imports_a_command_only_when_it_is_called() -> None:
    group = LazyGroup("demo", table={"clean": "topologies.cli:clean", "broken": "no.such.module:command"})
    assert CliRunner().invoke(group, ["clean", "--help"]).exit_code == 0
    assert "No such command" in CliRunner().invoke(group, ["absent"]).output


@pytest.mark.parametrize("log_format", log.FORMATS)
def test_the_log_has_time_level_logger_and_message(log_format: str) -> None:
    @click.command()
    @logging_options
    def command() -> None:
        logging.getLogger("mfs_ctrl.example").info("port %d is up", 3)
        logging.getLogger("mfs_ctrl.example").debug("detail")

    before = logging.getLogger().handlers[:]
    try:
        done = CliRunner().invoke(command, ["--log-format", log_format])
        more = CliRunner().invoke(command, ["--log-format", log_format, "-v"])
        less = CliRunner().invoke(command, ["--log-format", log_format, "-q"])
    finally:
        logging.getLogger().handlers[:] = before
    (line,) = done.stderr.splitlines()
    assert len(more.stderr.splitlines()) == 2
    assert less.stderr == ""
    if log_format == "json":
        record = json.loads(line)
        assert record.pop("time").endswith("Z")
        assert record == {"level": "info", "logger": "mfs_ctrl.example", "message": "port 3 is up"}
    else:
        assert line.endswith("Z INFO mfs_ctrl.example: port 3 is up")
