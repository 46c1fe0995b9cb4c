"""A link behind a port without one: HTB with a class for each level, for switches that do not queue by bits.

bmv2 limits each queue in packets, so a port with two busy levels sends twice its rate. Behind its ports the kernel can
be the link: HTB shapes the interface to its rate, and eight classes order what the switch sends. Filters take the level
of a packet, stamped or not, from its DSCP, which the switch writes (``dscp_ports`` of its parameters).
"""

from __future__ import annotations

from pyroute2 import IPRoute, NetlinkError

from host_agent.daemon.classes import HANDLE, add_classes, class_of
from host_agent.protocol.stamp import ETHERTYPE_MFS, LEVELS, STAMP_BYTES
from host_agent.protocol.units import ETHERTYPE_IPV4, ETHERTYPE_IPV6, WIRE_OVERHEAD_BYTES
from topologies.errors import TopologyError
from topologies.topology import LINK_MTU

QUEUE_BYTES = 48 * 1024
"""Queue of each level. The classes of an interface share the send buffer of the switch's packet socket, by default
about 90 packets: a low class that could fill it would stop the switch from sending anything else."""


def add_link(interface: str, rate_bps: int, queue_bytes: int = QUEUE_BYTES, by_level: bool = True) -> None:
    """Turn an interface of this namespace into a link.

    Args:
        interface: name of the interface.
        rate_bps: rate of the link in bits per second on the wire.
        queue_bytes: queue of each level, in bytes of full packets.
        by_level: whether there is a queue for each level, or one for all packets.

    Raises:
        TopologyError: the interface does not exist or has a qdisc already, or the kernel has no HTB or u32.
    """
    levels = LEVELS if by_level else 1
    packets = max(1, queue_bytes // LINK_MTU)
    try:
        with IPRoute() as ip:
            index = _index(ip, interface)
            add_classes(ip, index, rate_bps, default_level=0, overhead_bytes=WIRE_OVERHEAD_BYTES, levels=levels)
            for level in range(levels):
                ip.tc("add", "pfifo", index, (level + 2) << 16, parent=class_of(level), limit=packets)
                if level:
                    _classify(ip, index, level)
    except NetlinkError as error:
        raise TopologyError(f"cannot add traffic classes to {interface}: {error.args[-1]}") from None


def _index(ip: IPRoute, interface: str) -> int:
    found = ip.link_lookup(ifname=interface)
    if not found:
        raise TopologyError(f"there is no network interface {interface!r} here; `ip link` lists the interfaces")
    return int(found[0])


def _classify(ip: IPRoute, index: int, level: int) -> None:
    # Version and class selector, in the first two bytes of the IP header. u32 counts from the end of the Ethernet
    # header; the IP header of a stamped packet follows the stamp.
    v4, v6 = f"{0x4000 | level << 5:#x}/0xf0e0", f"{0x6000 | level << 9:#x}/0xfe00"
    filters = (
        (ETHERTYPE_IPV4, v4, 0),
        (ETHERTYPE_IPV6, v6, 0),
        (ETHERTYPE_MFS, v4, STAMP_BYTES),
        (ETHERTYPE_MFS, v6, STAMP_BYTES),
    )
    for preference, (protocol, key, at) in enumerate(filters, 1):
        keys = [f"{key}+{at}"]
        words = {"prio": preference, "protocol": protocol, "target": class_of(level), "keys": keys}
        ip.tc("add-filter", "u32", index, parent=HANDLE, **words)
