"""RoCEv2 packets and registrations, for tests that send them through the program."""

from __future__ import annotations

import random
from typing import Any

from scapy.contrib.roce import BTH
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from host_agent.protocol.level import bias_code
from host_agent.protocol.registration import LOWEST_SOURCE_PORT, ROCEV2_PORT, QueuePair, registration
from host_agent.protocol.stamp import Flags, Stage, Stamp
from soft_switch.backend import Backend
from tests.support.program import Program, ether
from topologies.topology import Topology

SEND_ONLY, WRITE_FIRST, WRITE_MIDDLE, WRITE_LAST, WRITE_ONLY = 0x04, 0x06, 0x07, 0x08, 0x0A
READ_REQUEST, READ_FIRST, READ_MIDDLE, READ_LAST, ACKNOWLEDGE, CNP = 0x0C, 0x0D, 0x0E, 0x0F, 0x11, 0x81
MACS = bytes.fromhex("020000000909"), bytes.fromhex("0200000000fe")
RETH_BYTES = 16
MTU = 1024


def rocev2(flow: QueuePair, opcode: int, size: int = MTU, message: int = 0, **network: int) -> Packet:
    """A packet of ``flow`` with ``size`` bytes of payload; ``message`` is the length in its RETH, if it has one."""
    version, fields = (IPv6, {"tc": network.pop("tos", 0)}) if ":" in flow.source else (IP, {})
    layer = version(src=flow.source, dst=flow.destination, **fields, **network)
    has_reth = opcode & 0x1F in (WRITE_FIRST, WRITE_ONLY, WRITE_ONLY + 1, READ_REQUEST)
    extended = bytes(RETH_BYTES - 4) + message.to_bytes(4, "big") if has_reth else b""
    udp = UDP(sport=flow.source_port, dport=ROCEV2_PORT, chksum=0)
    return ether() / layer / udp / BTH(opcode=opcode, dqpn=flow.queue_pair) / Raw(extended + b"d" * size)


def registers(pair: QueuePair, /, flags: Flags = Flags.FIRST, reverse: bool = False, **stamp: Any) -> bytes:
    """The frame that registers ``pair``; ``stamp`` are fields of the stamp."""
    stamp.setdefault("stage", Stage.P2D)
    stamp.setdefault("remaining", 4096)
    return registration(pair, Stamp(flags=flags, **stamp), *MACS, reverse=reverse)


def flow_between(
    source: object, destination: object, queue_pair: int = 0x1234, out_of_order: bool = False
) -> QueuePair:
    """A flow from one host of a topology to another, by their IPv4 addresses."""
    return QueuePair(str(source), str(destination), queue_pair, out_of_order, LOWEST_SOURCE_PORT + 7)


def rack(backend: Backend | None = None) -> Program:
    """A rack whose hosts have their addresses on their ports."""
    program = Program(backend=backend)
    program.set_bias(bias_code(100e9))
    for host in program.topology.hosts:
        program.own(host.port, host.ipv4)
        assert host.ipv6 is not None
        program.own(host.port, host.ipv6)
    return program


def fuzzed(draw: random.Random, topology: Topology) -> tuple[int, bytes]:
    """A registration or a packet of RDMA, of few flows that share state; many are damaged or from elsewhere."""
    hosts = topology.hosts
    source, destination = draw.sample(range(len(hosts)), 2)
    flow = QueuePair(
        str(hosts[source].ipv4),
        str(hosts[destination].ipv4),
        draw.randrange(6),
        draw.random() < 0.3,
        draw.randrange(65536),
    )
    if draw.random() < 0.3:
        flow = QueuePair(str(hosts[source].ipv6), str(hosts[destination].ipv6), flow.queue_pair, flow.out_of_order)
    if draw.random() < 0.4:
        flags = Flags(draw.choice((0, Flags.FIRST, Flags.BOUNDARY, Flags.LAST, draw.randrange(256))))
        frame = registers(
            flow,
            flags=flags,
            reverse=draw.random() < 0.2,
            stage=draw.choice(list(Stage)),
            batch=draw.randrange(4),
            flow=draw.randrange(4),
            target_layer=draw.randrange(256),
            current_layer=draw.randrange(256),
            slack_us=draw.choice((draw.randrange(-1000, 100_000), draw.randrange(-(1 << 31), 1 << 31))),
            remaining=draw.choice((draw.randrange(100), draw.randrange(1 << 32))),
        )
    else:
        template = _TEMPLATES.get(flow.source + flow.destination)
        if template is None:
            template = _TEMPLATES[flow.source + flow.destination] = bytes(rocev2(flow, WRITE_FIRST, size=40))
        changed = bytearray(template)
        at = 14 + (40 if ":" in flow.source else 20) + 8
        changed[at] = draw.randrange(256) if draw.random() < 0.2 else draw.randrange(0x18)
        changed[at + 5 : at + 8] = flow.queue_pair.to_bytes(3, "big")
        frame = bytes(changed)
    kind = draw.random()
    if kind < 0.1:
        frame = frame[: draw.randrange(len(frame))]
    elif kind < 0.3:
        changed = bytearray(frame)
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(12, len(changed))] = draw.randrange(256)
        frame = bytes(changed)
    port = hosts[source].port if draw.random() < 0.8 else draw.choice(topology.ports)
    return port, frame


_TEMPLATES: dict[str, bytes] = {}
