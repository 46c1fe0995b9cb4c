"""The parts of the serving model: clusters, prefix caches, placement, batches, metrics and the ideal network.

Covers mfs_eval.serving.cluster, prefix_cache, placement, batching, metrics and ideal_network.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from mfs_eval.errors import ClusterError, ServingError
from mfs_eval.serving import cluster
from mfs_eval.serving.batching import Job, form_batch
from mfs_eval.serving.ideal_network import IdealNetwork
from mfs_eval.serving.metrics import RequestRecord, percentile, summarise
from mfs_eval.serving.placement import Placement, place
from mfs_eval.serving.prefill_batch import BatchRecord
from mfs_eval.serving.prefix_cache import PrefixCache, Reuse
from mfs_eval.serving.trace import SAMPLE_PATH, Request, block_count, load_trace, with_poisson_arrivals
from soft_switch.sim.events import ClockError

SECOND = 10**9


def request(index: int, tokens: int, arrival_ns: int = 0, first_block: int = 0) -> Request:
    return Request(index, arrival_ns, tokens, 1, tuple(range(first_block, first_block + block_count(tokens))))


def test_a_cache_keeps_recently_used_blocks_and_the_beginning_of_a_prompt_longest() -> None:
    caches = PrefixCache(1, capacity_blocks=3)
    caches.insert(0, [1, 2, 3])
    caches.insert(0, [9])
    assert caches.prefix_blocks(0, [1, 2, 3]) == 2
    assert caches.prefix_blocks(0, [9]) == 1
    with pytest.raises(ServingError, match="capacity"):
        PrefixCache(1, -1)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    caches = PrefixCache(2)
    caches.insert(1, [0, 1])
    assert caches.reuse(0, request(0, 1024)) == Reuse(0, 1023, 1)
    assert caches.reuse(1, request(0, 1024)) == Reuse(1023, 0, None)


def test_warming_fills_the_caches_in_turn() -> None:
    caches = PrefixCache(2)
    caches.warm([request(0, 512), request(1, 512, first_block=5)])
    assert (caches.prefix_blocks(0, [0]), caches.prefix_blocks(1, [5]), caches.prefix_blocks(0, [5])) == (1, 1, 0)


def test_requests_go_to_the_unit_with_the_fewest_new_tokens_so_far() -> None:
    requests = [request(n, tokens, first_block=100 * n) for n, tokens in enumerate((100, 30, 30, 30, 50, 50))]
    placements = place(requests, 2)
    assert {index: placement.unit for index, placement in placements.items()} == {0: 0, 1: 1, 2: 1, 3: 1, 4: 1, 5: 0}
    with pytest.raises(ServingError, match="at least one prefill unit"):
        place(requests, 0)


def test_the_prefix_of_a_placed_request_is_held_for_the_next() -> None:
    """Its unit holds it and the others fetch it; reused tokens do not count as new tokens of a unit."""
    grown = replace(request(1, 1500), blocks=(0, 1, 77))
    placements = place([request(0, 1024), grown, request(2, 600), replace(grown, index=3)], 2)
    assert placements == {
        0: Placement(0, Reuse(0, 0, None)),
        1: Placement(1, Reuse(0, 1024, 0)),  # 476 new tokens
        2: Placement(1, Reuse(599, 0, None)),  # 1 new token
        3: Placement(1, Reuse(1499, 0, None)),
    }


def test_placement_considers_earlier_requests_and_the_cache_limit() -> None:
    served = [request(0, 512, first_block=50), request(1, 1024)]
    assert place([request(2, 1100)], 2, served) == {2: Placement(0, Reuse(0, 1024, 1))}
    forgotten = [request(2, 1024), request(3, 1024, first_block=50), request(4, 1024)]
    assert place(forgotten, 1, cache_blocks=2)[4] == Placement(0, Reuse(0, 0, None))
    assert place(forgotten, 1)[4] == Placement(0, Reuse(1023, 0, None))


def test_placement_ignores_arrival_times() -> None:
    requests = load_trace(SAMPLE_PATH, limit=200)
    placements = place(requests, 3)
    assert place(with_poisson_arrivals(requests, 5.0, seed=2), 3) == placements
    assert {placement.unit for placement in placements.values()} == {0, 1, 2}


def test_metrics_are_those_computed_by_hand() -> None:
    base = RequestRecord(
        0, 0, 4, 0, 40 * SECOND, 10 * SECOND, 1, 1, 0, 0, SECOND, 4 * SECOND, SECOND, 3 * SECOND, SECOND
    )
    late = replace(base, index=1, ttft_ns=50 * SECOND, queued_ns=41 * SECOND)
    batch = BatchRecord(1, 0, 0, 9, 9, (0, 1), 2, 1, 1, 6 * SECOND, (SECOND, 2 * SECOND, 3 * SECOND))
    summary = summarise([base, late], [batch])
    assert summary.requests == 2
    assert summary.slo_attainment == 0.5
    assert (summary.ttft_mean_s, summary.ttft_p50_s, summary.ttft_p99_s) == (30.0, 10.0, 50.0)
    assert summary.earliness_mean_s == (30 - 10) / 2
    assert summary.network_share == pytest.approx((5 / 10 + 5 / 50) / 2)
    assert summary.queued_share == pytest.approx((1 / 10 + 41 / 50) / 2)
    assert (summary.collective_mean_s, summary.collective_p99_s) == (2.0, 3.0)
    assert summarise([], []).slo_attainment == 0.0
    assert [percentile(range(1, 101), share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]


def test_an_ideal_network_has_exact_times() -> None:
    fluid = IdealNetwork(8_000, latency_ns=7)
    assert fluid.flow_ns(1000) == SECOND + 7
    # Two packets with 50 bytes of headers each, the first stored and forwarded once.
    assert IdealNetwork(8_000, 0, packet_bytes=100, header_bytes=50).flow_ns(150) == (250 + 150) * SECOND // 1000
    seen: list[int] = []
    fluid.call_at(20, seen.append, 2)
    fluid.call_at(10, seen.append, 1)
    fluid.call_at(20, seen.append, 3)
    fluid.run(until_ns=15)
    assert (seen, fluid.now_ns) == ([1], 15)
    fluid.run()
    assert seen == [1, 2, 3]
    with pytest.raises(ClockError, match="cannot schedule"):
        fluid.call_at(5, seen.append, 4)
    with pytest.raises(ServingError, match="rate"):
        IdealNetwork(0)


def test_a_whole_collective_leaves_a_host_flow_by_flow() -> None:
    network = IdealNetwork(8_000, whole_collectives=True)  # one byte per millisecond
    ended: list[int] = []
    for source, batch, stage in ((0, 1, Stage.COLLECTIVE), (0, 1, Stage.COLLECTIVE), (0, 2, Stage.COLLECTIVE)):
        network.start_flow(source, FlowSpec(5, batch, stage, 0, 10), ended.append)
    network.start_flow(0, FlowSpec(5, 1, Stage.P2D, 0, 10), ended.append)
    network.run()
    # The second flow of the batch waits for the first; another batch or another stage does not.
    assert sorted(end // 1_000_000 for end in ended) == [10, 10, 10, 20]


def test_forming_a_batch_leaves_the_rest_of_a_job_at_the_head() -> None:
    jobs = [Job(request(n, 80, first_block=9 * n), 0, 4, 0, Reuse(0, 0, None)) for n in range(2)]
    queue = deque(jobs)
    chunks = form_batch(queue, budget=100)
    assert [(chunk.tokens, chunk.context, chunk.tokens_after) for chunk in chunks] == [(80, 0, 0), (20, 0, 60)]
    assert list(queue) == jobs[1:]
    (rest,) = form_batch(queue, budget=100)
    assert (rest.tokens, rest.context, rest.tokens_after, rest.fetched_tokens) == (60, 20, 0, 0)
    assert not queue


def test_reused_tokens_are_fetched_with_the_first_chunk_of_a_job() -> None:
    queue = deque([Job(request(0, 1100), 0, 4, 0, Reuse(512, 400, 1))])
    chunks = [form_batch(queue, budget=100)[0] for _ in range(2)]
    assert [(chunk.fetched_tokens, chunk.holder) for chunk in chunks] == [(400, 1), (0, None)]
    assert [(chunk.tokens, chunk.context) for chunk in chunks] == [(100, 912), (88, 1012)]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"units": ((0, 1), (1, 2))}, "server 1 belongs to more than one"),
        ({"units": ()}, "at least one prefill unit"),
        ({"units": ((0, 9),)}, "server 9 does not exist"),
        ({"decode_servers": (8,)}, "server 8 does not exist"),
        ({"decode_servers": ()}, "at least one decode server"),
        ({"nics_per_server": 0}, "at least one server, NIC and GPU"),
    ],
)
def test_contradictory_clusters_are_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ClusterError, match=complaint):
        replace(cluster.testbed(), **changes)  # type: ignore[arg-type]


def test_a_cluster_numbers_hosts_by_server_and_nic() -> None:
    testbed = cluster.testbed()
    assert (testbed.hosts, testbed.host(3, 1)) == (16, 7)
    assert (testbed.unit_hosts(1), testbed.unit_gpus(1)) == ((4, 5, 6, 7), 8)
