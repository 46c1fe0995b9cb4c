"""What promotions strand and reorder: the meter alone, and whole runs with messages of many packets."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import Stage
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.hosts.segment_header import RETRANSMISSION
from mfs_eval.packet_level.low_load import workload
from mfs_eval.packet_level.packet_network import PacketNetwork
from mfs_eval.packet_level.stranding_meter import StrandingMeter
from mfs_eval.results.schema import Run
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.run_settings import ControlSettings, RunSettings
from mfs_eval.setup.workload import Workload
from mfs_eval.studies import stranding
from mfs_eval.studies.stranding import BASE, RATE, SCENARIO, VARIANTS, markdown, row
from soft_switch.queues.traffic_manager import wire_bytes
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import Link
from soft_switch.switch import Switch
from tests.support.forwarding import Forwarding
from topologies.topology import FULL_FRAME_BYTES

LINK = Link(rate_bps=1_000_000_000, propagation_ns=1_000)
FRAME_NS = 8 * wire_bytes(FULL_FRAME_BYTES)
ADDRESSES = {i: (bytes([2, 0, 0, 0, 0, i + 1]), bytes([10, 0, 0, i + 1])) for i in range(3)}
RULES = [LevelRule(Stage.KV_REUSE, 5, rli=(0, 0)), LevelRule(Stage.KV_REUSE, 3), LevelRule(Stage.COLLECTIVE, 6)]


def promoted_run(window: int) -> PacketNetwork:
    """A flow behind a blocking one: its window waits at level 3 of the switch when it is promoted to 5."""
    clock = VirtualClock()
    switch = Switch()
    # The stand-in program takes the level from the stamp: collectives first, reuse by its current layer.
    switch.install(Forwarding(level=lambda data: 6 if data[14] & 3 == 2 else 5 if data[25] else 3))  # type: ignore[arg-type]
    network = PacketNetwork(clock, switch, {i: i + 1 for i in ADDRESSES}, ADDRESSES, LINK, window=window)
    network.set_policy(RULES)
    network.start_flow(2, FlowSpec(1, 9, Stage.COLLECTIVE, 10**10, 100 * SEGMENT_BYTES))
    clock.run(2 * FRAME_NS)
    network.start_flow(0, FlowSpec(1, 1, Stage.KV_REUSE, 10**10, 20 * SEGMENT_BYTES, 3), None, 2 * SEGMENT_BYTES)
    clock.run(20 * FRAME_NS)
    network.advance(0, 1, 3)
    clock.run()
    return network


def test_packets_in_a_lower_queue_at_promotion_are_stranded_until_acknowledged() -> None:
    counters = promoted_run(window=4).meter.counters
    assert counters.promotions == counters.delays == 1
    # One packet of the window left before the collective filled the port, or by the guaranteed share.
    assert 3 * SEGMENT_BYTES <= counters.stranded_bytes <= 4 * SEGMENT_BYTES
    # The collective occupies the port for some 80 more frames.
    assert 20 * FRAME_NS < counters.delay_ns < 120 * FRAME_NS
    assert counters.reordered_within_message == 0


def test_reordering_counts_within_a_message_and_without_retransmissions() -> None:
    meter = StrandingMeter()
    meter.opened(7, message_segments=4)
    for sequence, flags in [(4, 0), (0, 0), (1, 0), (3, 0), (2, RETRANSMISSION), (5, 0)]:
        meter.arrived(7, sequence, flags)
    assert meter.counters.reordered_within_message == 0, "messages may overtake each other"
    meter.arrived(7, 7, 0)
    meter.arrived(7, 6, 0)
    assert meter.counters.reordered_within_message == 1
    assert StrandingMeter().counters.delay_mean_ns == 0


@cache
def work() -> Workload:
    return workload(SCENARIO, load_trace(SAMPLE_PATH), 10)


@cache
def played(variant: str) -> Run:
    return play(VARIANTS[variant])


def play(settings: RunSettings) -> Run:
    return run(SCENARIO, work(), "mfs", RATE, 1, settings)


def test_promotion_at_boundaries_keeps_messages_in_order() -> None:
    bound, free = played("base"), played("promotion within messages")
    assert bound.reordered_per_million > 0, "flows are promoted, and their messages overtake each other"
    assert bound.stranded_bytes > 0
    assert bound.stranding_delay_mean_s > 0
    assert bound.reordered_within_message == 0
    assert free.reordered_within_message > 0, "the rule is what keeps them in order"
    # Also where the switch and the hosts have different views of a flow.
    control = ControlSettings(order="switch", progress_delay_ns=20_000_000)
    assert play(replace(BASE, control=control)).reordered_within_message == 0


def test_the_table_has_every_variant_and_is_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stranding, "VARIANTS", {"base": BASE})
    texts = []
    for name in ("first", "second"):
        result = CliRunner().invoke(
            stranding.stranding, ["--out", str(tmp_path / name), "--requests", "5", "--seeds", "1"]
        )
        assert result.exit_code == 0, result.output
        texts.append([(tmp_path / name / file).read_bytes() for file in ("stranding.md", "stranding.csv")])
    assert texts[0] == texts[1]
    assert b"| base | " in texts[0][0]
    assert len(markdown([row("x", [played("base")])]).splitlines()) == 3
