"""Reads a TOML file that describes a fabric: its switches, the hosts behind them, and the links between them.

::

    [fabric]
    policy = "mfs"                 # of all switches; a name, or a file beside this one
    rate = "100G"                  # of hosts' ports and links, unless they have their own

    [[switch]]
    name = "leaf1"
    address = "10.9.0.1:9559"      # without it the switch is known to the others, and not controlled
    mac = "02:00:00:00:00:fe"      # hosts and neighbours send to it
    [switch.parameters]            # optional: fields of SwitchParameters; [parameters] has those of all switches
    untrusted_ports = [7]
    [switch.tuner.mlu]             # optional: tuning on this switch; [tuner.mlu] is for all switches
    late_target = 0.1

    [[switch]]
    name = "spine1"
    role = "spine"                 # has links to ToRs, and no hosts; the default is "tor"
    address = "10.9.0.3:9559"
    mac = "02:00:00:00:00:fc"

    [[host]]
    switch = "leaf1"
    port = 1
    mac = "94:6d:ae:00:00:01"
    ipv4 = "10.1.0.1"

    [[link]]
    ends = ["leaf1:33", "spine1:1"]
    rate = "400G"

    [policy_server]                # optional: see policy_server_table

What a switch has to know of the others, routes and MAC addresses, follows from this.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mfs_ctrl import policy, policy_server_table, toml_report
from mfs_ctrl.config import LINK_NS, host, tuner_tables
from mfs_ctrl.config_tables import (
    FabricHostTable,
    FabricSwitchTable,
    FabricTable,
    LinkTable,
    ParametersTable,
)
from mfs_ctrl.desired import PORT_PARAMETERS, SwitchParameters
from mfs_ctrl.errors import DesiredStateError, PolicyError
from mfs_ctrl.fabric import BF_RUNTIME, SwitchSpec
from mfs_ctrl.p4rt.channel import TlsFiles
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.toml_report import Location, Report
from topologies.topology import Downlink, Host, Topology, Uplink

_TABLES = ("fabric", "switch", "host", "link", "parameters", "tuner", policy_server_table.NAME)
_SPINE = "spine"

AnyPolicy = Callable[[Policy], Policy]
"""Changes the policy before it is tuned."""


def read(path: Path, change: AnyPolicy = lambda held: held) -> list[SwitchSpec]:
    """Return the switches of the fabric that the file at ``path`` describes, but those without an address.

    Raises:
        ConfigError: the file cannot be read or has mistakes; the message lists them with their places.
    """
    return toml_report.read(path, functools.partial(parse, folder=path.parent, change=change))


def parse(text: str, folder: Path = Path(), change: AnyPolicy = lambda held: held) -> list[SwitchSpec]:
    """Return the switches that ``text`` describes; names of files in it are relative to ``folder``.

    Raises:
        ConfigError: ``text`` is not TOML or has mistakes; the message lists them with their places.
    """
    return _Reader(toml_report.document(text), Report(text), folder, change).specs()


class _Reader:
    """Validator of the tables of a document, first each one alone and then against the others."""

    def __init__(self, document: Mapping[str, Any], report: Report, folder: Path, change: AnyPolicy) -> None:
        self._document = document
        self._report = report
        self._folder = folder
        self._change = change

    def specs(self) -> list[SwitchSpec]:
        document, report = self._document, self._report
        for name in sorted(document.keys() - set(_TABLES)):
            report.add((name,), f"unknown table; the tables are {', '.join(_TABLES)}")
        fabric = report.validated(("fabric",), document.get("fabric", {}), FabricTable)
        of_all = report.validated(("parameters",), document.get("parameters", {}), ParametersTable)
        for key in PORT_PARAMETERS:
            if of_all is not None and key in of_all.model_fields_set:
                report.add(("parameters", key), "names ports, so it is of one switch: write it in [switch.parameters]")
        switches = report.array("switch", document.get("switch", []), FabricSwitchTable)
        hosts = report.array("host", document.get("host", []), FabricHostTable)
        links = report.array("link", document.get("link", []), LinkTable)
        for number, switch in switches.items():
            report.validated(("switch", number, "parameters"), switch.parameters, ParametersTable)
        policy_server_table.checked(document, report)
        report.raise_mistakes()
        assert fabric is not None
        self._fabric = fabric
        self._switches = {switch.name: (number, switch) for number, switch in switches.items()}
        self._hosts, self._links = hosts, links
        self._check_names(switches)
        self._check_ends()
        report.raise_mistakes()
        self._check_ports()
        self._check_addresses()
        self._check_paths()
        chosen = self._policy()
        report.raise_mistakes()
        topologies = self._topologies()
        made = [
            self._spec(number, switch, topologies[name], chosen) for name, (number, switch) in self._switches.items()
        ]
        report.raise_mistakes()
        return [spec for spec in made if spec is not None]

    def _check_names(self, switches: Mapping[int, FabricSwitchTable]) -> None:
        places = [(("switch", number), switch) for number, switch in switches.items()]
        unique = self._report.unique
        unique("name", [(place, switch.name) for place, switch in places], str, "each switch needs its own name")
        served = [
            (place, (switch.address, _device_id(switch))) for place, switch in places if switch.address is not None
        ]
        rule = "two controllers would undo each other's work"
        unique("address", served, lambda pair: f"{pair[0]}, device {pair[1]}", rule)
        if not served:
            self._report.add((), "no [[switch]] has an address, so there is nothing to control")

    def _check_ends(self) -> None:
        """Check that hosts and links name switches, and that they may be connected to them."""
        for number, found in self._hosts.items():
            if (end := self._switch(("host", number, "switch"), found.switch)) is not None and end.role == _SPINE:
                self._report.add(
                    ("host", number, "switch"), f'{end.name} is a spine, and hosts are behind ToRs (role = "tor")'
                )
        pairs: dict[frozenset[str], int] = {}
        for number, link in self._links.items():
            location = ("link", number, "ends")
            ends = [self._switch(location, name) for name, _ in link.ends]
            if None in ends:
                continue
            roles = [end.role for end in ends if end is not None]
            names = frozenset(name for name, _ in link.ends)
            if len(names) == 1:
                self._report.add(location, "both ends are of one switch")
            elif roles == [_SPINE, _SPINE]:
                self._report.add(location, 'a spine has links to ToRs only, so one of the two has role = "tor"')
            elif _SPINE in roles and pairs.setdefault(names, number) != number:
                self._report.add(location, f"a second link between {' and '.join(sorted(names))}; make it one port")

    def _switch(self, location: Location, name: str) -> FabricSwitchTable | None:
        if name not in self._switches:
            self._report.add(location, f"no [[switch]] is called {name!r}; there are {', '.join(self._switches)}")
            return None
        return self._switches[name][1]

    def _check_ports(self) -> None:
        used: list[tuple[Location, tuple[str, int]]] = [
            (("host", number), (found.switch, found.port)) for number, found in self._hosts.items()
        ]
        used += [(("link", number), end) for number, link in self._links.items() for end in link.ends]
        text = "port {0[1]} of {0[0]}".format
        self._report.unique("port", used, text, "each host and each end of a link needs its own port")
        ports: dict[str, list[int]] = defaultdict(list)
        for _, (name, port) in used:
            ports[name].append(port)
        for name, (number, switch) in self._switches.items():
            if not ports[name]:
                self._report.add(("switch", number), f"{name} has no ports; add a [[host]] or a [[link]]")
            for key in PORT_PARAMETERS:
                for port in map(int, switch.parameters.get(key, ())):
                    if port not in ports[name]:
                        reason = f"{name} has no port {port}; it has {', '.join(map(str, sorted(ports[name])))}"
                        self._report.add(("switch", number, "parameters", key), reason)

    def _check_addresses(self) -> None:
        macs: list[tuple[Location, bytes]] = [
            (("switch", number), switch.mac) for number, switch in self._switches.values()
        ]
        macs += [(("host", number), found.mac) for number, found in self._hosts.items()]
        rule = "each switch and each interface needs its own MAC address"
        self._report.unique("mac", macs, lambda mac: mac.hex(":"), rule)
        for key in ("ipv4", "ipv6"):
            addresses = [(("host", number), getattr(found, key)) for number, found in self._hosts.items()]
            known = [pair for pair in addresses if pair[1] is not None]
            self._report.unique(key, known, str, "each host needs its own address")

    def _check_paths(self) -> None:
        """Check that each link of a ToR leads to all other racks, since packets to them are spread over its links."""
        for number, link in self._links.items():
            for (name, _), (peer, _) in (link.ends, link.ends[::-1]):
                if self._switches[name][1].role == _SPINE:
                    continue
                behind = self._neighbours[peer] if self._switches[peer][1].role == _SPINE else {peer}
                missing = sorted(self._racks_beside(name) - behind)
                if missing:
                    reason = (
                        f"{peer} does not lead to {', '.join(missing)}, and {name} spreads packets to other racks over "
                        f"all of its links; link {peer} to {', '.join(missing)} too"
                    )
                    self._report.add(("link", number, "ends"), reason)

    @functools.cached_property
    def _neighbours(self) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = {name: set() for name in self._switches}
        for link in self._links.values():
            (one, _), (other, _) = link.ends
            found[one].add(other)
            found[other].add(one)
        return found

    def _racks_beside(self, name: str) -> set[str]:
        """Return the other switches with hosts that are connected to this one, over others if need be."""
        seen, todo = {name}, [name]
        while todo:
            new = self._neighbours[todo.pop()] - seen
            seen |= new
            todo += new
        return {other for other in seen - {name} if self._hosts_of[other]}

    @functools.cached_property
    def _hosts_of(self) -> Mapping[str, tuple[Host, ...]]:
        found: dict[str, list[Host]] = {name: [] for name in self._switches}
        for number, table in self._hosts.items():
            found[table.switch].append(host(number, table))
        return {name: tuple(hosts) for name, hosts in found.items()}

    def _policy(self) -> Policy | None:
        """Return the policy with the tuning of all switches; a mistake is recorded."""
        named = self._fabric.policy
        location: Location = ("fabric", "policy")
        try:
            found = self._change(policy.load(self._folder / named if named.endswith(policy.SUFFIX) else named))
            location = ("tuner",)
            return found.tuned_by(tuner_tables(self._document, self._report))
        except PolicyError as error:
            self._report.add(location, f"{error}")
            return None

    def _topologies(self) -> dict[str, Topology]:
        trunks: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for link in self._links.values():
            for (name, port), (peer, _) in (link.ends, link.ends[::-1]):
                trunks[name].append((port, link.rate or self._fabric.rate, peer))
        return {name: self._topology(switch, sorted(trunks[name])) for name, (_, switch) in self._switches.items()}

    def _topology(self, switch: FabricSwitchTable, trunks: list[tuple[int, int, str]]) -> Topology:
        macs = {name: other.mac for name, (_, other) in self._switches.items()}
        rate_bps = switch.rate or self._fabric.rate
        if switch.role == _SPINE:
            downlinks = (Downlink(port, rate, macs[peer], self._hosts_of[peer]) for port, rate, peer in trunks)
            return Topology((), rate_bps, LINK_NS, switch.mac, downlinks=tuple(downlinks))
        beside = sorted(self._racks_beside(switch.name))
        return Topology(
            self._hosts_of[switch.name],
            rate_bps,
            LINK_NS,
            switch.mac,
            uplinks=tuple(Uplink(port, rate, macs[peer]) for port, rate, peer in trunks),
            remote_hosts=tuple(found for name in beside for found in self._hosts_of[name]),
        )

    def _spec(
        self, number: int, switch: FabricSwitchTable, topology: Topology, chosen: Policy | None
    ) -> SwitchSpec | None:
        if switch.address is None or chosen is None:
            return None
        location = ("switch", number)
        try:
            parameters = self._parameters(switch)
        except DesiredStateError as error:
            self._report.add((*location, "parameters"), f"{error}")
            return None
        try:
            tuned = chosen.tuned_by(switch.tuner)
        except PolicyError as error:
            self._report.add((*location, "tuner"), f"{error}")
            return None
        return SwitchSpec(
            switch.name,
            switch.address,
            _device_id(switch),
            topology,
            parameters,
            tuned,
            self._tls(location, switch),
            switch.target,
        )

    def _parameters(self, switch: FabricSwitchTable) -> SwitchParameters:
        of_all = self._document.get("parameters", {})
        return ParametersTable.model_validate({**of_all, **switch.parameters}).parameters()

    def _tls(self, location: Location, switch: FabricSwitchTable) -> TlsFiles | None:
        ca, certificate, key = (
            self._folder / chosen if (chosen := getattr(switch, name) or getattr(self._fabric, name)) else None
            for name in ("tls_ca", "tls_cert", "tls_key")
        )
        if (certificate is None) != (key is None) or (certificate is not None and ca is None):
            self._report.add(location, "tls_cert and tls_key go together, and need tls_ca")
        return None if ca is None else TlsFiles(ca, certificate, key)


def _device_id(switch: FabricSwitchTable) -> int:
    if switch.device_id is not None:
        return switch.device_id
    return 0 if switch.target == BF_RUNTIME else 1
