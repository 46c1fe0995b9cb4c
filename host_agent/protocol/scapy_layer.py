"""The stamp as a Scapy layer, in the shim or in a TCP option. Needs the extra ``scapy``::

    Ether() / MFS(stage=2, batch=7) / IP() / UDP()
    Ether() / IP() / TCP(options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 2)), mfs_option(MFS(stage=2))])

The fields are spelled out, for reading and crafting packets; a test compares them with
:mod:`host_agent.protocol.stamp`.
"""

from __future__ import annotations

from scapy.fields import (
    BitEnumField,
    BitField,
    ByteField,
    FlagsField,
    IntField,
    ShortField,
    SignedIntField,
    XShortEnumField,
)
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, bind_layers

from host_agent.protocol.stamp import ETHERTYPE_MFS, TCP_OPTION_HEAD, TCP_OPTION_KIND, VERSION, Stage
from host_agent.protocol.units import ETHERTYPE_IPV4, ETHERTYPE_IPV6


class MFS(Packet):  # type: ignore[misc]
    """MFS stamp; as a shim between Ethernet and the header that ``next_type`` names. ``slack`` in microseconds."""

    name = "MFS"
    fields_desc = (
        BitField("version", VERSION, 4),
        BitEnumField("stage", Stage.NONE.value, 4, {stage.value: stage.name for stage in Stage}),
        # Scapy lists flags from the lowest bit up.
        FlagsField("flags", 0, 8, ["bit0", "bit1", "OUT_OF_ORDER", "REVERSE", "REGISTER", "LAST", "BOUNDARY", "FIRST"]),
        XShortEnumField("next_type", ETHERTYPE_IPV4, {ETHERTYPE_IPV4: "IPv4", ETHERTYPE_IPV6: "IPv6"}),
        IntField("batch", 0),
        ShortField("flow", 0),
        ByteField("target_layer", 0),
        ByteField("current_layer", 0),
        SignedIntField("slack", 0),
        IntField("remaining", 0),
        IntField("reserved", 0),
    )


bind_layers(Ether, MFS, type=ETHERTYPE_MFS)
bind_layers(MFS, IP, next_type=ETHERTYPE_IPV4)
bind_layers(MFS, IPv6, next_type=ETHERTYPE_IPV6)

_EXPERIMENT = TCP_OPTION_HEAD[2:]


def mfs_option(stamp: MFS) -> tuple[int, bytes]:
    """Return ``stamp`` as an element of ``TCP(options=[...])``; its ``next_type`` becomes 0."""
    carried = stamp.copy()
    carried.next_type = 0
    return TCP_OPTION_KIND, _EXPERIMENT + bytes(carried)


def option_stamp(packet: Packet) -> MFS | None:
    """Return the stamp among the TCP options of ``packet``, or None."""
    for kind, value in packet[TCP].options if TCP in packet else ():
        if kind == TCP_OPTION_KIND and value[: len(_EXPERIMENT)] == _EXPERIMENT:
            return MFS(value[len(_EXPERIMENT) :])
    return None
