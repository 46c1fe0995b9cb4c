"""Random RoCEv2 packets, registrations and TCP options, many of them damaged, through the compiled program.

``MFS_RANDOM_PACKETS`` is how many pass as machine code alone.
"""

from __future__ import annotations

import os
import random
from types import SimpleNamespace
from typing import cast

import pytest

from host_agent.protocol.stamp import Stage
from mfs_ctrl import policies
from soft_switch.model.externs import MeterConfig
from tests.support.native import no_machine_code
from tests.support.rocev2 import WRITE_FIRST, WRITE_MIDDLE, flow_between, fuzzed, rack, registers, rocev2
from tests.support.segments import fuzzed_segment
from topologies.topology import Topology

STORED, ENDED, _, _, FOREIGN, EXCESS, COLLISION, INVALID = range(8)
REGISTERED = 1
PACKETS = 20_000
RANDOM_PACKETS = int(os.environ.get("MFS_RANDOM_PACKETS", "20000"))
FEW = MeterConfig(cir=20, cburst=10, pir=20, pburst=10)

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
        if draw.random() < 0.2:
            frame = fuzzed_segment(draw, programs[0].topology)
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


def test_random_packets_and_registrations_of_others_do_not_touch_a_registered_flow() -> None:
    program, alone = rack("c"), rack("c")
    for one in (program, alone):
        one.set_rules(policies.mfs().rules, idle_gap_us=500)
        for port in one.topology.ports[1:]:
            one.pipeline.meters["police_registration"].configs[port] = FEW
    known = program.topology
    witness = flow_between(known.hosts[0].ipv4, known.hosts[1].ipv4, queue_pair=0x123456)
    registered = registers(witness, batch=0x12345678, flow=77, slack_us=900_000, target_layer=9, remaining=1 << 30)
    data = [bytes(rocev2(witness, opcode, message=1 << 20)) for opcode in (WRITE_FIRST, WRITE_MIDDLE, WRITE_MIDDLE)]
    # Others are at other ports, and say now and then that they are the first host.
    others = cast(Topology, SimpleNamespace(hosts=known.hosts[1:], ports=known.ports[1:]))
    draw, now_us, due_us, left = random.Random(12), 0, 0, 0
    own = known.hosts[0].port
    for count in range(RANDOM_PACKETS):
        now_us += draw.choice((1, 50, 1000))
        if now_us >= due_us:
            due_us = now_us + 300_000
            assert [one.send_bytes(registered, own, now_us) for one in (program, alone)] == [None, None]
        if count % 16 == 0:
            frame = data[count // 16 % len(data)]
            mine, expected = (one.send_bytes(frame, own, now_us, count % 7) for one in (program, alone))
            assert mine == expected
            assert mine is not None
        if draw.random() < 0.5:
            port, frame = fuzzed(draw, others)
            if draw.random() < 0.1:
                frame = frame.replace(known.hosts[1].ipv4.packed, known.hosts[0].ipv4.packed)
        else:
            port, frame = draw.choice(known.ports[1:]), fuzzed_segment(draw, others)
        left += program.send_bytes(frame, port, now_us, draw.randrange(3)) is not None
    counters = program.pipeline.counters
    outcomes, discarded = counters["registration"].packets, sum(counters["discarded"].packets)
    assert left + discarded <= RANDOM_PACKETS <= left + discarded + sum(outcomes)
    assert min(outcomes[index] for index in (STORED, FOREIGN, EXCESS, INVALID)) > 0
    assert left > RANDOM_PACKETS // 10
