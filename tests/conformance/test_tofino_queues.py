"""Queues on the model of Tofino: the queue that a packet is sent to, and the settings of the traffic manager."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from host_agent.protocol.stamp import LEVELS
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.tofino.bf_runtime import BfRuntime
from mfs_ctrl.tofino.queues import Setting, holds, settings
from tests.support import targets, tofino_model
from tests.support.example import FLOWS, played
from tests.support.rack import PARAMETERS, RATE_BPS, TOPOLOGY, TRUSTED, UNAWARE, frame, fresh, level_of, sent
from tests.support.targets import _Started


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module", params=[targets.TOFINO, targets.TOFINO_2])
def model(request: pytest.FixtureRequest, log: Path) -> Iterator[_Started]:
    if reason := targets.missing(request.param):
        pytest.skip(reason)
    with targets.running(request.param, TOPOLOGY, log) as started:
        started.program(PARAMETERS)
        yield started
        started.session.close()


def test_the_queues_of_the_example_of_the_paper_are_the_levels_that_it_needs(model: _Started, log: Path) -> None:
    before = len(tofino_model.queue_ids(log))
    batches = [fresh() for _ in FLOWS]
    levels, ends = played(RATE_BPS, batches[0], lambda asked: level_of(sent(model, frame(0, asked)).frame))
    model.wait(1)  # until the log is written
    assert tofino_model.queue_ids(log)[before:] == [level for row in levels for level in row.values()]
    assert ends == {"B": 4, "C": 7, "A": 9}


def test_the_settings_of_queues_are_written_and_held_while_the_controller_is_bound(model: _Started) -> None:
    # Longer than a command waits: a busy machine's model may take seconds for a row.
    with BfRuntime(model.session.address, timeout_s=300) as switch:
        rows = settings({TRUSTED: RATE_BPS}, SwitchParameters(), switch.chip, shape=True)
        changes = [(row, switch.placement(TRUSTED)) for row in rows]
        neighbour = Setting(switch.chip.table("queue.buffer"), UNAWARE, 0, {"pool_max_cells": 0})
        before = switch.read(neighbour, switch.placement(UNAWARE))
        assert switch.write(changes) == 3 * LEVELS + 2
        assert [row.describe() for row, place in changes if not holds(switch.read(row, place), row)] == []
        assert switch.read(neighbour, switch.placement(UNAWARE)) == before
