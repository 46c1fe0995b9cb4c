"""The file of a fabric: what each switch gets to know, and what is said about mistakes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from mfs_ctrl import fabric_file, policies
from mfs_ctrl.desired import SwitchParameters, base_entities, initial_biases
from mfs_ctrl.errors import ConfigError
from mfs_ctrl.fabric import BF_RUNTIME, P4RUNTIME, SwitchSpec
from topologies.catalogue import switches
from topologies.topology import Topology, two_tors

EXAMPLE = Path(__file__).parents[2] / "examples" / "fabric.toml"
TEXT = EXAMPLE.read_text("utf-8")


def parsed(text: str, folder: Path = EXAMPLE.parent) -> dict[str, SwitchSpec]:
    return {spec.name: spec for spec in fabric_file.parse(text, folder)}


def wanted(topology: Topology) -> set[object]:
    return set(base_entities(topology, SwitchParameters(), initial_biases(topology)))


def test_links_give_each_switch_the_routes_and_neighbours_that_the_built_in_leaf_spine_has() -> None:
    specs = parsed(TEXT)
    for name, topology in switches("leaf-spine", 4, 1, 20_000_000).items():
        assert wanted(specs[name].topology) == wanted(topology), name
        assert specs[name].topology.rates == topology.rates
    assert [spec.address for spec in specs.values()] == [f"127.0.0.1:{port}" for port in range(9559, 9563)]


def test_two_racks_may_be_linked_directly() -> None:
    text = """
    fabric = { rate = "1G" }
    switch = [{ name = "a", address = "h:1", mac = "02:00:00:00:00:fe" },
              { name = "b", address = "h:2", mac = "02:00:00:00:00:fd" }]
    host = [{ switch = "a", port = 1, mac = "02:00:00:00:01:01", ipv4 = "10.0.1.1", ipv6 = "fd00::1:1" },
            { switch = "b", port = 1, mac = "02:00:00:00:02:01", ipv4 = "10.0.2.1", ipv6 = "fd00::2:1" }]
    link = [{ ends = ["a:2", "b:2"] }, { ends = ["b:3", "a:3"] }]
    """
    expected = two_tors(2, 1, 10**9, 1000, second_rack_from=1, uplinks=2)
    assert [wanted(spec.topology) for spec in parsed(text).values()] == [wanted(topology) for topology in expected]


def test_one_policy_is_tuned_and_parameterised_by_switch() -> None:
    specs = parsed(TEXT)
    assert {spec.policy.name for spec in specs.values()} == {"mfs"}
    assert {spec.policy.rules for spec in specs.values()} == {policies.mfs().rules}
    targets = {name: spec.policy.tuning["mlu"].late_target for name, spec in specs.items()}  # type: ignore[union-attr]
    assert targets == {"leaf1": 0.05, "leaf2": 0.02, "spine1": 0.05, "spine2": 0.05}
    assert specs["leaf1"].parameters.untrusted_ports == {2}
    assert specs["leaf2"].parameters.untrusted_ports == frozenset()
    of_all = parsed(TEXT + "[parameters]\nuntagged_level = 3\n")
    assert {spec.parameters.untagged_level for spec in of_all.values()} == {3}
    assert of_all["leaf1"].parameters.untrusted_ports == {2}


def test_a_policy_may_be_a_file_beside_that_of_the_fabric() -> None:
    plain = "\n".join(line for line in TEXT.splitlines() if "tuner.mlu" not in line and "late_target" not in line)
    specs = parsed(plain.replace('policy = "mfs"', 'policy = "policy/small-first.toml"'))
    assert {spec.policy.name for spec in specs.values()} == {"small-first"}


def test_certificates_device_ids_and_services_are_of_all_or_of_one(tmp_path: Path) -> None:
    text = TEXT.replace('rate = "20M"', 'rate = "20M"\ntls_ca = "ca.pem"\ntls_cert = "c.pem"\ntls_key = "c.key"')
    text = text.replace('name = "leaf2"', 'name = "leaf2"\ntls_ca = "/other/ca.pem"\ntarget = "bfrt"')
    specs = parsed(text, tmp_path)
    assert specs["leaf1"].tls is not None
    assert specs["leaf1"].tls.ca == tmp_path / "ca.pem"
    assert specs["leaf2"].tls is not None
    assert specs["leaf2"].tls.ca == Path("/other/ca.pem")
    assert specs["leaf2"].tls.key == tmp_path / "c.key"
    assert (specs["leaf1"].target, specs["leaf1"].device_id) == (P4RUNTIME, 1)
    assert (specs["leaf2"].target, specs["leaf2"].device_id) == (BF_RUNTIME, 0)
    assert parsed(TEXT)["leaf1"].tls is None


def test_a_switch_without_an_address_is_known_to_the_others_and_not_controlled() -> None:
    without = TEXT.replace('address = "127.0.0.1:9560"\n', "")
    specs = parsed(without)
    assert list(specs) == ["leaf1", "spine1", "spine2"]
    assert specs == {name: spec for name, spec in parsed(TEXT).items() if name != "leaf2"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('rate = "20M"', "", "line 4: [fabric], rate: is missing"),
        ("[fabric]", "[fabrik]", "line 4: [fabrik]: unknown table; the tables are fabric, switch, host, link"),
        ('policy = "mfs"', 'policy = "msf"', "line 5: [fabric], policy: there is no policy 'msf'"),
        ('name = "leaf1"', 'name = "leaf 1"', "line 12: [[switch]] 1, name: must be a name of letters"),
        ('name = "leaf2"', 'name = "leaf1"', "line 20: [[switch]] 2, name: leaf1 is also that of [[switch]] 1"),
        (":9560", ":9559", "line 21: [[switch]] 2, address: 127.0.0.1:9559, device 1 is also that of [[switch]] 1"),
        (":9560", "", "[[switch]] 2, address: must be HOST:PORT, such as \"10.9.0.1:9559\", not '127.0.0.1'"),
        ("[tuner.mlu]", "[parameters.mlu]", "[parameters], mlu: unknown key"),
        ("fd", "fe", "[[switch]] 2, mac: 02:00:00:00:00:fe is also that of [[switch]] 1"),
        (
            "untrusted_ports = [2]",
            "untrusted_ports = [9]",
            "line 17: [[switch]] 1, parameters.untrusted_ports: leaf1 has no port 9; it has 1, 2, 3, 4",
        ),
        ("untrusted_ports = [2]", "untrusted = [2]", "line 17: [[switch]] 1, parameters.untrusted: unknown key"),
        ("late_target = 0.02", "late_target = 2", "line 24: [[switch]] 2, tuner: policy mfs: mlu.late_target"),
        ("late_target = 0.05", "late = 0.05", "line 8: [tuner]: policy mfs: mlu.late"),
        ('role = "spine"', 'role = "core"', "line 29: [[switch]] 3, role: must be 'tor' or 'spine', not 'core'"),
        (
            'switch = "leaf1"',
            'switch = "leaf9"',
            "[[host]] 1, switch: no [[switch]] is called 'leaf9'; there are leaf1",
        ),
        ('switch = "leaf1"', 'switch = "spine1"', "[[host]] 1, switch: spine1 is a spine, and hosts are behind ToRs"),
        ('"leaf1:3"', '"leaf1"', '[[link]] 1, ends[0]: must be a switch and its port, such as "leaf1:5"'),
        ('"leaf1:3"', '"leaf1:1"', "[[link]] 1, port: port 1 of leaf1 is also that of [[host]] 1"),
        ('"leaf1:3"', '"spine2:3"', "[[link]] 1, ends: a spine has links to ToRs only"),
        ('"leaf1:4", "spine2:1"', '"leaf1:4", "leaf1:5"', "[[link]] 2, ends: both ends are of one switch"),
        ('"leaf1:4", "spine2:1"', '"leaf1:4", "spine1:3"', "[[link]] 2, ends: a second link between leaf1 and spine1"),
        ('ipv4 = "10.0.4.1"', 'ipv4 = "10.0.3.1"', "[[host]] 4, ipv4: 10.0.3.1 is also that of [[host]] 3"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_way_out(old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(TEXT.replace(old, new, 1))
    assert told in str(caught.value)


def test_a_link_that_does_not_lead_to_every_rack_is_refused() -> None:
    without = TEXT[: TEXT.rindex("[[link]]")]
    with pytest.raises(
        ConfigError, match=r"spine2 does not lead to leaf2, and leaf1 spreads packets.*link spine2 to leaf2"
    ):
        parsed(without)


def test_other_contradictions_are_refused(tmp_path: Path) -> None:
    for text, told in (
        (
            TEXT + "[parameters]\nuntrusted_ports = [1]\n",
            "names ports, so it is of one switch: write it in [switch.par",
        ),
        (TEXT.replace("address", "# address"), "no [[switch]] has an address, so there is nothing to control"),
        (TEXT.replace('rate = "20M"', 'rate = "20M"\ntls_cert = "c.pem"'), "tls_cert and tls_key go together"),
        (
            TEXT + '[policy_server]\nlisten = "0"\ntls_cert = "c.pem"\n',
            "[policy_server]: tls_cert and tls_key go together",
        ),
        (TEXT + '[policy_server]\nlisten = "0"\ntls_client_ca = "c.pem"\n', "tls_client_ca needs both"),
        (TEXT + '[policy_server]\ntls_cert = "c.pem"\n', "[policy_server], listen: is missing"),
        (
            TEXT + '[[switch]]\nname = "new"\nmac = "02:00:00:00:00:aa"\n',
            "new has no ports; add a [[host]] or a [[link]]",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            parsed(text)
        assert told in str(caught.value)
    with pytest.raises(ConfigError, match=r"missing\.toml: No such file"):
        fabric_file.read(tmp_path / "missing.toml")


@pytest.mark.parametrize("value", ["5", '"x"', "[]", "{}", "true", "[1]", '["x"]', None])
def test_whatever_stands_in_a_line_ends_in_switches_or_in_a_message(value: str | None) -> None:
    lines = TEXT.splitlines()
    refused = 0
    for number, line in enumerate(lines):
        key, equals, _ = line.partition("=")
        changed = f"{key}= {value}" if value is not None and equals else ""
        with contextlib.suppress(ConfigError):
            parsed("\n".join([*lines[:number], changed, *lines[number + 1 :]]))
            continue
        refused += 1
    assert refused > 20
