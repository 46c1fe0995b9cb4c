"""A link behind a port: packets go to the class of their level, by DSCP, stamped or not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from host_agent.daemon.classes import HANDLE
from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import LEVELS
from tests.support.realtime import real_kernel
from topologies import port_classes
from topologies.errors import TopologyError

INTERFACE, PEER = "pcl-a", "pcl-b"


@pytest.fixture
def interface() -> Iterator[str]:
    with IPRoute() as ip:
        ip.link("add", ifname=INTERFACE, kind="veth", peer={"ifname": PEER})
        try:
            for name in (INTERFACE, PEER):
                ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
            yield INTERFACE
        finally:
            ip.link("del", index=ip.link_lookup(ifname=INTERFACE)[0])


def packets_by_level() -> list[int]:
    with IPRoute() as ip:
        classes = ip.get_classes(index=ip.link_lookup(ifname=INTERFACE)[0])
    counts = {
        one["handle"] & 0xFFFF: one.get_attr("TCA_STATS2").get_attr("TCA_STATS_BASIC")["packets"] for one in classes
    }
    return [counts[level + 1] for level in range(LEVELS)]


@real_kernel
@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_goes_to_the_class_of_its_level(interface: str, stamped: bool, version: int) -> None:
    port_classes.add_link(interface, 1_000_000_000)
    before = packets_by_level()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        for level in range(LEVELS):
            traffic_class = level << 5 | 2  # with ECN bits, which the filters ignore
            inner = IP(tos=traffic_class) if version == 4 else IPv6(tc=traffic_class)
            shim = MFS(stage=2, next_type=0x0800 if version == 4 else 0x86DD) / inner if stamped else inner
            for _ in range(level + 1):
                sender.send(bytes(Ether(dst="02:00:00:00:00:01") / shim / UDP() / b"payload"))
    sent = [later - earlier for earlier, later in zip(before, packets_by_level(), strict=True)]
    assert sent[1:] == list(range(2, LEVELS + 1))
    assert sent[0] >= 1, "the kernel sends packets too"


@real_kernel
def test_an_interface_without_room_for_classes_is_named(interface: str) -> None:
    port_classes.add_link(interface, 1_000_000)
    with pytest.raises(TopologyError, match=f"cannot add traffic classes to {interface}"):
        port_classes.add_link(interface, 1_000_000)
    with IPRoute() as ip:
        ip.tc("del", "htb", ip.link_lookup(ifname=interface)[0], HANDLE)
    port_classes.add_link(interface, 1_000_000, by_level=False)
    with pytest.raises(TopologyError, match="no network interface 'pcl-none'"):
        port_classes.add_link("pcl-none", 1_000_000)
