"""The tables of a file that describes a switch, and the values that each key accepts."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from host_agent.protocol.stamp import LEVELS, Stage
from host_agent.protocol.units import parse_bit_rate
from mfs_ctrl.desired import SwitchParameters
from soft_switch.ports import HIGHEST_PORT
from topologies.topology import SWITCH_MAC

QUEUE_BYTES_MAX = 1 << 40
POLICE_BURST_US_MAX = 60_000_000
ECN_FRAMES_MAX = 1_000_000
REGISTRATION_RATE_MAX = 100_000_000
_MAC_BYTES = 6
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_DEFAULTS = SwitchParameters()


def _rate(value: object) -> int:
    rate = parse_bit_rate(value) if isinstance(value, str) else None
    if rate is None:
        raise ValueError('must be bits per second such as "100G" or "20M", up to "1000G"')
    return rate


def _mac(value: object) -> bytes:
    try:
        mac = bytes.fromhex(value.replace(":", "").replace("-", "")) if isinstance(value, str) else b""
    except ValueError:
        mac = b""
    if len(mac) != _MAC_BYTES:
        raise ValueError('must be a MAC address such as "02:00:00:00:00:01"')
    if mac == b"\xff" * _MAC_BYTES:
        raise ValueError("is the broadcast address; use the interface's own MAC address")
    if mac[0] & 1:
        raise ValueError("is a multicast address; use the interface's own MAC address")
    if not any(mac):
        raise ValueError("is the zero address; use the interface's own MAC address")
    return mac


def _ipv4(value: object) -> IPv4Address:
    try:
        address = IPv4Address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None:
        raise ValueError('must be an IPv4 address in quotes, such as "10.1.0.1"')
    if address.is_reserved:
        raise ValueError("is a broadcast or reserved address; use the host's own address")
    _check_unicast(address)
    return address


def _ipv6(value: object) -> IPv6Address:
    try:
        address = IPv6Address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None:
        raise ValueError('must be an IPv6 address in quotes, such as "2001:db8::1"')
    _check_unicast(address)
    return address


def _check_unicast(address: IPv4Address | IPv6Address) -> None:
    kinds = {"a multicast": address.is_multicast, "the unspecified": address.is_unspecified}
    kinds["a loopback"] = address.is_loopback
    for kind, applies in kinds.items():
        if applies:
            raise ValueError(f"is {kind} address; use the host's own address")


def _stage(value: object) -> Stage:
    names = [stage.name for stage in Stage if stage]
    if value not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return Stage[str(value)]


def _port_key(value: object) -> object:
    # Keys of a TOML table are strings.
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("must be a name of letters, digits, '-', '_' and '.', which begins with a letter")
    return value


def _link_end(value: object) -> tuple[str, int]:
    name, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not name or not port.isdecimal() or int(port) > HIGHEST_PORT:
        raise ValueError('must be a switch and its port, such as "leaf1:5"')
    return name, int(port)


def _address(value: object) -> str:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not host or not port.isdecimal():
        raise ValueError('must be HOST:PORT, such as "10.9.0.1:9559"')
    return f"{host}:{port}"


Name = Annotated[str, BeforeValidator(_name)]
Address = Annotated[str, BeforeValidator(_address)]
LinkEnd = Annotated[tuple[str, int], BeforeValidator(_link_end)]
Rate = Annotated[int, BeforeValidator(_rate)]
Mac = Annotated[bytes, BeforeValidator(_mac)]
IPv4 = Annotated[IPv4Address, BeforeValidator(_ipv4)]
IPv6 = Annotated[IPv6Address, BeforeValidator(_ipv6)]
Port = Annotated[int, Field(ge=0, le=HIGHEST_PORT)]
Level = Annotated[int, Field(ge=0, lt=LEVELS)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SwitchTable(_Table):
    """``[switch]``: the switch's MAC address, which hosts send to, and the rate of hosts' ports."""

    rate: Rate
    mac: Mac = SWITCH_MAC


class HostTable(_Table):
    """``[[host]]``: an interface of a server. Interfaces of one server have the same ``server`` number."""

    port: Port
    mac: Mac
    ipv4: IPv4
    ipv6: IPv6 | None = None
    server: Annotated[int, Field(ge=1)] | None = None


class UplinkTable(_Table):
    """``[[uplink]]``: a link to another switch, with that switch's MAC address."""

    port: Port
    rate: Rate
    mac: Mac


class PolicyServerTable(_Table):
    """``[policy_server]``: where to serve the policy to agents, and the PEM files to do so over TLS."""

    listen: str
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None


class FabricTable(_Table):
    """``[fabric]``: what all switches of a fabric have in common; those of a switch take precedence."""

    rate: Rate
    policy: str = "mfs"
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


class FabricSwitchTable(_Table):
    """``[[switch]]`` of a fabric. One without an address is known to the others, and not controlled."""

    name: Name
    mac: Mac
    address: Address | None = None
    device_id: Annotated[int, Field(ge=0, lt=1 << 64)] | None = None
    target: Literal["p4runtime", "bfrt"] = "p4runtime"
    role: Literal["tor", "spine"] = "tor"
    rate: Rate | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    parameters: dict[str, Any] = {}
    tuner: dict[str, dict[str, Any]] = {}


class FabricHostTable(HostTable):
    """``[[host]]`` of a fabric, which also has the name of its switch."""

    switch: str


class LinkTable(_Table):
    """``[[link]]`` of a fabric: a link between two switches."""

    ends: Annotated[list[LinkEnd], Field(min_length=2, max_length=2)]
    rate: Rate | None = None


class RemoteTable(_Table):
    """``[[remote]]``: a host of another rack, which is reached over the uplinks."""

    ipv4: IPv4
    ipv6: IPv6 | None = None


class ParametersTable(_Table):
    """``[parameters]``: see :class:`mfs_ctrl.desired.SwitchParameters`."""

    untrusted_ports: list[Port] = []
    untagged_level: Level = _DEFAULTS.untagged_level
    untrusted_level: Level = _DEFAULTS.untrusted_level
    police_floor: Annotated[int, Field(ge=0, le=LEVELS)] = _DEFAULTS.police_floor
    police_level: Level = _DEFAULTS.police_level
    police_share: Share = _DEFAULTS.police_share
    police_shares: dict[Annotated[Port, BeforeValidator(_port_key)], Share] = {}
    police_burst_us: Annotated[int, Field(ge=0, le=POLICE_BURST_US_MAX)] = _DEFAULTS.police_burst_us
    # TOML has no null: a negative number of frames means that the level is never marked.
    ecn_frames: Annotated[
        list[Annotated[int, Field(le=ECN_FRAMES_MAX)]], Field(min_length=LEVELS, max_length=LEVELS)
    ] = [-1] * LEVELS
    stamp_unaware_ports: list[Port] = []
    whole_stamp_ports: list[Port] = []
    dscp_ports: list[Port] = []
    queue_bytes: Annotated[int, Field(ge=1, le=QUEUE_BYTES_MAX)] = _DEFAULTS.queue_bytes
    guaranteed_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = _DEFAULTS.guaranteed_share
    registration_ports: list[Port] = []
    registration_rate: Annotated[int, Field(ge=1, le=REGISTRATION_RATE_MAX)] = _DEFAULTS.registration_rate
    registration_burst: Annotated[int, Field(ge=1, le=REGISTRATION_RATE_MAX)] = _DEFAULTS.registration_burst
    stage_dscp: dict[Annotated[Stage, BeforeValidator(_stage)], Annotated[int, Field(ge=0, le=63)]] = {}

    def parameters(self) -> SwitchParameters:
        """Return the parameters that the table describes."""
        values: dict[str, Any] = dict(self)
        for name in ("untrusted_ports", "stamp_unaware_ports", "whole_stamp_ports", "dscp_ports", "registration_ports"):
            values[name] = frozenset(values[name])
        values["ecn_frames"] = tuple(None if frames < 0 else frames for frames in self.ecn_frames)
        return SwitchParameters(**values)
