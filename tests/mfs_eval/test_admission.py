"""Requests that can no longer be in time are computed after the others (mfs_eval.serving.admission)."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from mfs_eval.serving import cluster
from mfs_eval.serving.admission import defer_infeasible, least_ns
from mfs_eval.serving.batching import Job
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.ideal_network import IdealNetwork
from mfs_eval.serving.placement import place
from mfs_eval.serving.prefix_cache import Reuse
from tests.mfs_eval.test_serving import SECOND, TINY, operations, request, run, tiny

ONE_UNIT = Cluster(3, 1, 1, units=((0, 1),), decode_servers=(2,))


def job(index: int, tokens: int, deadline_ns: int) -> Job:
    return Job(request(index, tokens), 0, 4, deadline_ns, Reuse(0, 0, None))


def test_the_least_time_is_the_time_alone_with_kv_sent_beside_the_collective() -> None:
    config = tiny(replace(cluster.testbed(), nic_bits_per_second=8_000))
    config = replace(config, hand_over_early=True)
    alone = run(config, [request(0, 100)], IdealNetwork(8_000)).records[0].ttft_ns
    assert abs(least_ns(config, job(0, 100, 0)) - alone) <= 10
    compute = 4 * operations(100) * SECOND // 800
    assert least_ns(config, job(0, 100, 0)) > compute
    assert least_ns(replace(config, collective_factor=0.0), job(0, 100, 0)) == compute


def test_the_least_time_is_never_more_than_the_time_alone() -> None:
    for scale, layers_per_step in ((1, 1), (3, 4), (10, 3)):
        config = ServingConfig(
            replace(cluster.testbed(), nic_bits_per_second=80_000), TINY, tiny().gpu, 8192, layers_per_step, scale
        )
        for tokens in (77, 3000):
            alone = run(config, [request(0, tokens)]).records[0].ttft_ns
            assert least_ns(config, job(0, tokens, 0)) <= 1.001 * alone  # whole bytes there


def test_infeasible_requests_move_behind_the_others_and_both_parts_keep_their_order() -> None:
    config = tiny(ONE_UNIT)
    need = least_ns(config, job(0, 100, 0))
    jobs = [job(0, 100, need - 1), job(1, 100, need), job(2, 100, 0), job(3, 100, need + 1)]
    queue = deque(jobs)
    defer_infeasible(config, queue, 0)
    assert [one.request.index for one in queue] == [1, 3, 0, 2]
    defer_infeasible(config, queue, 1)
    assert [one.request.index for one in queue] == [3, 1, 0, 2]


def test_feasible_requests_are_computed_before_infeasible_ones() -> None:
    def order(last: bool) -> list[int]:
        config = replace(tiny(ONE_UNIT, batch_tokens=100), defer_infeasible=last)
        requests = [request(index, 100, first_block=10 * index) for index in range(3)]
        slo_ns = {0: 10**6 * SECOND, 1: 1, 2: 10**6 * SECOND}
        network = IdealNetwork(config.scaled_nic_bits_per_second)
        serving = Serving(config, network, requests, slo_ns, place(requests, 1))
        serving.start()
        network.run()
        return [batch.requests[0] for batch in serving.batches]

    assert order(last=False) == [0, 1, 2]
    assert order(last=True) == [0, 2, 1]
