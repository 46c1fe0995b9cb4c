"""The scheduling example of the paper (:mod:`tests.support.example`), as packets through the compiled program."""

from __future__ import annotations

import pytest

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import bias_code, log2_code
from host_agent.protocol.stamp import units_of
from mfs_ctrl import policies
from mfs_ctrl.policy.policy import Policy
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.packet_network import PacketNetwork
from soft_switch.queues.traffic_manager import wire_bytes
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import Link
from soft_switch.switch import Switch
from tests.support.example import FILLED, FLOWS, UNIT_US
from tests.support.program import Program
from topologies.topology import FULL_FRAME_BYTES, tor

RATE_BPS = 25_000_000
UNIT_NS = UNIT_US * 1000
# Packets are stored and forwarded once, and lower levels keep their guaranteed share, so a unit of data takes less than
# a unit of time here. The other orders still miss.
PACKETS_PER_UNIT = round(FILLED * UNIT_NS * RATE_BPS / (wire_bytes(FULL_FRAME_BYTES) * 8 * 10**9))
UNIT_BYTES = PACKETS_PER_UNIT * SEGMENT_BYTES
LAYERS = 32


def units(count: float) -> int:
    """Return the ``remaining`` code of ``count`` units of data."""
    return log2_code(units_of(round(count * UNIT_BYTES)))


def slack(count: float) -> int:
    """Return the slack code of ``count`` units of time."""
    return log2_code(round(count * UNIT_NS / 1000))


def missed(chosen: Policy) -> tuple[set[str], list[str]]:
    """Return the flows that miss their deadlines, and all flows in the order in which they end."""
    topology = tor(servers=4, nics=1, rate_bps=RATE_BPS)
    program = Program(topology)
    program.trust(program.untrusted)
    program.set_rules(chosen.rules)
    program.set_bias(bias_code(RATE_BPS))
    clock, switch = VirtualClock(), Switch()
    network = PacketNetwork(
        clock,
        switch,
        {host.id: host.port for host in topology.hosts},
        {host.id: (host.mac, host.ipv4.packed) for host in topology.hosts},
        Link(RATE_BPS, 1000),
        window=8,
        rerank_interval_ns=1_000_000,
    )
    switch.install(program.pipeline)
    network.set_policy(chosen.rules)
    ends: dict[str, float] = {}
    for source, (name, (size, _, deadline, stage)) in enumerate(FLOWS.items()):
        network.advance(source, source + 1, LAYERS)
        spec = FlowSpec(3, source + 1, stage, deadline * UNIT_NS, size * UNIT_BYTES, LAYERS)
        network.start_flow(source, spec, lambda now, name=name: ends.update({name: now / UNIT_NS}), SEGMENT_BYTES)
    clock.run(20 * UNIT_NS)
    assert network.totals().dropped == 0
    late = {name for name, (_, compute, deadline, _) in FLOWS.items() if ends[name] + compute > deadline}
    return late, sorted(ends, key=lambda name: ends[name])


def test_mfs_meets_all_three_deadlines_in_the_only_possible_order() -> None:
    assert missed(policies.mfs()) == (set(), ["B", "C", "A"])


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (policies.fifo(), {"B", "C"}),
        (policies.sjf([units(2.5), units(3.5)]), {"B"}),
        (policies.edf([slack(9), slack(15)]), {"B"}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_other_policies_miss_the_expected_flows(chosen: Policy, expected: set[str]) -> None:
    assert missed(chosen)[0] == expected
