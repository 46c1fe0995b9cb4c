"""Layout that user space and the programs in the kernel share: constants, and keys and values of the maps.

Stamp, levels and codes are defined in :mod:`host_agent.protocol`. Everything that the C source needs is written to
``layout.h`` by :mod:`host_agent.ebpf.build`.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from host_agent.ebpf.c_struct import CStruct, Field
from host_agent.ebpf.errors import PolicyError
from host_agent.protocol.errors import RequestError
from host_agent.protocol.flow_request import PROTOCOLS, WINDOW_SCALE_MAX, FiveTuple, FlowRequest, Match
from host_agent.protocol.flow_spec import PROGRESS_BATCHES
from host_agent.protocol.level import CODE_MAX, CODE_STEPS, UNTAGGED_LEVEL, LevelRule
from host_agent.protocol.stamp import (
    ETHERTYPE_MFS,
    LEVELS,
    REMAINING_UNIT_BYTES,
    SCAVENGER,
    STAMP_BYTES,
    TCP_OPTION_BYTES,
    TCP_OPTION_EXPERIMENT,
    TCP_OPTION_KIND,
    VERSION,
    Flags,
    Stage,
)
from host_agent.protocol.units import ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN

FLOWS_MAX = 16_384
RULES_MAX = 64
"""Rules of a policy; the kernel's verifier follows each."""
BANKS = 2
"""Policies held: one in force, one being written."""
CLASS_MAJOR = 1
"""Major number of the traffic class ids: ``1:1`` for level 0 to ``1:8`` for level 7."""

CONNECTIONS_MAX = 2 * FLOWS_MAX
"""TCP connections whose last acknowledgement is remembered while flows may be held; the oldest is forgotten first."""


class GrantKind(IntEnum):
    """How a hold limits a flow: not at all, by a window in bytes, or by the sequence number that it may reach."""

    FREE = 0
    WINDOW = 1
    UP_TO = 2


HEARD_SCALED, HEARD_UNSCALED = 1, 2
"""Whether the window of an acknowledgement is in units of the window scale, or in bytes."""

INDEX = struct.Struct("<I")
IDENTITY = struct.Struct("<Q")

FLOW = CStruct(
    "flow",
    (
        Field("u64", "deadline_ns", comment="CLOCK_MONOTONIC"),
        Field("u64", "total_bytes"),
        Field("u64", "beyond_bytes", comment="of the same request, after this flow"),
        Field("u64", "message_bytes", comment="a message starts at each multiple; 0: the flow is one message"),
        Field("u32", "batch"),
        Field("u16", "number"),
        Field("u8", "stage"),
        Field("u8", "target_layer"),
        Field("u32", "pruned", comment="stamped as late"),
        Field("u32", "keep", comment="for user space: outlives the client that opened it"),
    ),
    "A flow as an engine opened it; host_agent/protocol/flow_request.py describes the fields. Written by user space.",
)
STATE = CStruct(
    "state",
    (
        Field("u64", "sent_bytes", comment="payload, retransmissions not counted"),
        Field("u64", "packets"),
        Field("u32", "next_sequence", comment="TCP: follows the last byte of sent_bytes"),
        Field("u8", "sequence_known"),
        Field("u8", "held", comment="level of the last packet + 1; 0 before the first"),
        Field("u8", "unused", 2, padding=True),
        Field("u64", "unstamped", comment="packets that left without a stamp, where the option carries it"),
    ),
    "State of a flow on the egress hook. User space zeroes it when the flow opens.",
)
INTERVAL = CStruct("interval", (Field("u8", "low"), Field("u8", "high")))
RULE = CStruct(
    "rule",
    (
        Field("u8", "stage"),
        Field("u8", "level"),
        *(Field(INTERVAL, name) for name in ("late", "rli", "urgency", "slack_code", "remaining_code")),
    ),
)
POLICY = CStruct(
    "policy",
    (
        Field("u32", "count"),
        Field("u32", "bias"),
        Field("u32", "default_level", comment="if no rule matches"),
        Field("u32", "unused", padding=True),
        Field(RULE, "rules", RULES_MAX),
    ),
)
CONFIG = CStruct(
    "config",
    (
        Field("u32", "bank", comment="policy in force"),
        Field("u32", "max_frame", comment="longest frame of the link, Ethernet header and shim included, bytes"),
        Field("u32", "class_major", comment="skb->priority becomes class_major:level + 1; 0: not set"),
        Field("u32", "share", comment="stamp packets before segmentation; their segments share the stamp"),
        Field("u32", "kick_mark", comment="mark of frames that egress sends back to ingress; 0: flows are never held"),
        Field("u32", "option", comment="stamps travel in a TCP option, not in the shim"),
        Field("u64", "namespace", comment="cookie of the interface's network namespace; 0: not known"),
        Field("u32", "interface", comment="for user space: index of the interface"),
        Field("u32", "epoch", comment="changes when a flow opens or ends"),
    ),
)
HEARD = CStruct(
    "heard",
    (
        Field("u32", "acknowledged", comment="of the last acknowledgement, host order like the rest"),
        Field("u32", "peer_next", comment="sequence number that follows what the peer sent"),
        Field("u32", "time_value", comment="time stamp option; 0 without one"),
        Field("u32", "time_echo"),
        Field("u16", "window", comment="as received, before scaling"),
        Field("u8", "known", comment="HEARD_SCALED, or HEARD_UNSCALED for the window of a SYN; 0: nothing yet"),
        Field("u8", "timed", comment="it had a time stamp option"),
    ),
    "What a peer said last on a TCP connection.",
)
CONNECTION = CStruct(
    "connection",
    (Field(HEARD, "heard"), Field("u32", "hold", comment="index in holds + 1; 0: no flow is open")),
    "A TCP connection, seen from its incoming segments.",
)
HOLD = CStruct(
    "hold",
    (
        Field("u64", "grant", comment="from user space: HOW << 32 | limit, written at once; 0: not held"),
        Field("u64", "expires_ns", comment="from user space: CLOCK_MONOTONIC; not held after it"),
        Field(HEARD, "heard"),
        Field("u8", "scale", comment="from user space: of the peer's windows"),
        Field("u8", "unused", 3, padding=True),
    ),
    "What a flow may send, and what its peer said last.",
)
FIVE_TUPLE = CStruct(
    "five_tuple",
    (
        Field("u32", "source", 4, comment="network order; IPv4 in the last word, the others 0", raw=True),
        Field("u32", "destination", 4, raw=True),
        Field("u16", "source_port", comment="network order", raw=True),
        Field("u16", "destination_port", raw=True),
        Field("u8", "protocol"),
        Field("u8", "unused", 3, padding=True),
    ),
)
COUNTERS = CStruct(
    "counters",
    (
        Field("u64", "stamped"),
        Field("u64", "shared", comment="of these, before segmentation"),
        Field("u64", "too_long", comment="not stamped: the frame would exceed max_frame"),
        Field("u64", "segmented", comment="not stamped: not yet segmented, and share is 0"),
        Field("u64", "failed", comment="not stamped: the kernel made no room"),
        Field("u64", "not_tcp", comment="not stamped: the option is TCP's"),
        Field("u64", "no_room", comment="not stamped: other options leave no room"),
        Field("u64", "unready", comment="not stamped: the socket made no room, as it is older than the program"),
        Field("u64", "removed", comment="stamps removed from received frames"),
        Field("u64", "read", comment="stamps read from options of received packets"),
        Field("u64", "malformed", comment="received stamps of an unknown version, stage or length, left in place"),
        Field("u64", "learnt", comment="received stamps that raised a batch's current layer"),
        Field("u64", "lowered", comment="received acknowledgements whose window was lowered"),
        Field("u64", "level_packets", LEVELS),
        Field("u64", "level_bytes", LEVELS, comment="without the shim"),
    ),
)
STRUCTS = (FLOW, STATE, INTERVAL, RULE, POLICY, CONFIG, HEARD, CONNECTION, HOLD, FIVE_TUPLE, COUNTERS)


def constants() -> dict[str, int]:
    """Return the constants of the C source, by name."""
    return {
        "ETHERTYPE_MFS": ETHERTYPE_MFS,
        "TYPE_IPV4": ETHERTYPE_IPV4,
        "TYPE_IPV6": ETHERTYPE_IPV6,
        "TYPE_VLAN": ETHERTYPE_VLAN,
        **{name.upper(): number for name, number in PROTOCOLS.items()},
        "VERSION": VERSION,
        "STAMP_BYTES": STAMP_BYTES,
        "TCP_OPTION_KIND": TCP_OPTION_KIND,
        "TCP_OPTION_BYTES": TCP_OPTION_BYTES,
        "TCP_OPTION_EXPERIMENT": TCP_OPTION_EXPERIMENT,
        "FAMILY_IPV4": socket.AF_INET,
        "FAMILY_IPV6": socket.AF_INET6,
        "STAGE_MAX": max(Stage),
        "FLAG_FIRST": Flags.FIRST,
        "FLAG_BOUNDARY": Flags.BOUNDARY,
        "FLAG_LAST": Flags.LAST,
        "FLAG_REGISTER": Flags.REGISTER,
        "REMAINING_UNIT_BYTES": REMAINING_UNIT_BYTES,
        "LEVELS": LEVELS,
        "SCAVENGER": SCAVENGER,
        "CODE_STEPS": CODE_STEPS,
        "CODE_MAX": CODE_MAX,
        "PROGRESS_BATCHES": PROGRESS_BATCHES,
        "FLOWS_MAX": FLOWS_MAX,
        "RULES_MAX": RULES_MAX,
        "BANKS": BANKS,
        "CONNECTIONS_MAX": CONNECTIONS_MAX,
        "WINDOW_SCALE_MAX": WINDOW_SCALE_MAX,
        "HEARD_SCALED": HEARD_SCALED,
        "HEARD_UNSCALED": HEARD_UNSCALED,
        **{f"GRANT_{how.name}": how for how in GrantKind if how},
    }


def encode_flow(flow: FlowRequest) -> bytes:
    """Encode ``flow``, which has a number, as a value of the map ``flows``."""
    return FLOW.pack(
        flow.deadline_ns,
        flow.total_bytes,
        flow.beyond_bytes,
        flow.message_bytes,
        flow.batch,
        flow.number,
        flow.stage,
        flow.target_layer,
        flow.pruned,
        flow.keep,
    )


def decode_flow(match: Match, value: bytes) -> FlowRequest:
    """Read a value of the map ``flows``, of the flow with this match."""
    deadline_ns, total, beyond, message, batch, number, stage, target_layer, pruned, keep = FLOW.unpack(value)
    return FlowRequest(
        match=match,
        batch=batch,
        stage=Stage(stage),
        deadline_ns=deadline_ns,
        total_bytes=total,
        target_layer=target_layer,
        beyond_bytes=beyond,
        message_bytes=message,
        number=number,
        pruned=bool(pruned),
        keep=bool(keep),
    )


class FlowState(NamedTuple):
    """State of a flow in the kernel; ``level`` is None before the first packet with payload.

    ``unstamped`` counts packets that left without a stamp, where it travels in a TCP option.
    """

    sent_bytes: int
    packets: int
    level: int | None
    unstamped: int = 0


NO_STATE = bytes(STATE.size)


def decode_state(value: bytes) -> FlowState:
    """Read a value of the map ``states``."""
    sent_bytes, packets, _, _, held, unstamped = STATE.unpack(value)
    return FlowState(sent_bytes, packets, held - 1 if held else None, unstamped)


def encode_policy(rules: Sequence[LevelRule], bias: int, default_level: int = UNTAGGED_LEVEL) -> bytes:
    """Encode a value of the map ``policies``: ordered rules, the first that matches wins.

    Raises:
        PolicyError: more than :data:`RULES_MAX` rules, or a value outside its range.
    """
    if len(rules) > RULES_MAX:
        raise PolicyError(f"a policy of {len(rules)} rules does not fit: the kernel takes {RULES_MAX} at most")
    rows = bytearray()
    for rule in rules:
        intervals = (rule.late, rule.rli, rule.urgency, rule.slack_code, rule.remaining_code)
        if not 0 <= rule.level < LEVELS or any(not 0 <= low <= high <= CODE_MAX for low, high in intervals):
            raise PolicyError(f"{rule} has a level outside 0..{LEVELS - 1} or an interval outside 0..{CODE_MAX}")
        rows += RULE.pack(rule.stage, rule.level, *map(bytes, intervals))
    return POLICY.pack(len(rules), bias, default_level, bytes(rows))


class Config(NamedTuple):
    """The value of the map ``configs``.

    Attributes:
        bank: index of the policy in force.
        max_frame: longest frame of the link in bytes, Ethernet header and shim included.
        class_major: major number of the traffic class ids; 0 sets no class.
        share: whether packets are stamped before segmentation, so that their segments share the stamp.
        kick_mark: mark of the frames that the egress program sends back to the interface's ingress; 0 where flows are
            never held.
        option: whether stamps travel in a TCP option, not in the shim.
        namespace: cookie of the interface's network namespace; 0 where the kernel does not tell.
        interface: index of the interface.
        epoch: changes when a flow opens or ends.
    """

    bank: int
    max_frame: int
    class_major: int
    share: bool
    kick_mark: int = 0
    option: bool = False
    namespace: int = 0
    interface: int = 0
    epoch: int = 1


def encode_config(config: Config) -> bytes:
    """Encode the value of the map ``configs``."""
    return CONFIG.pack(*config)


def decode_config(value: bytes) -> Config:
    """Read the value of the map ``configs``."""
    bank, max_frame, class_major, share, kick_mark, option, *where = CONFIG.unpack(value)
    return Config(bank, max_frame, class_major, bool(share), kick_mark, bool(option), *where)


def encode_five_tuple(addresses: FiveTuple) -> bytes:
    """Encode a key of the map ``tuples``."""
    ends = [ipaddress.ip_address(end).packed.rjust(16, b"\0") for end in (addresses.source, addresses.destination)]
    ports = [port.to_bytes(2, "big") for port in (addresses.source_port, addresses.destination_port)]
    return FIVE_TUPLE.pack(*ends, *ports, PROTOCOLS[addresses.protocol])


def decode_five_tuple(key: bytes) -> FiveTuple:
    """Read a key of the map ``tuples``."""
    *ends, source_port, destination_port, number = FIVE_TUPLE.unpack(key)
    ipv4 = all(end[:12] == bytes(12) for end in ends)
    source, destination = (str(ipaddress.ip_address(end[12:] if ipv4 else end)) for end in ends)
    [protocol] = [name for name, value in PROTOCOLS.items() if value == number]
    ports = int.from_bytes(source_port, "big"), int.from_bytes(destination_port, "big")
    return FiveTuple(protocol, source, ports[0], destination, ports[1])


class Heard(NamedTuple):
    """What a peer said last on a TCP connection; see the struct ``heard``."""

    acknowledged: int
    peer_next: int
    time_value: int
    time_echo: int
    window: int
    known: int
    timed: int

    def window_bytes(self, scale: int) -> int:
        """Return the window in bytes, where the peer's windows have this scale."""
        return self.window if self.known == HEARD_UNSCALED else self.window << scale


def decode_connection(value: bytes) -> tuple[Heard, int]:
    """Read a value of the map ``connections``: what the peer said last, and the index in ``holds`` + 1 or 0."""
    heard, hold = CONNECTION.unpack(value)
    return Heard(*HEARD.unpack(heard)), int(hold)


def encode_connection(heard: Heard | None, hold: int) -> bytes:
    """Encode a value of the map ``connections``; ``hold`` is the index in ``holds`` + 1, or 0."""
    return CONNECTION.pack(bytes(HEARD.size) if heard is None else HEARD.pack(*heard), hold)


def encode_hold(grant: int, expires_ns: int, heard: Heard, scale: int) -> bytes:
    """Encode a value of the map ``holds``; see the struct ``hold``."""
    return HOLD.pack(grant, expires_ns, HEARD.pack(*heard), scale)


def grant_of(kind: GrantKind, limit: int = 0) -> int:
    """Return the field ``grant``: ``limit`` is a window in bytes or a sequence number, saturated at 32 bits."""
    return kind << 32 | min(limit, 0xFFFFFFFF)


def encode_match(match: Match) -> tuple[str, bytes]:
    """Return the map that holds ``match``, and its key there.

    Raises:
        RequestError: the cgroup is a path and not an id.
    """
    if match.addresses is not None:
        return "tuples", encode_five_tuple(match.addresses)
    if match.cookie is not None:
        return "cookies", IDENTITY.pack(match.cookie)
    if not isinstance(match.cgroup, int):
        raise RequestError(f"cgroup {match.cgroup!r} is not an id")
    return "cgroups", IDENTITY.pack(match.cgroup)


def decode_match(name: str, key: bytes) -> Match:
    """Return the match that :func:`encode_match` encodes like this."""
    if name == "tuples":
        return Match(addresses=decode_five_tuple(key))
    (identity,) = IDENTITY.unpack(key)
    return Match(cookie=identity) if name == "cookies" else Match(cgroup=identity)


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of the hooks: packets, and for each level packets and bytes (without the shim).

    A packet that the kernel segments later counts as one.

    Attributes:
        stamped: packets with a stamp.
        shared: of these, packets whose segments share the stamp.
        too_long: not stamped, because the frame would not fit the link.
        segmented: not stamped, because they were not segmented yet.
        failed: not stamped, because the kernel made no room for the shim.
        not_tcp: not stamped, because the stamp is a TCP option.
        no_room: not stamped, because other TCP options left no room.
        unready: not stamped, because the socket is older than the agent, or its flow has just been opened.
        removed: shims removed from received frames.
        read: stamps read from the TCP options of received packets.
        malformed: received stamps of an unknown version or stage, left in place.
        learnt: received stamps that raised a batch's current layer.
        lowered: received acknowledgements whose window was lowered, to hold a flow.
    """

    stamped: int
    shared: int
    too_long: int
    segmented: int
    failed: int
    not_tcp: int
    no_room: int
    unready: int
    removed: int
    read: int
    malformed: int
    learnt: int
    lowered: int
    level_packets: tuple[int, ...]
    level_bytes: tuple[int, ...]


def decode_counters(values: Sequence[bytes]) -> Counters:
    """Return the sum of the values of all processors."""
    sums = [sum(column) for column in zip(*map(COUNTERS.unpack, values), strict=True)]
    packets, level_bytes = tuple(sums[-2 * LEVELS : -LEVELS]), tuple(sums[-LEVELS:])
    levels: dict[str, Any] = {"level_packets": packets, "level_bytes": level_bytes}
    return Counters(*sums[: -2 * LEVELS], **levels)
