"""Topologies: reachability, as data, as entries of the switches, and as network namespaces on the real kernel."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

import topologies as topologies_package
from mfs_ctrl.desired import SwitchParameters, base_entities, initial_biases
from mfs_ctrl.p4rt.entries import ActionCall, Exact, GroupRef, Lpm, ProfileGroup, ProfileMember, TableEntry
from tests.support.cli import finished, one_error
from tests.support.imports import modules_loaded_by
from tests.support.realtime import controlled, fresh_prefix, needs_ping, real_kernel, switch_on
from topologies import catalogue, cleanup, namespaces
from topologies.errors import TopologyError
from topologies.topology import End, Topology, cables, leaf_spine, tor, two_tors


class Routing:
    """The routes in the entries of one switch."""

    def __init__(self, topology: Topology) -> None:
        entities = base_entities(topology, SwitchParameters(), initial_biases(topology))
        hops = {item.member_id: item.call.args for item in entities if isinstance(item, ProfileMember)}
        groups = {item.group_id: [m for m, _ in item.members] for item in entities if isinstance(item, ProfileGroup)}
        rows = [item for item in entities if isinstance(item, TableEntry)]
        group_of = {
            row.match[0][1].value: row.target.group_id
            for row in rows
            if row.table == "next_hop" and isinstance(row.match[0][1], Exact) and isinstance(row.target, GroupRef)
        }
        self.hops = {
            (row.table, row.match[0][1].value): [hops[m] for m in groups[group_of[row.target.args[0]]]]
            for row in rows
            if row.table in ("ipv4_route", "ipv6_route")
            and isinstance(row.match[0][1], Lpm)
            and isinstance(row.target, ActionCall)
        }


def reaches(topologies: Sequence[Topology], start: int, address: IPv4Address | IPv6Address, port: int) -> bool:
    """Whether every path of packets for ``address`` from the switch ``start`` ends at ``port`` of the host's switch."""
    across = {end: other for pair in cables(topologies) for end, other in (pair, pair[::-1])}
    routings = [Routing(topology) for topology in topologies]
    ways = [(start, 0)]
    while ways:
        switch, length = ways.pop()
        assert length < 4, "packets loop"
        for out, source_mac, _ in routings[switch].hops[f"ipv{address.version}_route", int(address)]:
            assert source_mac == int.from_bytes(topologies[switch].switch_mac, "big")
            other = across.get(End(switch, out))
            if other is not None:
                ways.append((other.switch, length + 1))
            elif out != port:
                return False
    return True


@pytest.mark.parametrize(
    "topologies",
    [
        (tor(3, 2),),
        two_tors(4, 2, 1_000, 0, second_rack_from=1, uplinks=3),
        leaf_spine(5, 2, spines=1),
        leaf_spine(8, 1, spines=3, uplink_rate_bps=5),
    ],
)
def test_every_host_is_reached_from_every_switch_over_all_paths(topologies: tuple[Topology, ...]) -> None:
    for topology in topologies:
        for host in topology.hosts:
            for start in range(len(topologies)):
                assert reaches(topologies, start, host.ipv4, host.port)
                assert reaches(topologies, start, host.ipv6, host.port)


def test_each_tor_has_a_cable_to_each_spine_and_rates_agree_at_both_ends() -> None:
    topologies = leaf_spine(8, 1, 1000, spines=2, uplink_rate_bps=500)
    found = cables(topologies)
    assert {(near.switch, far.switch) for near, far in found} == {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert len({end for pair in found for end in pair}) == 8
    assert all(topologies[end.switch].rates[end.port] == 500 for pair in found for end in pair)


def test_unconnected_cables_and_impossible_sizes_are_refused() -> None:
    near, far = two_tors(4, 1, 1_000, 0, second_rack_from=2)
    with pytest.raises(ValueError, match="leads to a switch that is not among"):
        cables([near])
    with pytest.raises(ValueError, match="argument"):
        cables([near, dataclasses.replace(far, uplinks=())])
    with pytest.raises(ValueError, match="1 to 8 spine"):
        leaf_spine(spines=0)
    with pytest.raises(TopologyError, match="no topology 'ring'"):
        catalogue.switches("ring")
    with pytest.raises(TopologyError, match="choose one with --node"):
        catalogue.chosen("leaf-spine", "leaf3", 8, 1, 1000)
    with pytest.raises(TopologyError, match="needs a server"):
        catalogue.switches("leaf-spine", servers=1)


def test_cleaners_of_parts_that_are_not_installed_are_skipped() -> None:
    assert cleanup.clean(["nosuchpart.module:function", "tests.topologies.test_topologies:left_nothing"]) == []


def test_the_public_names_need_only_the_standard_library() -> None:
    modules = modules_loaded_by(f"from topologies import {', '.join(topologies_package.__all__)}")
    loaded = {name.partition(".")[0] for name in modules}
    assert {"topologies", "host_agent"} <= loaded
    assert loaded & {"click", "pyroute2", "mininet", "google", "grpc", "soft_switch"} == set()


def left_nothing() -> list[str]:
    return []


@real_kernel
def test_topologies_are_set_up_and_taken_down_by_command() -> None:
    prefix = fresh_prefix()
    try:
        done = finished("topology", "up", "tor", "--servers", "2", "--prefix", prefix)
        assert done.returncode == 0, done.stderr
        assert f"-i 1@{prefix}-s1n1@20000000 -i 2@{prefix}-s2n1@20000000" in done.stdout
        again = one_error(finished("topology", "up", "tor", "--servers", "2", "--prefix", prefix))
        assert f"mfs clean --prefix {prefix}" in again
        told = finished("clean", "--dry-run", "--prefix", prefix).stdout
        assert told == f"would remove {prefix}-s1n1, {prefix}-s2n1, {prefix}-s1, {prefix}-s2\n"
        assert standing(prefix) != ""
        # As after a crash: everything is found by name.
        done = finished("clean", "--prefix", prefix)
        assert f"{prefix}-s1n1" in done.stdout
        assert standing(prefix) == ""
        assert finished("clean", "--prefix", prefix).stdout == "nothing to remove\n"
    finally:
        namespaces.clean(prefix)
    listed = finished("topology", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(catalogue.CATALOGUE)


@real_kernel
@pytest.mark.parametrize("time_stamps", [False, True])
def test_servers_have_the_same_tcp_on_every_machine(time_stamps: bool) -> None:
    def setting(name: str) -> str:
        return (Path("/proc/sys/net/ipv4") / name).read_text().strip()

    with namespaces.standing([tor(1, 1, 1000)], fresh_prefix(), time_stamps=time_stamps) as realised:
        for namespace in realised.namespaces.values():
            found = namespaces.inside(namespace, lambda: setting("tcp_timestamps"))
            assert found == str(int(time_stamps))
            assert namespaces.inside(namespace, lambda: setting("tcp_congestion_control")) == "cubic"


@real_kernel
def test_servers_have_cubic_on_a_machine_that_allows_others_only() -> None:
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    before = allowed.read_text()
    if Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text() == "cubic\n":
        pytest.skip("the machine's own congestion control is cubic, which is therefore always allowed")
    try:
        allowed.write_text("reno")
        with namespaces.standing([tor(1, 1, 1000)], fresh_prefix()):
            assert "cubic" in allowed.read_text().split()
    finally:
        allowed.write_text(before)


@real_kernel
def test_topologies_that_stand_side_by_side_have_management_addresses_of_their_own() -> None:
    with contextlib.ExitStack() as stack:
        stand = partial(namespaces.standing, [tor(2, 1, 1000)], management=True)
        both = [stack.enter_context(stand(prefix=fresh_prefix())) for _ in range(2)]
        for realised in both:
            for server, address in realised.management.items():
                with socket.create_server((address, 0)) as listener:
                    there = listener.getsockname()
                    dial = partial(socket.create_connection, there, timeout=5)
                    namespaces.inside(realised.namespaces[server], dial).close()
                    arrived, _ = listener.accept()
                    arrived.close()
        assert len({address for realised in both for address in realised.management.values()}) == 4


@needs_ping
@real_kernel
def test_hosts_of_two_racks_reach_each_other_over_the_spine() -> None:
    topologies = leaf_spine(2, 1, 20_000_000, spines=1)
    with (
        namespaces.standing(topologies, fresh_prefix()) as realised,
        contextlib.ExitStack() as stack,
    ):
        addresses = [
            stack.enter_context(switch_on(realised, topology, number))[0] for number, topology in enumerate(topologies)
        ]
        for address, topology in zip(addresses, topologies, strict=True):
            stack.enter_context(controlled(address, topology))
        target = topologies[1].hosts[0].ipv4
        ping = ["ip", "netns", "exec", realised.namespaces[0], "ping", "-c", "2", "-i", "0.05", "-W", "3", str(target)]
        done = subprocess.run(ping, capture_output=True, text=True, check=False)
        assert " 2 received" in done.stdout, done.stdout + done.stderr


def standing(prefix: str) -> str:
    """The namespaces and interfaces with the prefix."""
    lists = [
        subprocess.run(["ip", *what], capture_output=True, text=True, check=True).stdout.splitlines()
        for what in (("netns", "list"), ("-o", "link"))
    ]
    return "\n".join(line for lines in lists for line in lines if f"{prefix}-" in line)
