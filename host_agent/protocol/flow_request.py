"""Flows as an engine announces them to the host agent: the home of their fields' names, types and ranges.

Client, agent and kernel maps use these names. On the socket a request is a JSON object with the same names
(``docs/reference/host-agent.md``).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from host_agent.protocol.address import address
from host_agent.protocol.errors import RequestError
from host_agent.protocol.flow_spec import FLOW_NUMBERS, LAYER_MAX
from host_agent.protocol.registration import QueuePair
from host_agent.protocol.stamp import SLACK_MAX_US, SLACK_MIN_US, Stage

BATCH_MAX = (1 << 32) - 1
PROTOCOLS: Mapping[str, int] = {"tcp": 6, "udp": 17}
"""Transport protocols of :class:`FiveTuple` with their IP protocol numbers."""
WINDOW_SCALE_MAX = 14
"""RFC 7323, section 2.3."""
_BYTES_MAX = 1 << 62
RANGES: Mapping[str, tuple[int, int]] = {
    "batch": (0, BATCH_MAX),
    "deadline_ns": (0, (1 << 63) - 1),
    "slack_us": (SLACK_MIN_US, SLACK_MAX_US),
    "total_bytes": (1, _BYTES_MAX),
    "beyond_bytes": (0, _BYTES_MAX),
    "message_bytes": (0, _BYTES_MAX),
    "target_layer": (0, LAYER_MAX),
    "layer": (0, LAYER_MAX),
    "number": (0, FLOW_NUMBERS - 1),
    "cookie": (1, (1 << 64) - 1),
    "cgroup": (1, (1 << 64) - 1),
    "source_port": (0, (1 << 16) - 1),
    "destination_port": (0, (1 << 16) - 1),
    "window_scale": (0, WINDOW_SCALE_MAX),
    "bytes": (1, _BYTES_MAX),
    "message": (1, (1 << 63) - 1),
    "wait_us": (0, 1_000_000),
    "pid": (1, 1 << 22),
}
"""Lowest and highest value of each integer field."""
LINE_MAX = 1 << 16
"""Longest request on the agent's socket, in bytes."""
_SO_COOKIE = 57
"""``asm-generic/socket.h``; Linux 4.12 or later."""
_WINDOW_SCALED = 4
"""``TCPI_OPT_WSCALE`` of ``linux/tcp.h``."""


@dataclass(frozen=True, slots=True)
class FiveTuple:
    """Addresses and ports of outgoing packets; the source is this host.

    Attributes:
        protocol: ``tcp`` or ``udp``.
        source, destination: IP addresses, both IPv4 or both IPv6.
        source_port, destination_port: 0 to 65535.
    """

    protocol: str
    source: str
    source_port: int
    destination: str
    destination_port: int

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise RequestError(f"protocol {self.protocol!r} is not {' or '.join(PROTOCOLS)}")
        check_integer("source_port", self.source_port)
        check_integer("destination_port", self.destination_port)
        if address("source", self.source).version != address("destination", self.destination).version:
            raise RequestError(f"{self}: one address is IPv4, the other IPv6")

    def __str__(self) -> str:
        return f"{self.protocol} {self.source}:{self.source_port} > {self.destination}:{self.destination_port}"


@dataclass(frozen=True, slots=True)
class Match:
    """Packets that belong to a flow, by exactly one of four criteria.

    A packet's socket takes precedence over its addresses, and these over its cgroup. RDMA bypasses the kernel: its
    flows are not stamped but registered with the switches.

    Attributes:
        cookie: of a socket, from ``getsockopt(SOL_SOCKET, SO_COOKIE)``; see :meth:`of_socket`.
        cgroup: a version-2 cgroup, by id (the inode of its directory) or by path below the agent's ``/sys/fs/cgroup``:
            everything that its processes send.
        addresses: addresses and ports.
        rdma: packets of RoCEv2 that this host sends, or that are sent to it because it reads.
    """

    cookie: int | None = None
    cgroup: int | str | None = None
    addresses: FiveTuple | None = None
    rdma: QueuePair | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.cookie, self.cgroup, self.addresses, self.rdma)) != 1:
            raise RequestError("a match takes exactly one of cookie, cgroup, addresses and rdma")
        if self.cookie is not None:
            check_integer("cookie", self.cookie)
        if self.cgroup is not None and not isinstance(self.cgroup, str):
            check_integer("cgroup", self.cgroup)
        if self.addresses is not None and not isinstance(self.addresses, FiveTuple):
            raise RequestError(f"addresses {self.addresses!r} is not a FiveTuple")
        if self.rdma is not None and not isinstance(self.rdma, QueuePair):
            raise RequestError(f"rdma {self.rdma!r} is not a QueuePair")

    @classmethod
    def of_socket(cls, connection: socket.socket) -> Match:
        """Match what ``connection``, a socket of this host, sends."""
        return cls(cookie=int(struct.unpack("<Q", connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0]))

    @classmethod
    def from_json(cls, value: object) -> Match:
        """Read the field ``match`` of a request.

        Raises:
            RequestError: not a valid match.
        """
        if not isinstance(value, dict) or len(value) != 1:
            raise RequestError(
                'match is {"cookie": number}, {"cgroup": path or id}, {"addresses": {...}} or {"rdma": {...}}'
            )
        [(kind, content)] = value.items()
        if kind == "addresses":
            return cls(addresses=_addresses(content))
        if kind == "rdma":
            return cls(rdma=_queue_pair(content))
        if kind not in ("cookie", "cgroup") or content is None:
            raise RequestError(f"unknown match {kind!r}; use cookie, cgroup, addresses or rdma")
        return cls(**{kind: content})

    def to_json(self) -> dict[str, Any]:
        """Return the field ``match`` of a request."""
        if self.addresses is not None:
            return {"addresses": asdict(self.addresses)}
        if self.rdma is not None:
            return {"rdma": asdict(self.rdma)}
        return {"cookie": self.cookie} if self.cookie is not None else {"cgroup": self.cgroup}

    def __str__(self) -> str:
        if self.addresses is not None or self.rdma is not None:
            return str(self.addresses or self.rdma)
        return f"cookie {self.cookie}" if self.cookie is not None else f"cgroup {self.cgroup}"


@dataclass(frozen=True, slots=True)
class Connection:
    """The TCP connection of a flow: what an agent must know to hold the flow before its first packet.

    Attributes:
        addresses: addresses and ports of what this host sends.
        window_scale: of the windows that the peer announces (RFC 7323), 0 to 14.
    """

    addresses: FiveTuple
    window_scale: int

    def __post_init__(self) -> None:
        if not isinstance(self.addresses, FiveTuple) or self.addresses.protocol != "tcp":
            raise RequestError(f"a connection takes the addresses of a TCP connection, not {self.addresses}")
        check_integer("window_scale", self.window_scale)

    @classmethod
    def of_socket(cls, connection: socket.socket) -> Connection | None:
        """Return the connection of a socket; None if it is no connected TCP socket of IPv4 or IPv6."""
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return None
        try:
            (source, source_port), (destination, destination_port) = (
                end[:2] for end in (connection.getsockname(), connection.getpeername())
            )
            options, scales = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5:7]
        except OSError:
            return None
        ends = unmapped(source), source_port, unmapped(destination), destination_port
        return cls(FiveTuple("tcp", *ends), scales & 0xF if options & _WINDOW_SCALED else 0)

    @classmethod
    def from_json(cls, value: object) -> Connection:
        """Read the field ``connection`` of a request.

        Raises:
            RequestError: it is not a valid connection.
        """
        if not isinstance(value, dict) or value.keys() != {"addresses", "window_scale"}:
            raise RequestError("connection takes exactly these fields: addresses, window_scale")
        return cls(_addresses(value["addresses"]), value["window_scale"])

    def to_json(self) -> dict[str, Any]:
        """Return the field ``connection`` of a request."""
        return {"addresses": asdict(self.addresses), "window_scale": self.window_scale}


@dataclass(frozen=True, slots=True)
class FlowRequest:
    """A flow that the agent is to stamp.

    Attributes:
        match: packets of the flow.
        batch: batch whose progress the flow shares; 0 for none. Switches remember progress, so batch numbers must not
            be reused soon: after a restart, begin at a random one.
        stage: stage of the flow, not ``NONE``.
        deadline_ns: on CLOCK_MONOTONIC (:func:`time.monotonic_ns`).
        total_bytes: payload bytes that the flow will send in total.
        target_layer: layer that consumes the data; for stage 3 the number of layers.
        beyond_bytes: bytes of the same request that follow this flow; they count as remaining.
        message_bytes: size of a message (a layer, for instance); the level may rise where a message starts. 0: the
            flow is one message.
        number: of the flow within its batch, as stamped in the field ``flow``; None lets the agent choose.
        pruned: stamp the flow as late, so that it is served when nothing else waits.
        keep: the flow stays open when the connection that opened it ends.
        connection: the flow's TCP connection, where the opener knows it; otherwise the agent asks the kernel.
    """

    match: Match
    batch: int
    stage: Stage
    deadline_ns: int
    total_bytes: int
    target_layer: int = 0
    beyond_bytes: int = 0
    message_bytes: int = 0
    number: int | None = None
    pruned: bool = False
    keep: bool = False
    connection: Connection | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.stage, Stage) or self.stage is Stage.NONE:
            raise RequestError(
                f"stage {self.stage!r} is not one of {', '.join(stage.name for stage in Stage if stage)}"
            )
        for name in ("pruned", "keep"):
            if type(getattr(self, name)) is not bool:
                raise RequestError(f"{name} is true or false, not {getattr(self, name)!r}")
        for name in ("batch", "deadline_ns", "total_bytes", "target_layer", "beyond_bytes", "message_bytes", "number"):
            if name != "number" or self.number is not None:
                check_integer(name, getattr(self, name))
        if self.connection is not None and not isinstance(self.connection, Connection):
            raise RequestError(f"connection {self.connection!r} is not a Connection")

    @classmethod
    def from_json(cls, request: Mapping[str, Any], now_ns: int) -> FlowRequest:
        """Read the fields of a request at ``now_ns`` on CLOCK_MONOTONIC; ``slack_us`` may stand for ``deadline_ns``.

        Raises:
            RequestError: a field is missing or invalid.
        """
        values = dict(request)
        deadline_ns = deadline(values.pop("slack_us", None), values.pop("deadline_ns", None), now_ns)
        if deadline_ns is None:
            raise RequestError("a flow needs its deadline: slack_us from now, or deadline_ns on CLOCK_MONOTONIC")
        match, stage = Match.from_json(values.pop("match", None)), _stage(values.pop("stage", None))
        for name in ("batch", "total_bytes"):
            if name not in values:
                raise RequestError(f"a flow needs {name}")
        if values.get("connection") is not None:
            values["connection"] = Connection.from_json(values["connection"])
        return cls(match=match, stage=stage, deadline_ns=deadline_ns, **values)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a request, without those that have their default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {field.name: values[field.name] for field in fields(self) if values[field.name] != field.default}
        if self.connection is not None:
            changed["connection"] = self.connection.to_json()
        return {**changed, "match": self.match.to_json(), "stage": self.stage.name}


@dataclass(frozen=True, slots=True)
class FlowUpdate:
    """Changes of an open flow; fields as in :class:`FlowRequest`, None leaves a field as it is."""

    deadline_ns: int | None = None
    beyond_bytes: int | None = None
    pruned: bool | None = None

    @classmethod
    def from_json(cls, request: Mapping[str, Any], now_ns: int) -> FlowUpdate:
        """Read the fields of a request at ``now_ns`` on CLOCK_MONOTONIC; ``slack_us`` may stand for ``deadline_ns``.

        Raises:
            RequestError: the deadline is invalid, or given twice.
        """
        values = dict(request)
        return cls(deadline(values.pop("slack_us", None), values.pop("deadline_ns", None), now_ns), **values)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a request, without those that do not change."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def applied_to(self, flow: FlowRequest) -> FlowRequest:
        """Return ``flow`` with these changes.

        Raises:
            RequestError: a value has the wrong type or is out of range.
        """
        return replace(flow, **self.to_json())


OPEN_FIELDS = frozenset(field.name for field in fields(FlowRequest)) | {"slack_us"}
UPDATE_FIELDS = frozenset(field.name for field in fields(FlowUpdate)) | {"slack_us"}


def check_integer(name: str, value: object) -> int:
    """Return ``value``, an integer in the range of the field ``name``.

    Raises:
        RequestError: it is not.
    """
    lowest, highest = RANGES[name]
    if type(value) is not int or not lowest <= value <= highest:
        raise RequestError(f"{name} {value!r} is not an integer in {lowest}..{highest}")
    return value


def check_progress(batch: object, layer: object) -> tuple[int, int]:
    """Return ``batch`` and ``layer`` if a batch can report that layer.

    Raises:
        RequestError: the batch is 0, or one of both has the wrong type or is out of range.
    """
    if batch == 0:
        raise RequestError(f"batch 0 stands for no batch and has no progress; use 1..{BATCH_MAX}")
    return check_integer("batch", batch), check_integer("layer", layer)


def deadline(slack_us: object, deadline_ns: object, now_ns: int) -> int | None:
    """Return the deadline on CLOCK_MONOTONIC in nanoseconds, from either argument; None if both are None.

    Args:
        slack_us: microseconds from ``now_ns``.
        deadline_ns: nanoseconds on CLOCK_MONOTONIC.
        now_ns: the time now, on the same clock.

    Raises:
        RequestError: both are given, or one has the wrong type or is out of range.
    """
    if slack_us is None:
        return None if deadline_ns is None else check_integer("deadline_ns", deadline_ns)
    if deadline_ns is not None:
        raise RequestError("slack_us and deadline_ns both set the deadline; give one of them")
    return max(0, now_ns + check_integer("slack_us", slack_us) * 1000)


def _stage(value: object) -> Stage:
    try:
        return Stage[value] if isinstance(value, str) else Stage(value)  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError):
        raise RequestError(f"unknown stage {value!r}; use one of {', '.join(stage.name for stage in Stage)}") from None


def unmapped(text: str) -> str:
    """Return an IPv4 address that a socket of IPv6 reports as ``::ffff:a.b.c.d`` as IPv4; others unchanged."""
    text = text.partition("%")[0]
    mapped = ipaddress.IPv6Address(text).ipv4_mapped if ":" in text else None
    return text if mapped is None else str(mapped)


def _addresses(value: object) -> FiveTuple:
    names = [field.name for field in fields(FiveTuple)]
    if not isinstance(value, dict) or value.keys() != set(names):
        raise RequestError(f"addresses takes exactly these fields: {', '.join(names)}")
    return FiveTuple(**value)


def _queue_pair(value: object) -> QueuePair:
    names = [field.name for field in fields(QueuePair)]
    needed = names[:3]
    if not isinstance(value, dict) or not set(needed) <= value.keys() <= set(names):
        raise RequestError(f"rdma takes {', '.join(needed)}, and may have {', '.join(names[3:])}")
    return QueuePair(**value)
