"""The stamp as a Scapy layer: ``Ether() / MFS(stage=2, batch=7) / IP() / UDP()``. Needs the extra ``scapy``.

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
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, bind_layers

from host_agent.protocol.stamp import ETHERTYPE_MFS, VERSION, Stage
from host_agent.protocol.units import ETHERTYPE_IPV4, ETHERTYPE_IPV6


class MFS(Packet):  # type: ignore[misc]
    """MFS shim between Ethernet and the header that ``next_type`` names; ``slack`` in microseconds."""

    name = "MFS"
    fields_desc = (
        BitField("version", VERSION, 4),
        BitEnumField("stage", Stage.NONE.value, 4, {stage.value: stage.name for stage in Stage}),
        # Scapy lists flags from the lowest bit up.
        FlagsField("flags", 0, 8, ["bit0", "bit1", "bit2", "bit3", "bit4", "LAST", "BOUNDARY", "FIRST"]),
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
