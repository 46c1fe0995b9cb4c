"""``mfs study faults`` and ``mfs study soak``: parts fail under load, and nothing is left behind."""

from __future__ import annotations

import csv
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from mfs_eval.errors import EvaluationError
from mfs_eval.live.fault_rack import PREFIX, FaultRack, Outcome
from mfs_eval.studies.faults import CLOCK, DISK, ENDING, FAULTS, FILE, MANAGEMENT, csv_text, planned, read
from mfs_eval.studies.soak import is_flat, logs_kept, next_fault, use
from tests.support.cli import finished
from tests.support.realtime import real_kernel
from tests.topologies.test_topologies import standing
from topologies.namespaces import Realised


def test_every_fault_is_of_every_part_that_it_can_be_of() -> None:
    found = list(planned(list(FAULTS), ("switch", "agent")))
    assert len(found) == len(set(found)) == 2 * len(FAULTS) - 2
    assert (DISK, "all") in found
    assert (MANAGEMENT, "switch") not in found


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [("kill -9", "switch", Outcome(1400, 800, 2.0625, 30, 2.5, 37))]
    (tmp_path / FILE).write_text(csv_text(rows))
    assert read(tmp_path / FILE) == rows
    (tmp_path / FILE).write_text("fault,of\n")
    with pytest.raises(EvaluationError, match="measure again"):
        read(tmp_path / FILE)


def test_the_second_half_of_a_soak_ends_no_part() -> None:
    draw = random.Random(1)
    drawn = {next_fault(draw, ending=False) for _ in range(300)}
    assert len(drawn) == 3 + 2 + 1
    assert {fault for fault, _ in drawn}.isdisjoint({CLOCK, *ENDING})


def test_a_process_that_grew_or_was_replaced_is_not_flat() -> None:
    before = use(os.getpid())
    held = [open("/dev/null", "rb") for _ in range(3)]  # noqa: SIM115
    after = use(os.getpid())
    for file in held:
        file.close()
    assert after.descriptors == before.descriptors + 3
    assert not is_flat(before, after)
    assert is_flat(before, before)
    assert not is_flat(before, replace(before, memory_kib=2 * before.memory_kib))
    assert not is_flat(before, replace(before, pid=1))


def test_what_does_not_become_right_leaves_its_logs(tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "out/logs"
    disk.mkdir()
    (disk / "1-switch.log").write_text("why\n")
    rack = FaultRack(Realised("none"), disk)
    with (
        pytest.raises(EvaluationError, match=rf"^not right; the logs of all parts are in {kept}$"),
        logs_kept(rack, kept),
    ):
        raise EvaluationError("not right")
    assert (kept / "1-switch.log").read_text() == "why\n"


@real_kernel
def test_a_killed_agent_and_a_killed_controller_stop_no_traffic(tmp_path: Path) -> None:
    words = ("--fault", "kill -9", "--part", "controller", "--part", "agent")
    done = finished("study", "faults", "--out", str(tmp_path), *words)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "faults.csv").read_text().splitlines()))
    assert [row["of"] for row in rows] == ["controller", "agent"]
    for row in rows:
        # A busy machine drops a packet now and then.
        assert int(row["lost"]) < int(row["packets"]) / 20
        assert row["entries"] == "0"
    assert (tmp_path / "faults.md").read_text() == done.stdout
    assert standing(PREFIX) == ""
    assert "mfs-faults-" not in Path("/proc/mounts").read_text()
