"""A switch described in a TOML file: the topology it becomes, and the reports of mistakes."""

from __future__ import annotations

import contextlib
import dataclasses
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from host_agent.protocol.stamp import LEVELS
from mfs_ctrl.config import parse, read
from mfs_ctrl.config_tables import ParametersTable
from mfs_ctrl.desired import SwitchParameters, base_entities, initial_biases
from mfs_ctrl.errors import ConfigError
from mfs_ctrl.p4rt.entries import Lpm, TableEntry
from tests.support.cli import finished, one_error
from topologies.processes import free_address

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
    made = parse(GOOD)
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
    ("before", "after", "message"),
    [
        ("port = 5", "port = 511", "line 13: [[host]] 2, port: must be less than or equal to 510, not 511"),
        ("port = 5", "port = true", "[[host]] 2, port: must be a whole number, not True"),
        ("port = 5", "port = 1", "[[host]] 2, port: 1 is also that of [[host]] 1; each link needs its own port"),
        ("port = 33", "port = 1", "[[uplink]] 1, port: 1 is also that of [[host]] 1"),
        ('server = 1\nmac = "94:', 'server = 0\nmac = "94:', "line 7: [[host]] 1, server: must be greater than or"),
        ('mac = "94-6d-ae-00-00-02"\n', "", "line 12: [[host]] 2, mac: is missing"),
        ("94-6d-ae-00-00-02", "94-6d-ae", "[[host]] 2, mac: must be a MAC address such as"),
        ("94-6d-ae-00-00-02", "94:6d:ae:00:00:01", "94:6d:ae:00:00:01 is also that of [[host]] 1; each interface"),
        ("94-6d-ae-00-00-02", "02:00:00:00:00:fe", "[[host]] 2, mac: 02:00:00:00:00:fe is also that of [switch]"),
        ("94-6d-ae-00-00-02", "ff:ff:ff:ff:ff:ff", "[[host]] 2, mac: 'ff:ff:ff:ff:ff:ff' is the broadcast address"),
        ("94-6d-ae-00-00-02", "01:00:5e:00:00:01", "[[host]] 2, mac: '01:00:5e:00:00:01' is a multicast address"),
        ("94-6d-ae-00-00-02", "00:00:00:00:00:00", "[[host]] 2, mac: '00:00:00:00:00:00' is the zero address"),
        ("10.1.0.2", "10.1.0.256", '[[host]] 2, ipv4: must be an IPv4 address in quotes, such as "10.1.0.1", not'),
        ('"10.1.0.2"', "5", "[[host]] 2, ipv4: must be an IPv4 address in quotes, such as "),
        ("10.1.0.2", "10.1.0.1", "[[host]] 2, ipv4: 10.1.0.1 is also that of [[host]] 1; each host needs its own"),
        ("10.2.0.1", "10.1.0.1", "[[remote]] 1, ipv4: 10.1.0.1 is also that of [[host]] 1"),
        ("10.1.0.2", "224.0.0.1", "[[host]] 2, ipv4: '224.0.0.1' is a multicast address; use the host's own address"),
        ("10.1.0.2", "255.255.255.255", "[[host]] 2, ipv4: '255.255.255.255' is a broadcast or reserved address"),
        ("10.1.0.2", "0.0.0.0", "[[host]] 2, ipv4: '0.0.0.0' is the unspecified address"),
        ("10.1.0.2", "127.0.0.1", "[[host]] 2, ipv4: '127.0.0.1' is a loopback address"),
        ('"2001:db8::1"', '"2001:db8"', "[[host]] 1, ipv6: must be an IPv6 address"),
        ('"2001:db8::1"', '"ff02::1"', "[[host]] 1, ipv6: 'ff02::1' is a multicast address"),
        ('rate = "400G"', "rate = 400", "[[uplink]] 1, rate: must be bits per second such as"),
        ('[switch]\nrate = "100G"', "", "[switch], rate: is missing"),
        ("[switch]", "[[switch]]", "[switch]: must be a table"),
        ("[[remote]]", "[remote]", "[remote]: must be an array of tables: write [[remote]]"),
        ("[[remote]]", "[[remotes]]", "line 23: [remotes]: unknown table; the tables are switch, host, uplink"),
        ("port = 5", "port = 5\nprot = 5", "[[host]] 2, prot: unknown key; the keys are ipv4, ipv6, mac, port, server"),
        ("untrusted_ports", "untrusted", "[parameters], untrusted: unknown key; the keys are dscp_ports, "),
        ("untrusted_ports = [5]", "untrusted_ports = 5", "[parameters], untrusted_ports: must be an array, not 5"),
        ("untrusted_ports = [5]", 'untrusted_ports = [5, "1"]', "untrusted_ports[1]: must be a whole number, not '1'"),
        ("untrusted_ports = [5]", "untrusted_ports = [5, 9]", "untrusted_ports[1]: no host or uplink is on port 9;"),
        (
            "{1 = 0.5}",
            "{9 = 0.5}",
            "[parameters], police_shares.9: no host or uplink is on port 9; ports in use are",
        ),
        ("{1 = 0.5}", '{1 = "x"}', "[parameters], police_shares.1: must be a number, not 'x'"),
        ("{1 = 0.5}", "{one = 0.5}", "[parameters], police_shares.one: must be a whole number, not 'one'"),
        ("{1 = 0.5}", "{1 = nan}", "[parameters], police_shares.1: must be a finite number, not nan"),
        ("[parameters]", "[parameters]\npolice_share = nan", "police_share: must be a finite number, not nan"),
        ("[parameters]", "[parameters]\npolice_share = inf", "police_share: must be a finite number, not inf"),
        ("[parameters]", "[parameters]\npolice_share = 0", "police_share: must be greater than 0, not 0"),
        ("[parameters]", "[parameters]\nqueue_bytes = 0", "queue_bytes: must be greater than or equal to 1, not 0"),
        ("[parameters]", "[parameters]\nqueue_bytes = -5", "queue_bytes: must be greater than or equal to 1, not -5"),
        ("[parameters]", "[parameters]\npolice_burst_us = -5", "police_burst_us: must be greater than or equal to 0,"),
        ("[parameters]", "[parameters]\npolice_level = 8", "police_level: must be less than 8, not 8"),
        ("[-1, -1, 64,", "[64,", "[parameters], ecn_frames: must have at least 8 items, not 6"),
        ("guaranteed_share = 0", "guaranteed_share = 2", "guaranteed_share: must be less than or equal to 1, not 2"),
        ("[parameters]", "[[tuner]]\n[parameters]", "[tuner]: must be a table"),
        ("[parameters]", "[tuner]\nmlu = 1\n[parameters]", "[tuner], mlu: must be a table: write [tuner.mlu]"),
    ],
)
def test_a_mistake_is_reported_with_its_place(before: str, after: str, message: str) -> None:
    assert before in GOOD
    with pytest.raises(ConfigError) as error:
        parse(GOOD.replace(before, after))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


ODD_VALUES = ("0", "-1", "1.5", "nan", "1e400", '""', "true", "[]", "[[1]]", "{}", "{a = 1}", "1979-05-27", "9" * 5000)


@pytest.mark.parametrize("value", ODD_VALUES)
def test_a_value_of_any_kind_for_any_key_is_accepted_or_reported(value: str) -> None:
    lines = GOOD.splitlines()
    for number, line in enumerate(lines):
        key, equals, _ = line.partition(" = ")
        if equals:
            changed = [*lines[:number], f"{key} = {value}", *lines[number + 1 :]]
            with contextlib.suppress(ConfigError):
                parse("\n".join(changed))


def test_all_mistakes_are_reported_in_the_order_of_the_file() -> None:
    text = GOOD.replace("port = 5", "port = -1").replace("guaranteed_share = 0", "guaranteed_share = nan\nextra = 1")
    with pytest.raises(ConfigError) as error:
        parse(text.replace('rate = "100G"', "rate = 100"))
    assert [line.strip().partition(":")[0] for line in str(error.value).splitlines()] == [
        "4 mistakes",
        "line 3",
        "line 13",
        "line 31",
        "line 32",
    ]


def test_a_file_without_ports_or_without_a_way_to_remote_hosts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the file: there is no \[\[host\]\]; a switch needs ports"):
        parse('[switch]\nrate = "1G"\n')
    uplink = GOOD[GOOD.index("[[uplink]]") : GOOD.index("[[remote]]")]
    with pytest.raises(ConfigError, match=r"\[\[remote\]\] 1: there is no \[\[uplink\]\] that leads to hosts"):
        parse(GOOD.replace(uplink, "").replace("dscp_ports = [33]", ""))


def test_settings_of_the_tuner_are_passed_on() -> None:
    assert parse(GOOD).tuner == {}
    assert parse(GOOD + "[tuner.mlu]\nlate_target = 0.01\n").tuner == {"mlu": {"late_target": 0.01}}


def test_every_parameter_can_be_set_in_the_file_and_has_the_same_default() -> None:
    assert set(ParametersTable.model_fields) == {field.name for field in dataclasses.fields(SwitchParameters)}
    assert ParametersTable().parameters() == SwitchParameters()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.toml: No such file"):
        read(tmp_path / "missing.toml")
    path = tmp_path / "rack.toml"
    path.write_text("[switch")
    with pytest.raises(ConfigError, match=r"rack.toml: not valid TOML: Expected"):
        read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"rack.toml is not a TOML file"):
        read(path)
    path.write_text("\ufeff" + GOOD)
    assert read(path) == parse(GOOD)


def test_the_command_reports_a_mistake_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rack.toml"
    path.write_text(GOOD.replace("port = 5", "port = 1"))
    done = finished("ctrl", "--address", free_address(), "--config", str(path))
    assert "rack.toml: line 13: [[host]] 2, port: 1 is also that of [[host]] 1" in one_error(done)
