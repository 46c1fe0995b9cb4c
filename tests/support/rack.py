"""The rack of the tests that run on several targets: its ports, the controller's parameters, frames to its hosts."""

from __future__ import annotations

import itertools

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import Stage
from mfs_ctrl.counters import DISCARD_REASONS
from mfs_ctrl.desired import SwitchParameters
from tests.support.targets import Sent, _Started
from topologies.topology import two_tors

RATE_BPS = 100_000_000_000
TOPOLOGY, _ = two_tors(servers=4, nics=1, rate_bps=RATE_BPS, propagation_ns=1_000, second_rack_from=3, uplinks=2)
UNTRUSTED, UNAWARE, TRUSTED = (TOPOLOGY.hosts[number].port for number in (2, 1, 0))
PARAMETERS = SwitchParameters(
    untrusted_ports=frozenset({UNTRUSTED}),
    stamp_unaware_ports=frozenset({UNAWARE}),
    guaranteed_share=0.0,  # no idle gap
)
NO_ROUTE, MALFORMED, TTL = range(len(DISCARD_REASONS))
CHARGED_US_MAX = 20_000
"""The model adds milliseconds of its own to the time that a packet is in the switch."""

_fresh = itertools.count(1000)


def fresh() -> int:
    """The number of a flow or a batch that no other test uses."""
    return next(_fresh)


def frame(
    host: int = 0,
    stamp: MFS | None = None,
    *,
    six: bool = False,
    hops: int = 64,
    sport: int = 1000,
    code: int = 0,
    payload: int = 40,
) -> bytes:
    """A frame to host ``host`` of the rack, or to the first of the other rack where ``host`` is -1."""
    known = TOPOLOGY.remote_hosts[0] if host < 0 else TOPOLOGY.hosts[host]
    network: Packet = (
        IPv6(src="fd00::9", dst=str(known.ipv6), hlim=hops, tc=code)
        if six
        else IP(src="10.9.9.9", dst=str(known.ipv4), ttl=hops, tos=code)
    )
    inner = network / UDP(sport=sport, dport=2000) / (b"x" * payload)
    ethernet = Ether(src="02:00:00:00:09:09", dst="02:00:00:00:00:fe")
    return bytes(ethernet / stamp / inner if stamp is not None else ethernet / inner)


def stamp(stage: Stage = Stage.P2D, **fields: int) -> MFS:
    """A stamp of a flow and batch that no other test uses, unless it is given."""
    return MFS(**{"stage": int(stage), "batch": fresh(), "flow": fresh(), "slack": 1_000_000, **fields})


def traffic_class(data: bytes) -> int:
    """DSCP and congestion bits of a frame."""
    packet = Ether(data)
    return int(packet[IPv6].tc if IPv6 in packet else packet[IP].tos)


def level_of(data: bytes) -> int:
    """The level that the program wrote into the DSCP of a frame."""
    return traffic_class(data) >> 5


def sent(target: _Started, data: bytes, port: int = TRUSTED) -> Sent:
    """What leaves when ``data`` comes in by ``port``."""
    out = target.send(port, data)
    assert out is not None, "the packet was dropped"
    return out
