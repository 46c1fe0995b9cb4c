"""Reads a TOML file that describes a switch: ports, the hosts behind them, and an operator's choices.

::

    [switch]
    mac = "02:00:00:00:00:fe"      # hosts send to it; this is the default
    rate = "100G"                  # of hosts' ports

    [[host]]
    port = 1
    server = 1                     # interfaces of one server have the same number
    mac = "94:6d:ae:00:00:01"
    ipv4 = "10.1.0.1"
    ipv6 = "2001:db8::1"           # optional

    [[uplink]]                     # optional: a link to another switch
    port = 33
    rate = "400G"
    mac = "02:00:00:00:00:fd"      # of that switch

    [[remote]]                     # optional: a host of another rack, reached over the uplinks
    ipv4 = "10.2.0.1"

    [parameters]                   # optional: fields of SwitchParameters
    untrusted_ports = [7]

    [tuner.mlu]                    # optional: settings of the policy's tuning, by threshold
    late_target = 0.1

    [policy_server]                # optional: see policy_server_table
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfs_ctrl import policy_server_table, toml_report
from mfs_ctrl.config_tables import HostTable, ParametersTable, RemoteTable, SwitchTable, UplinkTable
from mfs_ctrl.desired import PORT_PARAMETERS, SwitchParameters, base_entities, initial_biases
from mfs_ctrl.errors import ConfigError, DesiredStateError
from mfs_ctrl.toml_report import Location, Report, Table
from topologies.topology import Addresses, Host, Topology, Uplink

LINK_NS = 1_000
_NO_MAC = bytes(6)
_TABLES = ("switch", "host", "uplink", "remote", "parameters", "tuner", policy_server_table.NAME)


@dataclass(frozen=True, slots=True)
class SwitchConfig:
    """The content of a file. The values in ``tuner`` depend on the policy and are not validated here."""

    topology: Topology
    parameters: SwitchParameters
    tuner: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read(path: Path) -> SwitchConfig:
    """Return the switch that the file at ``path`` describes.

    Raises:
        ConfigError: the file cannot be read or has mistakes; the message lists all of them with their places.
    """
    return toml_report.read(path, parse)


def parse(text: str) -> SwitchConfig:
    """Return the switch that ``text`` describes.

    Raises:
        ConfigError: ``text`` is not TOML or has mistakes; the message lists all of them with their places.
    """
    return _Reader(toml_report.document(text), Report(text)).config()


class _Reader:
    """Validator of the tables of a document, first each one alone and then against the others."""

    def __init__(self, document: Mapping[str, Any], report: Report) -> None:
        self._document = document
        self._report = report
        self._invalid_links = False
        """Whether the ports of some hosts or uplinks are unknown because their tables have mistakes."""

    def config(self) -> SwitchConfig:
        for name in sorted(self._document.keys() - set(_TABLES)):
            self._report.add((name,), f"unknown table; the tables are {', '.join(_TABLES)}")
        switch = self._report.validated(("switch",), self._document.get("switch", {}), SwitchTable)
        parameters = self._report.validated(("parameters",), self._document.get("parameters", {}), ParametersTable)
        hosts = self._array("host", HostTable)
        uplinks = self._array("uplink", UplinkTable)
        remotes = self._array("remote", RemoteTable)
        tuner = tuner_tables(self._document, self._report)
        policy_server_table.checked(self._document, self._report)
        self._check_ports(hosts, uplinks, parameters)
        self._check_addresses(switch, hosts, remotes)
        if not self._document.get("host") and not self._document.get("uplink"):
            self._report.add((), "there is no [[host]]; a switch needs ports")
        if remotes and not self._document.get("uplink"):
            self._report.add(("remote", 0), "there is no [[uplink]] that leads to hosts of other racks; add one")
        self._report.raise_mistakes()
        assert switch is not None
        assert parameters is not None
        topology = Topology(
            hosts=tuple(host(number, table) for number, table in hosts.items()),
            rate_bps=switch.rate,
            propagation_ns=LINK_NS,
            switch_mac=switch.mac,
            uplinks=tuple(Uplink(table.port, table.rate, table.mac) for table in uplinks.values()),
            remote_hosts=tuple(_remote(len(hosts) + number, table) for number, table in remotes.items()),
        )
        try:
            config = SwitchConfig(topology, parameters.parameters(), tuner)
            base_entities(topology, config.parameters, initial_biases(topology))
        except DesiredStateError as error:
            raise ConfigError(str(error)) from None
        return config

    def _array(self, name: str, model: type[Table]) -> dict[int, Table]:
        """Return the valid elements of an array of tables, by index."""
        items = self._document.get(name, [])
        valid = self._report.array(name, items, model)
        self._invalid_links |= not isinstance(items, list) or len(valid) < len(items)
        return valid

    def _check_ports(
        self, hosts: Mapping[int, HostTable], uplinks: Mapping[int, UplinkTable], parameters: ParametersTable | None
    ) -> None:
        links: list[tuple[Location, int]] = [(("host", number), host.port) for number, host in hosts.items()]
        links += [(("uplink", number), uplink.port) for number, uplink in uplinks.items()]
        self._report.unique("port", links, str, "each link needs its own port")
        if parameters is None or self._invalid_links or len({port for _, port in links}) < len(links):
            return
        known = sorted(port for _, port in links)
        for key in PORT_PARAMETERS:
            for number, port in enumerate(getattr(parameters, key)):
                if port not in known:
                    element = str(port) if key == "police_shares" else number
                    reason = f"no host or uplink is on port {port}; ports in use are {', '.join(map(str, known))}"
                    self._report.add(("parameters", key, element), reason)

    def _check_addresses(
        self, switch: SwitchTable | None, hosts: Mapping[int, HostTable], remotes: Mapping[int, RemoteTable]
    ) -> None:
        macs: list[tuple[Location, bytes]] = [] if switch is None else [(("switch",), switch.mac)]
        macs += [(("host", number), host.mac) for number, host in hosts.items()]
        self._report.unique("mac", macs, lambda mac: mac.hex(":"), "each interface needs its own MAC address")
        ends: list[tuple[Location, HostTable | RemoteTable]] = []
        ends += [(("host", number), host) for number, host in hosts.items()]
        ends += [(("remote", number), remote) for number, remote in remotes.items()]
        for key in ("ipv4", "ipv6"):
            addresses = [(location, getattr(end, key)) for location, end in ends if getattr(end, key) is not None]
            self._report.unique(key, addresses, str, "each host needs its own address")


def tuner_tables(document: Mapping[str, Any], report: Report) -> Mapping[str, Mapping[str, Any]]:
    """Return the tables in ``[tuner]``; mistakes are recorded."""
    tables = document.get("tuner", {})
    if not isinstance(tables, dict):
        report.add(("tuner",), "must be a table")
        return {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            report.add(("tuner", name), f"must be a table: write [tuner.{name}]")
    return tables


def host(number: int, table: HostTable) -> Host:
    """Return the host that the table with this index, from 0, describes."""
    server = number if table.server is None else table.server - 1
    return Host(number, server, 0, table.port, Addresses(table.mac, table.ipv4, table.ipv6))


def _remote(number: int, table: RemoteTable) -> Host:
    return Host(number, number, 0, 0, Addresses(_NO_MAC, table.ipv4, table.ipv6))
