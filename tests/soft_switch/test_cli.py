"""Covers options of ``mfs switch``: the backend, and the form of the log."""

from __future__ import annotations

import json

import pytest

from soft_switch.backend import ENVIRONMENT_VARIABLE
from tests.support.cli import finished, started
from topologies.processes import free_address


def test_the_backend_is_an_option() -> None:
    with started("switch", "--address", free_address(), "--pipeline", "python") as process:
        assert process.log_line().endswith("mfs_v1model.json as Python (Python was requested)")


def test_the_environment_variable_is_the_default_of_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "python")
    with started("switch", "--address", free_address()) as process:
        assert process.log_line().endswith("as Python (Python was requested)")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "rust")
    done = finished("switch", "--address", free_address())
    assert done.returncode == 2
    assert "'rust' is not one of 'auto', 'python', 'c'" in done.stderr


def test_the_log_can_be_json() -> None:
    with started("switch", "--empty", "--address", free_address(), "--log-format", "json") as process:
        assert process.process.stderr is not None
        line = json.loads(process.process.stderr.readline())
    assert line["level"] == "info"
    assert line["message"].startswith("P4Runtime listens on 127.0.0.1:")
