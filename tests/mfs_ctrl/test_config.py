"""A switch described in a TOML file: what it becomes, and what a wrong file is told."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from host_agent.protocol.stamp import LEVELS
from mfs_ctrl.config import parse, read
from mfs_ctrl.desired import base_entities, initial_biases
from mfs_ctrl.errors import ConfigError
from mfs_ctrl.p4rt.entries import Lpm, TableEntry
from tests.support.cli import finished, free_address, one_error

GOOD = """
[switch]
rate = "100G"

[[host]]
port = 1
server = 1
mac = "94:6d:ae:00:00:01"
ipv4 = "10.1.0.1"
ipv6 = "2001:db8::1"

[[host]]
port = 5
server = 1
mac = "94-6d-ae-00-00-02"
ipv4 = "10.1.0.2"

[[uplink]]
port = 33
rate = "400G"
mac = "02:00:00:00:00:fd"

[[remote]]
ipv4 = "10.2.0.1"

[parameters]
untrusted_ports = [5]
dscp_ports = [33]
police_shares = {1 = 0.5}
ecn_frames = [-1, -1, 64, 64, 64, 64, 64, 64]
guaranteed_share = 0
"""


def test_a_file_becomes_a_topology_and_parameters() -> None:
    made = parse(tomllib.loads(GOOD))
    first, second = made.topology.hosts
    assert (first.port, first.server, first.mac.hex(":"), first.ipv4) == (
        1,
        0,
        "94:6d:ae:00:00:01",
        IPv4Address("10.1.0.1"),
    )
    assert (first.ipv6, second.ipv6) == (IPv6Address("2001:db8::1"), None)
    assert made.topology.rates == {1: 10**11, 5: 10**11, 33: 4 * 10**11}
    assert made.parameters.untrusted_ports == {5}
    assert made.parameters.ecn_frames[:3] == (None, None, 64)
    entities = base_entities(made.topology, made.parameters, initial_biases(made.topology))
    rows = [entity for entity in entities if isinstance(entity, TableEntry)]
    routes = {
        int(row.match[0][1].value): row.target
        for row in rows
        if row.table == "ipv4_route" and isinstance(row.match[0][1], Lpm)
    }
    assert {str(IPv4Address(address)) for address in routes} == {"10.1.0.1", "10.1.0.2", "10.2.0.1"}
    assert len([row for row in rows if row.table == "ipv6_route"]) == 1
    assert len([row for row in rows if row.table == "dscp"]) == LEVELS


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("port = 5", "port = 511", "[[host]] 2: port is a number of 0..510, not 511"),
        ("port = 5", "prot = 5", "[[host]] 2 has prot; it may have ipv4, ipv6, mac, port, server"),
        ('mac = "94-6d-ae-00-00-02"\n', "", "[[host]] 2 does not say mac"),
        ("94-6d-ae-00-00-02", "94-6d-ae", "[[host]] 2: mac is a MAC address"),
        ("10.1.0.2", "10.1.0.256", "[[host]] 2: ipv4: "),
        ('"2001:db8::1"', '"2001:db8"', "[[host]] 1: ipv6: "),
        ('rate = "400G"', "rate = 400", "[[uplink]] 1: rate is bits per second"),
        ("[[remote]]", "[[remotes]]", "the file has remotes"),
        (
            "guaranteed_share = 0",
            "guaranteed_share = 2",
            "[parameters]: police_share and police_shares must be above 0",
        ),
        ("untrusted_ports = [5]", "untrusted_ports = 5", "[parameters]: untrusted_ports cannot be 5"),
        ("untrusted_ports", "untrusted", "[parameters] has untrusted; it may have"),
        ("[switch]", "[[switch]]", "switch is a table"),
    ],
)
def test_a_wrong_file_is_told_the_place(before: str, after: str, told: str) -> None:
    assert before in GOOD
    with pytest.raises(ConfigError) as error:
        parse(tomllib.loads(GOOD.replace(before, after)))
    assert told in str(error.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.toml: No such file"):
        read(tmp_path / "missing.toml")
    (tmp_path / "no.toml").write_text("[switch")
    with pytest.raises(ConfigError, match=r"no.toml is no TOML"):
        read(tmp_path / "no.toml")


def test_the_command_takes_it_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rack.toml"
    path.write_text(GOOD.replace("port = 5", "port = 1"))
    done = finished("ctrl", "--address", free_address(), "--config", str(path))
    assert "share a switch port; give each its own" in one_error(done)
