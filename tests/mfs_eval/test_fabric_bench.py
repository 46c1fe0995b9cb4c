"""The benchmark of a controller of many switches."""

from __future__ import annotations

import re

from click.testing import CliRunner

from mfs_ctrl import fabric_file
from mfs_eval.bench.fabric import Shape, fabric


def test_each_switch_of_the_described_fabric_has_the_ports_that_were_asked_for() -> None:
    shape = Shape(switches=6, spines=2, ports=8)
    specs = fabric_file.parse(shape.describe([f"127.0.0.1:{9000 + number}" for number in range(6)]))
    assert [spec.name for spec in specs] == shape.names
    assert [len(spec.topology.ports) for spec in specs] == [8, 8, 8, 8, 4, 4]
    assert {len(spec.topology.remote_hosts) for spec in specs[:4]} == {3 * 6}


def test_it_measures_start_ticks_memory_and_takeover() -> None:
    options = ["--switches", "3", "--spines", "1", "--ports", "3", "--seconds", "2"]
    done = CliRunner().invoke(fabric, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert [re.sub(r"[\d.,]+", "N", line).split(":")[0] for line in done.output.splitlines()] == [
        "N switches (N spines)N N ports a ToR; the controllers on one core",
        "start",
        "tick of the fabric",
        "memory",
        "after kill -N the backup is elected",
        "after kill -N the backup has compared and written",
        "for which it took N s of the core",
    ]
