"""A link behind a port that has none: HTB with a class for each level, for switches that do not queue by bits.

bmv2 limits each queue, in packets, so that a port with two busy levels sends twice its rate. Behind its ports the
kernel can be the link: HTB shapes the interface to its rate, and eight classes order what the switch sends. They know a
packet's level by its DSCP, which the switch writes (``dscp_ports`` of its parameters), under a stamp or without one.
"""

from __future__ import annotations

from pyroute2 import IPRoute, NetlinkError

from host_agent.protocol.level import GUARANTEED_SHARE
from host_agent.protocol.stamp import ETHERTYPE_MFS, LEVELS, STAMP_BYTES, TOP_LEVEL
from host_agent.protocol.units import WIRE_OVERHEAD_BYTES
from topologies.errors import TopologyError
from topologies.topology import LINK_MTU

QUEUE_BYTES = 48 * 1024
"""Of each level. The classes of an interface share the send buffer of the switch's packet socket, by default some 90
packets: a low class that could fill it would stop the switch from sending anything else."""
_HANDLE = 0x10000
_LINK = _HANDLE | 0xFF
_ETHERTYPE_IPV4, _ETHERTYPE_IPV6 = 0x0800, 0x86DD
_BURST_BYTES = 3_200


def put_link(interface: str, rate_bps: int, queue_bytes: int = QUEUE_BYTES, by_level: bool = True) -> None:
    """Make ``interface``, one of this namespace's, a link of ``rate_bps`` bits per second on the wire.

    Each level has a queue of ``queue_bytes`` of full packets; without ``by_level`` there is one queue for all.

    Raises:
        TopologyError: there is no such interface, it has a qdisc already, or the kernel has no HTB or u32.
    """
    try:
        _put_link(interface, rate_bps, queue_bytes, by_level)
    except NetlinkError as error:
        raise TopologyError(f"no classes on {interface}: {error.args[-1]}") from None


def _put_link(interface: str, rate_bps: int, queue_bytes: int, by_level: bool) -> None:
    with IPRoute() as ip:
        index = _index(ip, interface)
        rate = rate_bps // 8
        packets = max(1, queue_bytes // LINK_MTU)
        common = {"ceil": rate, "cburst": _BURST_BYTES, "burst": _BURST_BYTES, "overhead": WIRE_OVERHEAD_BYTES}
        ip.tc("add", "htb", index, _HANDLE, default=1)
        ip.tc("add-class", "htb", index, _LINK, parent=_HANDLE, rate=rate, **common)
        for level in range(LEVELS if by_level else 1):
            least = max(1_000, int(rate * GUARANTEED_SHARE)) if by_level else rate
            share = {"rate": least, "quantum": _BURST_BYTES, "prio": TOP_LEVEL - level, **common}
            ip.tc("add-class", "htb", index, _HANDLE | (level + 1), parent=_LINK, **share)
            ip.tc("add", "pfifo", index, (level + 2) << 16, parent=_HANDLE | (level + 1), limit=packets)
        if by_level:
            for level in range(1, LEVELS):
                _classify(ip, index, level)


def remove_link(interface: str) -> None:
    """Undo :func:`put_link`."""
    with IPRoute() as ip:
        ip.tc("del", "htb", _index(ip, interface), _HANDLE)


def _index(ip: IPRoute, interface: str) -> int:
    found = ip.link_lookup(ifname=interface)
    if not found:
        raise TopologyError(f"there is no network interface {interface!r} here; see: ip link")
    return int(found[0])


def _classify(ip: IPRoute, index: int, level: int) -> None:
    # The version and the class selector, in the first two bytes of the IP header. u32 counts from the end of the
    # Ethernet header, and a stamped packet's IP header follows the stamp.
    v4, v6 = f"{0x4000 | level << 5:#x}/0xf0e0", f"{0x6000 | level << 9:#x}/0xfe00"
    filters = (
        (_ETHERTYPE_IPV4, v4, 0),
        (_ETHERTYPE_IPV6, v6, 0),
        (ETHERTYPE_MFS, v4, STAMP_BYTES),
        (ETHERTYPE_MFS, v6, STAMP_BYTES),
    )
    for preference, (protocol, key, at) in enumerate(filters, 1):
        keys = [f"{key}+{at}"]
        words = {"prio": preference, "protocol": protocol, "target": _HANDLE | (level + 1), "keys": keys}
        ip.tc("add-filter", "u32", index, parent=_HANDLE, **words)
