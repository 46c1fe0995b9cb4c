"""The fixture of the tests that send the same packets to each target."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import targets
from tests.support.rack import PARAMETERS, TOPOLOGY
from tests.support.targets import _Started


@pytest.fixture(scope="module", params=targets.TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[_Started]:
    if reason := targets.missing(request.param):
        pytest.skip(reason)
    with targets.running(request.param, TOPOLOGY) as started:
        started.program(PARAMETERS)
        yield started
        started.session.close()
