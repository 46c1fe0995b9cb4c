"""What user space and the programs in the kernel share: names, sizes and encodings of the maps' keys and values.

The stamp, the levels and the codes have their home in :mod:`host_agent.protocol.stamp` and
:mod:`host_agent.protocol.level`; everything that the C source needs of all three is written to ``constants.h`` by
:mod:`host_agent.ebpf.build`. All encodings are in the machine's byte order, little endian, except where network order
is said.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from host_agent.ebpf.errors import PolicyError, RequestError
from host_agent.protocol.flow_spec import PROGRESS_BATCHES
from host_agent.protocol.level import CODE_MAX, CODE_STEPS, LevelRule
from host_agent.protocol.stamp import (
    ETHERTYPE_MFS,
    LEVELS,
    REMAINING_UNIT_BYTES,
    SCAVENGER,
    STAMP_BYTES,
    VERSION,
    Flags,
    Stage,
)

FLOWS_MAX = 16_384
RULES_MAX = 64
"""Rules in a policy: the kernel's verifier follows each."""
BANKS = 2
"""Policies held: one in force, one being written."""
CLASS_MAJOR = 1
"""Major number of the class ids that packets get: ``1:1`` for level 0 to ``1:8`` for level 7."""
UNSTAGED_LEVEL = 1
"""Level of packets without a stamp and of stamps that no rule covers, as in the switch."""

_FLOW = struct.Struct("<QQQQIHBBII")
_STATE = struct.Struct("<QQIBBH")
_RULE = struct.Struct("<12B")
_POLICY = struct.Struct("<IIII")
_CONFIG = struct.Struct("<IIII")
_TUPLE = struct.Struct("=16s16s2s2sB3x")
_COUNTERS = struct.Struct(f"<8Q{LEVELS}Q{LEVELS}Q")
INDEX = struct.Struct("<I")
IDENTITY = struct.Struct("<Q")

PROTOCOLS = {"tcp": 6, "udp": 17}


def constants() -> dict[str, int]:
    """Everything that the C source takes from here, by name."""
    return {
        "ETHERTYPE_MFS": ETHERTYPE_MFS,
        "VERSION": VERSION,
        "STAMP_BYTES": STAMP_BYTES,
        "STAGE_MAX": max(Stage),
        "FLAG_FIRST": Flags.FIRST,
        "FLAG_BOUNDARY": Flags.BOUNDARY,
        "FLAG_LAST": Flags.LAST,
        "REMAINING_UNIT_BYTES": REMAINING_UNIT_BYTES,
        "LEVELS": LEVELS,
        "SCAVENGER": SCAVENGER,
        "CODE_STEPS": CODE_STEPS,
        "CODE_MAX": CODE_MAX,
        "PROGRESS_BATCHES": PROGRESS_BATCHES,
        "FLOWS_MAX": FLOWS_MAX,
        "RULES_MAX": RULES_MAX,
        "BANKS": BANKS,
        "FLOW_BYTES": _FLOW.size,
        "STATE_BYTES": _STATE.size,
        "RULE_BYTES": _RULE.size,
        "POLICY_BYTES": _POLICY.size + RULES_MAX * _RULE.size,
        "CONFIG_BYTES": _CONFIG.size,
        "TUPLE_BYTES": _TUPLE.size,
        "COUNTERS_BYTES": _COUNTERS.size,
    }


def encode_flow(
    stage: Stage,
    batch: int,
    number: int,
    target_layer: int,
    deadline_ns: int,
    own_bytes: int,
    beyond_bytes: int = 0,
    message_bytes: int = 0,
    pruned: bool = False,
    kept: bool = False,
) -> bytes:
    """A value of the map ``flows``. ``deadline_ns`` is of CLOCK_MONOTONIC.

    Raises:
        RequestError: something does not fit its field.
    """
    try:
        return _FLOW.pack(
            deadline_ns, own_bytes, beyond_bytes, message_bytes, batch, number, stage, target_layer, pruned, kept
        )
    except struct.error as error:
        raise RequestError(f"the flow does not fit the stamp's fields: {error}") from None


class FlowFields(NamedTuple):
    """A value of the map ``flows``, field by field."""

    deadline_ns: int
    own_bytes: int
    beyond_bytes: int
    message_bytes: int
    batch: int
    number: int
    stage: int
    target_layer: int
    pruned: int
    kept: int


def decode_flow(value: bytes) -> FlowFields:
    """Read a value of the map ``flows``."""
    return FlowFields(*_FLOW.unpack(value))


class FlowState(NamedTuple):
    """What the kernel knows of a flow; ``level`` is None before its first packet with payload."""

    sent_bytes: int
    packets: int
    level: int | None


NO_STATE = bytes(_STATE.size)


def decode_state(value: bytes) -> FlowState:
    """Read a value of the map ``states``."""
    sent, packets, _, _, held, _ = _STATE.unpack(value)
    return FlowState(sent, packets, held - 1 if held else None)


def encode_policy(rules: Sequence[LevelRule], bias: int, default_level: int = UNSTAGED_LEVEL) -> bytes:
    """A value of the map ``policies``: the rules in their order, the first that matches wins.

    Raises:
        PolicyError: more than :data:`RULES_MAX` rules, or a number beyond its field.
    """
    if len(rules) > RULES_MAX:
        raise PolicyError(f"a policy of {len(rules)} rules: the kernel takes {RULES_MAX} at most")
    rows = bytearray()
    for rule in rules:
        intervals = (rule.late, rule.rli, rule.urgency, rule.slack_code, rule.remaining_code)
        if not 0 <= rule.level < LEVELS or any(not 0 <= low <= high <= CODE_MAX for low, high in intervals):
            raise PolicyError(f"{rule} has a level beyond 0..{LEVELS - 1} or an interval beyond 0..{CODE_MAX}")
        rows += _RULE.pack(rule.stage, rule.level, *(bound for interval in intervals for bound in interval))
    rows += bytes((RULES_MAX - len(rules)) * _RULE.size)
    return _POLICY.pack(len(rules), bias, default_level, 0) + bytes(rows)


class Config(NamedTuple):
    """The value of the map ``configs``.

    Attributes:
        bank: the policy in force.
        max_frame: bytes of the longest frame that the link takes, Ethernet header and shim included.
        class_major: of the class ids that packets get, 0 for none.
        share: whether packets that are still to be segmented are stamped, so that their segments share the stamp.
    """

    bank: int
    max_frame: int
    class_major: int
    share: bool


def encode_config(config: Config) -> bytes:
    """The value of the map ``configs``."""
    return _CONFIG.pack(*config)


def decode_config(value: bytes) -> Config:
    """Read the value of the map ``configs``."""
    bank, max_frame, class_major, share = _CONFIG.unpack(value)
    return Config(bank, max_frame, class_major, bool(share))


@dataclass(frozen=True, slots=True)
class Tuple:
    """Addresses and ports of the packets that leave: source is this host."""

    protocol: str
    source: str
    source_port: int
    destination: str
    destination_port: int

    def encode(self) -> bytes:
        """A key of the map ``tuples``.

        Raises:
            RequestError: no such protocol, address or port.
        """
        try:
            ends = [ipaddress.ip_address(self.source), ipaddress.ip_address(self.destination)]
            if ends[0].version != ends[1].version:
                raise ValueError("one address is IPv4, the other IPv6")
            ports = [port.to_bytes(2, "big") for port in (self.source_port, self.destination_port)]
            addresses = [end.packed.rjust(16, b"\0") for end in ends]
            return _TUPLE.pack(*addresses, *ports, PROTOCOLS[self.protocol])
        except KeyError:
            raise RequestError(f"protocol {self.protocol!r} is neither {' nor '.join(PROTOCOLS)}") from None
        except (ValueError, OverflowError, AttributeError, TypeError) as error:
            raise RequestError(f"{self}: {error}") from None

    @classmethod
    def decode(cls, key: bytes) -> Tuple:
        """Read a key of the map ``tuples``."""
        *ends, source_port, destination_port, number = _TUPLE.unpack(key)
        source, destination = (str(ipaddress.ip_address(_shortened(end))) for end in ends)
        [protocol] = [name for name, value in PROTOCOLS.items() if value == number]
        ports = int.from_bytes(source_port, "big"), int.from_bytes(destination_port, "big")
        return cls(protocol, source, ports[0], destination, ports[1])


def _shortened(address: bytes) -> bytes:
    return address[12:] if address[:12] == bytes(12) else address


@dataclass(frozen=True, slots=True)
class Counters:
    """What the hooks counted: packets, and of each level packets and bytes (as they were without the shim).

    Packets that the kernel has still to segment count as one.

    Attributes:
        stamped: with a stamp.
        shared: of these, those whose segments share the stamp.
        too_long: without one, since the frame would not have fitted the link.
        segmented: without one, since they were still to be segmented.
        failed: without one, since the kernel made no room.
        removed: stamps taken off what came in.
        malformed: stamps of another version or stage that came in, left alone.
        learnt: received stamps that told of progress.
    """

    stamped: int
    shared: int
    too_long: int
    segmented: int
    failed: int
    removed: int
    malformed: int
    learnt: int
    level_packets: tuple[int, ...]
    level_bytes: tuple[int, ...]


def decode_counters(values: Sequence[bytes]) -> Counters:
    """The sum of the values that the processors hold."""
    sums = [sum(column) for column in zip(*map(_COUNTERS.unpack, values), strict=True)]
    stamped, shared, too_long, segmented, failed, removed, malformed, learnt = sums[: -2 * LEVELS]
    packets, level_bytes = tuple(sums[-2 * LEVELS : -LEVELS]), tuple(sums[-LEVELS:])
    return Counters(stamped, shared, too_long, segmented, failed, removed, malformed, learnt, packets, level_bytes)
