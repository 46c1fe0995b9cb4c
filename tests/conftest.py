"""Fixtures that several files of tests share, and how property tests run: the same examples each time, however slow the
machine. ``pytest --hypothesis-profile=explore`` looks for others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import soft_switch.p4runtime  # noqa: F401  (makes `p4.v1` importable)
from soft_switch.backend import ENVIRONMENT_VARIABLE
from tests.support.native import no_machine_code

_SLOW_MACHINE = (HealthCheck.too_slow,)

settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=_SLOW_MACHINE)
settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=_SLOW_MACHINE)
settings.load_profile("repeatable")


@pytest.fixture(scope="module", params=["python", "c"])
def run_as(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a file's tests twice: pipelines are Python, then machine code."""
    if request.param == "c" and no_machine_code():
        pytest.skip(no_machine_code())
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ[ENVIRONMENT_VARIABLE] = request.param
    yield request.param
    if before is None:
        del os.environ[ENVIRONMENT_VARIABLE]
    else:
        os.environ[ENVIRONMENT_VARIABLE] = before
