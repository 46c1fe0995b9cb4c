"""Three flows on one link that meet their deadlines in one order only, as packets through the compiled program.

The link has unit rate and all flows are ready at time 0. Flow: size, remaining compute after it, deadline. A: 2, 9, 18.
B: 4, 6, 12. C (last stage): 3, 0, 7. Only the order B, C, A is in time (they end at 4, 7, 9). Fair sharing misses B and
C, shortest first misses B, and earliest deadline first misses B.
"""

from __future__ import annotations

import pytest

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import bias_code, log2_code
from host_agent.protocol.stamp import Stage, units_of
from mfs_ctrl import policies
from mfs_ctrl.policy.policy import Policy
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.packet_network import PacketNetwork
from soft_switch.queues.traffic_manager import wire_bytes
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import Link
from soft_switch.switch import Switch
from tests.support.program import Program
from topologies.topology import FULL_FRAME_BYTES, tor

RATE_BPS = 25_000_000
UNIT_NS = 90_000_000
# The only order that is in time has no slack to spare. Packets are stored and forwarded once, and lower levels keep
# their guaranteed share, so a unit of data takes 0.9 units of time here. The other orders still miss.
PACKETS_PER_UNIT = round(0.9 * UNIT_NS * RATE_BPS / (wire_bytes(FULL_FRAME_BYTES) * 8 * 10**9))
UNIT_BYTES = PACKETS_PER_UNIT * SEGMENT_BYTES
LAYERS = 32

FLOWS = {"A": (2, 9, 18, Stage.KV_REUSE), "B": (4, 6, 12, Stage.KV_REUSE), "C": (3, 0, 7, Stage.P2D)}


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
