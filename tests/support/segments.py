"""TCP segments with the stamp among their options, for tests."""

from __future__ import annotations

import random

from scapy.layers.inet import IP, TCP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.packet import Packet, Raw

from host_agent.protocol.stamp import TCP_OPTION_BYTES, Stage, Stamp, from_tcp_option, tcp_option
from tests.support.program import ether
from topologies.topology import Topology

TIME_STAMP = b"\x01\x01\x08\x0a" + bytes(range(8))
SACK_BLOCK = b"\x01\x01\x05\x0a" + bytes(range(8, 16))
LEADS = {"first": b"", "behind a time stamp": TIME_STAMP, "behind a SACK block": SACK_BLOCK}
"""What Linux puts before the stamp, by place."""
PAYLOAD = b"payload of a segment"
_TCP_BYTES = 20


def segment(
    topology: Topology,
    host: int,
    stamp: Stamp | None,
    family: int = 4,
    lead: bytes = b"",
    payload: bytes = PAYLOAD,
    version: int | None = None,
) -> Packet:
    """A TCP segment to ``host`` with the options ``lead`` and then the stamp, with right checksums.

    ``version`` replaces that of the stamp.
    """
    option = b"" if stamp is None else tcp_option(stamp)
    if version is not None:
        option = option[:4] + bytes([version << 4 | option[4] & 0xF]) + option[5:]
    options = lead + option
    assert len(options) % 4 == 0
    words = (_TCP_BYTES + len(options)) // 4
    # As bytes: Scapy would lay its own options out.
    header = bytes(TCP(sport=1000, dport=2000, seq=7, ack=9, flags="A", dataofs=words, chksum=0))[:_TCP_BYTES]
    body = header + options + payload
    if family == 4:
        network = IP(src="10.9.9.9", dst=str(topology.hosts[host].ipv4), proto=6, len=20 + len(body))
        checksum = in4_chksum(6, network, body)
    else:
        network = IPv6(src="fd00::9", dst=str(topology.hosts[host].ipv6), nh=6, plen=len(body))
        checksum = in6_chksum(6, network, body)
    body = body[:16] + checksum.to_bytes(2, "big") + body[18:]
    return type(ether())(bytes(ether(type=0x0800 if family == 4 else 0x86DD) / network / Raw(body)))


def fuzzed_segment(draw: random.Random, topology: Topology) -> bytes:
    """A segment with the option in one of its places, of few flows that share state; most are damaged or cut."""
    host, family, place = draw.randrange(len(topology.hosts)), draw.choice((4, 6)), draw.choice(tuple(LEADS))
    frame = _TEMPLATES.get((host, family, place))
    if frame is None:
        stamp = Stamp(Stage.P2D, batch=1, flow=1, target_layer=3, slack_us=1000, remaining=50)
        frame = _TEMPLATES[host, family, place] = bytes(segment(topology, host, stamp, family, LEADS[place]))
    data = bytearray(frame)
    tcp = 34 if family == 4 else 54
    option = tcp + _TCP_BYTES + len(LEADS[place])
    data[option + 4] = 1 << 4 | draw.randrange(4)
    data[option + 5] = draw.randrange(8) << 5
    data[option + 11], data[option + 13] = draw.randrange(4), draw.randrange(4)
    data[option + 14 : option + 24] = draw.randbytes(10)
    kind = draw.random()
    if kind < 0.2:
        data[draw.randrange(tcp + _TCP_BYTES, option + 4 + 1)] = draw.randrange(
            256
        )  # kind, length, experiment, version
    elif kind < 0.4:
        data[tcp + 12] = draw.randrange(256)  # the length of the header
    elif kind < 0.5:
        del data[draw.randrange(14, len(data)) :]
    elif kind < 0.6:
        data[draw.randrange(12, len(data))] = draw.randrange(256)
    return bytes(data)


_TEMPLATES: dict[tuple[int, int, str], bytes] = {}


def _parts(packet: Packet) -> tuple[Packet, bytes]:
    network = packet[IP] if IP in packet else packet[IPv6]
    return network, bytes(network.payload)


def sum_is_right(packet: Packet) -> bool:
    """Whether the TCP checksum of a packet is right."""
    network, body = _parts(packet)
    rest = in4_chksum(6, network, body) if IP in packet else in6_chksum(6, network, body)
    return rest in (0, 0xFFFF)


def tcp_options(packet: Packet) -> bytes:
    """The bytes of a segment's options."""
    _, body = _parts(packet)
    return body[_TCP_BYTES : (body[12] >> 4) * 4]


def option_of(packet: Packet) -> Stamp:
    """The stamp that ends a segment's options."""
    return from_tcp_option(tcp_options(packet)[-TCP_OPTION_BYTES:])
