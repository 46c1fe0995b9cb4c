"""Paths of the flow-level fabrics: they exist, use no link twice, and equal-cost multipath (ECMP) spreads them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfs_eval.errors import ClusterError
from mfs_eval.flow_level.deep_queues import BufferedRacks
from mfs_eval.flow_level.fabric import Fabric, FatTree, Racks, racks_of
from mfs_eval.flow_level.shares import NONE
from mfs_eval.setup.scenario import SCENARIOS


def path(fabric: Fabric, source: int, destination: int, draw: int) -> tuple[int, ...]:
    [row] = fabric.paths(*(np.array([value]) for value in (source, destination, draw))).tolist()
    assert row == sorted(row, key=lambda link: link == NONE)  # nothing follows the last link
    return tuple(link for link in row if link != NONE)


TREES = [
    FatTree(servers=256, nics_per_server=8),
    FatTree(servers=256, nics_per_server=8, oversubscription=2),
    FatTree(servers=256, nics_per_server=8, oversubscription=4),
    FatTree(servers=6, nics_per_server=2, servers_per_edge=2, edges_per_pod=2),
]


@given(st.sampled_from(TREES), st.data())
def test_paths_of_a_fat_tree_go_up_then_down_and_no_higher_than_needed(tree: FatTree, data: st.DataObject) -> None:
    hosts = st.integers(0, tree.servers * tree.nics_per_server - 1)
    source, destination, draw = data.draw(hosts), data.draw(hosts), data.draw(st.integers(0, 2**32 - 1))
    links = path(tree, source, destination, draw)
    assert len(links) in (2, 4, 6)
    assert len(set(links)) == len(links)
    assert all(0 <= link < len(tree.rates_bps) for link in links)
    assert (links[0], links[-1]) == (2 * source, 2 * destination + 1)
    # The first half of a path goes up and the second half goes down.
    half = len(links) // 2
    assert all(link % 2 == 0 for link in links[:half])
    assert all(link % 2 == 1 for link in links[half:])
    # Paths within an edge switch or within a pod do not leave it.
    edge = tree.servers_per_edge * tree.nics_per_server
    if source // edge == destination // edge:
        assert len(links) == 2
    elif source // edge // tree.edges_per_pod == destination // edge // tree.edges_per_pod:
        assert len(links) == 4


def test_all_flows_over_an_aggregation_switch_reach_an_edge_switch_by_the_same_link() -> None:
    """The downlink to an edge switch depends only on the aggregation switch, not on the source of a flow."""
    tree = TREES[0]
    down = {path(tree, source, 1200, draw)[-2] for source in range(0, 256, 16) for draw in range(0, 256, 32)}
    assert len(down) == 1


@pytest.mark.parametrize("oversubscription", [1, 2, 4])
def test_ecmp_uses_all_uplinks_of_an_edge_switch_equally(oversubscription: int) -> None:
    tree = FatTree(servers=256, nics_per_server=8, oversubscription=oversubscription)
    used = Counter(path(tree, 0, 2000, draw)[1] for draw in range(3200))
    assert len(used) == tree.uplinks == 32 // oversubscription
    assert set(used.values()) == {3200 // tree.uplinks}


def test_impossible_fat_trees_are_refused() -> None:
    with pytest.raises(ClusterError, match="3:1"):
        FatTree(servers=4, nics_per_server=8, oversubscription=3)
    with pytest.raises(ClusterError, match="at least one"):
        FatTree(servers=0, nics_per_server=8)


def test_racks_are_those_of_the_packet_level_engine() -> None:
    one = racks_of(SCENARIOS["testbed"])
    assert path(one, 3, 9, 5) == (6, 19)
    two = racks_of(SCENARIOS["uplink-4"])
    assert isinstance(two, Racks)
    there = {path(two, 3, 9, draw)[1] for draw in range(8)}
    back = {path(two, 9, 3, draw)[1] for draw in range(8)}
    assert len(there) == len(back) == 2
    assert not there & back
    assert len(path(two, 0, 3, 1)) == 2
    assert max(there | back) == len(two.rates_bps) - 1


@pytest.mark.parametrize("name", ["testbed", "uplink-4"])
def test_a_flow_through_the_buffer_uses_the_same_links_as_without_it(name: str) -> None:
    racks = racks_of(SCENARIOS[name])
    buffered = BufferedRacks(racks)
    buffer = buffered.hosts - 1
    rates = buffered.rates_bps
    whole = [rates[link] for link in path(buffered, 1, 9, 5)]
    first, second = path(buffered, 1, buffer, 5), path(buffered, buffer, 9, 5)
    assert first[0] == path(buffered, 1, 9, 5)[0]
    assert second[1:] == path(buffered, 1, 9, 5)[1:]
    # The buffer itself is never the bottleneck.
    assert min(rates[first[1]], rates[second[0]]) > 100 * max(whole)
