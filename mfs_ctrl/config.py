"""A switch of one's own, described in a TOML file: ports, the hosts behind them, and what an operator chooses.

::

    [switch]
    mac = "02:00:00:00:00:fe"      # hosts send to it
    rate = "100G"                  # of hosts' ports

    [[host]]
    port = 1
    server = 1                     # interfaces of one server have the same number
    mac = "94:6d:ae:00:00:01"
    ipv4 = "10.1.0.1"
    ipv6 = "2001:db8::1"           # may be left out

    [[uplink]]                     # if any: a link to another switch
    port = 33
    rate = "400G"
    mac = "02:00:00:00:00:fd"      # of that switch

    [[remote]]                     # a host of another rack, over the uplinks
    ipv4 = "10.2.0.1"

    [parameters]                   # fields of SwitchParameters
    untrusted_ports = [7]

    [tuner.mlu]                    # optional: settings of the policy's tuning, by threshold
    late_target = 0.1
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from host_agent.protocol.units import parse_bit_rate
from mfs_ctrl.desired import SwitchParameters, base_entities, initial_biases
from mfs_ctrl.errors import ConfigError, DesiredStateError
from topologies.topology import SWITCH_MAC, Addresses, Host, Topology, Uplink

LINK_NS = 1_000
HIGHEST_PORT = 510
"""Port 511 is where v1model's programs drop; Tofino's device ports stay below as well."""
_NO_MAC = bytes(6)
_PARAMETERS = {field.name: field for field in dataclasses.fields(SwitchParameters)}


@dataclass(frozen=True, slots=True)
class SwitchConfig:
    """What a file says. The values in ``tuner`` depend on the policy and are not checked here."""

    topology: Topology
    parameters: SwitchParameters
    tuner: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def read(path: Path) -> SwitchConfig:
    """The switch that the file at ``path`` describes.

    Raises:
        ConfigError: it cannot be read, is no TOML, or says what cannot be; the message names the place.
    """
    try:
        text = path.read_text("utf-8")
        return parse(tomllib.loads(text))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(document: Mapping[str, Any]) -> SwitchConfig:
    """The switch that ``document`` describes, as :mod:`tomllib` gives it.

    Raises:
        ConfigError: it says what cannot be.
    """
    _only(document, {"switch", "host", "uplink", "remote", "parameters", "tuner"}, "the file")
    switch = _table(document, "switch")
    _only(switch, {"mac", "rate"}, "[switch]")
    hosts = [_Entry("host", number, item) for number, item in enumerate(_list(document, "host"), 1)]
    uplinks = [_Entry("uplink", number, item) for number, item in enumerate(_list(document, "uplink"), 1)]
    remote = [_Entry("remote", number, item) for number, item in enumerate(_list(document, "remote"), 1)]
    if not hosts and not uplinks:
        raise ConfigError("there is no [[host]]: a switch needs ports")
    whole = _Entry("switch", 0, switch)
    topology = Topology(
        hosts=tuple(entry.host(number) for number, entry in enumerate(hosts)),
        rate_bps=whole.rate("rate"),
        propagation_ns=LINK_NS,
        switch_mac=whole.mac("mac", SWITCH_MAC),
        uplinks=tuple(entry.uplink() for entry in uplinks),
        remote_hosts=tuple(entry.remote(len(hosts) + number) for number, entry in enumerate(remote)),
    )
    parameters = _parameters(_table(document, "parameters"))
    try:
        base_entities(topology, parameters, initial_biases(topology))
    except DesiredStateError as error:
        raise ConfigError(str(error)) from None
    tuner = _table(document, "tuner")
    return SwitchConfig(topology, parameters, {name: _table(tuner, name) for name in tuner})


@dataclass(frozen=True, slots=True)
class _Entry:
    """One table of the file, and how to name it."""

    kind: str
    number: int
    fields: Mapping[str, Any]

    def host(self, number: int) -> Host:
        _only(self.fields, {"port", "server", "mac", "ipv4", "ipv6"}, self.place)
        addresses = Addresses(self.mac("mac"), self.ipv4(), self.ipv6())
        server = self.fields.get("server", self.number)
        if type(server) is not int or server < 1:
            raise ConfigError(f"{self.place}: server is a number from 1, not {server!r}")
        return Host(number, server - 1, 0, self.port(), addresses)

    def remote(self, number: int) -> Host:
        _only(self.fields, {"ipv4", "ipv6"}, self.place)
        return Host(number, number, 0, 0, Addresses(_NO_MAC, self.ipv4(), self.ipv6()))

    def uplink(self) -> Uplink:
        _only(self.fields, {"port", "rate", "mac"}, self.place)
        return Uplink(self.port(), self.rate("rate"), self.mac("mac"))

    @property
    def place(self) -> str:
        return f"[[{self.kind}]] {self.number}" if self.number else f"[{self.kind}]"

    def port(self) -> int:
        port = self._needed("port")
        if type(port) is not int or not 0 <= port <= HIGHEST_PORT:
            raise ConfigError(f"{self.place}: port is a number of 0..{HIGHEST_PORT}, not {port!r}")
        return port

    def rate(self, name: str) -> int:
        value = self._needed(name)
        rate = parse_bit_rate(value) if isinstance(value, str) else None
        if rate is None:
            raise ConfigError(f'{self.place}: {name} is bits per second as "100G" or "20M", not {value!r}')
        return rate

    def mac(self, name: str, default: bytes | None = None) -> bytes:
        if default is not None and name not in self.fields:
            return default
        value = self._needed(name)
        try:
            mac = bytes.fromhex(str(value).replace(":", "").replace("-", ""))
        except ValueError:
            mac = b""
        if len(mac) != 6:
            raise ConfigError(f'{self.place}: {name} is a MAC address as "02:00:00:00:00:01", not {value!r}')
        return mac

    def ipv4(self) -> IPv4Address:
        value = self._needed("ipv4")
        try:
            return IPv4Address(value)
        except ValueError as error:
            raise ConfigError(f"{self.place}: ipv4: {error}") from None

    def ipv6(self) -> IPv6Address | None:
        value = self.fields.get("ipv6")
        try:
            return None if value is None else IPv6Address(value)
        except ValueError as error:
            raise ConfigError(f"{self.place}: ipv6: {error}") from None

    def _needed(self, name: str) -> Any:
        if name not in self.fields:
            raise ConfigError(f"{self.place} does not say {name}")
        return self.fields[name]


def _parameters(fields: Mapping[str, Any]) -> SwitchParameters:
    _only(fields, set(_PARAMETERS), "[parameters]")
    try:
        return SwitchParameters(**{name: _parameter(name, value) for name, value in fields.items()})
    except DesiredStateError as error:
        raise ConfigError(f"[parameters]: {error}") from None


def _parameter(name: str, value: Any) -> Any:
    kind = str(_PARAMETERS[name].type)
    if kind.startswith("frozenset") and _numbers(value):
        return frozenset(value)
    if kind.startswith("Mapping") and isinstance(value, Mapping) and all(port.isdecimal() for port in value):
        return {int(port): share for port, share in value.items()}
    # TOML has no null: a negative number of frames is never.
    if kind.startswith("tuple") and _numbers(value):
        return tuple(None if frames < 0 else frames for frames in value)
    if kind == "float" and type(value) in (int, float):
        return float(value)
    if kind == "int" and type(value) is int:
        return value
    raise ConfigError(f"[parameters]: {name} cannot be {value!r}")


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is a table: [{name}]")
    return value


def _list(document: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    value = document.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ConfigError(f"{name} is a list of tables: [[{name}]]")
    return value


def _only(fields: Mapping[str, Any], known: set[str], place: str) -> None:
    if unknown := sorted(fields.keys() - known):
        raise ConfigError(f"{place} has {', '.join(unknown)}; it may have {', '.join(sorted(known))}")
