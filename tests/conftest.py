"""Fixtures that several files of tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from soft_switch.native.choice import VARIABLE
from tests.native_support import no_machine_code


@pytest.fixture(scope="module", params=["python", "c"])
def run_as(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a file's tests twice: pipelines are Python, then machine code."""
    if request.param == "c" and no_machine_code():
        pytest.skip(no_machine_code())
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = request.param
    yield request.param
    if before is None:
        del os.environ[VARIABLE]
    else:
        os.environ[VARIABLE] = before
