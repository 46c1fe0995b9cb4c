"""Random RoCEv2 packets and registrations, many of them damaged, through the compiled program on both backends."""

from __future__ import annotations

import random

import pytest

from host_agent.protocol.stamp import Stage
from mfs_ctrl import policies
from soft_switch.model.externs import MeterConfig
from tests.support.native import no_machine_code
from tests.support.rocev2 import fuzzed, rack

STORED, ENDED, _, _, FOREIGN, EXCESS, COLLISION, INVALID = range(8)
REGISTERED = 1
PACKETS = 20_000
FEW = MeterConfig(cir=100, cburst=50, pir=100, pburst=50)

pytestmark = pytest.mark.skipif(bool(no_machine_code()), reason=no_machine_code() or "runs")


def test_random_packets_break_nothing_are_accounted_for_and_run_alike_on_both_backends() -> None:
    programs = [rack("python"), rack("c")]
    for program in programs:
        program.set_rules(policies.mfs().rules, idle_gap_us=500)
        program.pipeline.meters["police_registration"].configs[1] = FEW
    draw, now_us, left = random.Random(11), 0, 0
    for _ in range(PACKETS):
        now_us += draw.choice((1, 50, 1000))
        port, frame = fuzzed(draw, programs[0].topology)
        one, other = (program.send(frame, port=port, now_us=now_us) for program in programs)
        assert one == other
        left += one is not None
    python, native = (program.pipeline for program in programs)
    for name, register in python.registers.items():
        assert register.values == native.registers[name].values, name
    for name, counter in python.counters.items():
        assert counter.packets == native.counters[name].packets, name
    outcomes = python.counters["registration"].packets
    discarded = sum(python.counters["discarded"].packets)
    # A registration ends here, unless it had no route and was discarded for that.
    assert left + discarded <= PACKETS <= left + discarded + sum(outcomes)
    assert min(outcomes[index] for index in (STORED, ENDED, FOREIGN, EXCESS, INVALID)) > 0
    assert outcomes[COLLISION] == 0  # so few flows have a cell each
    assert python.counters["rdma"].packets[REGISTERED << 2 | Stage.P2D] > 0
