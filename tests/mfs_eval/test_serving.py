"""The serving model on a network without contention: times computed by hand, batching, reuse and objectives.

Covers mfs_eval.serving.prefill_batch, batch_flows, engine and objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from mfs_eval.errors import ServingError
from mfs_eval.serving import cluster
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.costs import GPU, ModelShape
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.generator import generate
from mfs_eval.serving.ideal_network import IdealNetwork
from mfs_eval.serving.metrics import summarise
from mfs_eval.serving.objectives import low_load_records, objectives
from mfs_eval.serving.placement import Placement, place
from mfs_eval.serving.prefix_cache import Reuse
from mfs_eval.serving.trace import SAMPLE_PATH, Request, block_count, load_trace, with_poisson_arrivals

# Small enough to compute by hand. Per token and layer: KV of 4 bytes, 24 operations of projections (12 weights), 48 of
# two experts (12 weights each), 16 of the router, 8 of attention per key, all-to-all of 2 x 2 x 2 x 2 = 16 bytes.
TINY = ModelShape("tiny", layers=4, hidden=2, heads=2, kv_heads=1, head_dim=1, intermediate=2, experts=4,
                  experts_per_token=2, vocab=10)  # fmt: skip
SECOND = 10**9
SLOW_GPU = GPU("slow", peak_flops=100.0, efficiency=1.0)


class RecordingNetwork(IdealNetwork):
    """An ideal network that records the calls."""

    def __init__(self, bits_per_second: int, latency_ns: int = 0) -> None:
        super().__init__(bits_per_second, latency_ns)
        self.flows: list[tuple[int, int, FlowSpec]] = []
        self.layers: list[tuple[int, tuple[int, ...], int, int]] = []

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        self.flows.append((self.now_ns, source_host, spec))
        super().start_flow(source_host, spec, on_complete)

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        self.layers.append((self.now_ns, tuple(hosts), batch, layer))

    def of(self, stage: Stage) -> list[tuple[int, int, FlowSpec]]:
        return [flow for flow in self.flows if flow[2].stage == stage]


def request(index: int, tokens: int, arrival_ns: int = 0, first_block: int = 0) -> Request:
    return Request(index, arrival_ns, tokens, 1, tuple(range(first_block, first_block + block_count(tokens))))


def run(
    config: ServingConfig,
    requests: Sequence[Request],
    network: IdealNetwork | None = None,
    placements: Mapping[int, Placement] | None = None,
    slo_ns: int = 1000 * SECOND,
) -> Serving:
    network = IdealNetwork(config.scaled_nic_bits_per_second) if network is None else network
    placements = place(requests, len(config.cluster.units)) if placements is None else placements
    serving = Serving(config, network, requests, {request.index: slo_ns for request in requests}, placements)
    serving.start()
    network.run()
    assert serving.unfinished == 0
    return serving


def tiny(on: Cluster | None = None, **options: int) -> ServingConfig:
    return ServingConfig(cluster.testbed() if on is None else on, TINY, SLOW_GPU, **options)


def operations(tokens: int, context: int = 0) -> int:
    return tokens * (24 + 48 + 16) + 8 * sum(range(context + 1, context + tokens + 1))


def test_a_single_request_takes_the_time_computed_by_hand() -> None:
    """Computation and all-to-all of four layers in sequence, then the KV of the last layer."""
    network = RecordingNetwork(8 * 1000)  # 1,000 bytes per second
    record = run(tiny(), [request(0, 100)], network).records[0]
    compute = operations(100) * SECOND // (100 * 8)
    # 100 tokens x 16 bytes, a quarter of it from one server to the other, over two NICs: 200 bytes.
    collective = 200 * SECOND // 1000
    # 100 tokens x 4 bytes per layer from four NICs: 100 bytes each.
    tail = 100 * SECOND // 1000
    assert record.compute_ns == 4 * compute
    assert record.stage2_ns == 4 * collective
    assert record.tail_ns == tail
    assert record.ttft_ns == 4 * (compute + collective) + tail
    assert (record.queued_ns, record.stage1_wait_ns, record.batches, record.new_tokens) == (0, 0, 1, 100)
    assert record.network_share == pytest.approx((4 * collective + tail) / record.ttft_ns)


def test_the_flows_of_a_single_request_follow_the_rails_and_the_layers() -> None:
    network = RecordingNetwork(8 * 1000)
    serving = run(tiny(), [request(1, 100)], network)
    assert not network.of(Stage.KV_REUSE)
    # Along the rails in both directions between servers 0 and 1, once per layer.
    first = [(source, spec.destination) for _, source, spec in network.of(Stage.COLLECTIVE)[:4]]
    assert sorted(first) == [(0, 2), (1, 3), (2, 0), (3, 1)]
    assert [spec.target_layer for _, _, spec in network.of(Stage.COLLECTIVE)] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    # Request 1 goes to the second decode server, number 5, whose NICs are hosts 10 and 11.
    p2d = network.of(Stage.P2D)
    assert sorted((source, spec.destination) for _, source, spec in p2d[:4]) == [(0, 10), (1, 11), (2, 10), (3, 11)]
    assert [(spec.total_bytes, spec.beyond_bytes, spec.target_layer) for _, _, spec in p2d[::4]] == [
        (100, 300, 4), (100, 200, 4), (100, 100, 4), (100, 0, 4)
    ]  # fmt: skip
    assert {spec.batch for _, _, spec in network.flows} == {1}
    assert {spec.deadline_ns for _, _, spec in network.flows} == {1000 * SECOND}
    # Agents learn of progress before the KV of the layer is sent, and finally that the batch is computed.
    assert [(hosts, layer) for _, hosts, _, layer in network.layers] == [((0, 1, 2, 3), n) for n in (1, 2, 3, 4)]
    assert [time for time, *_ in network.layers] == [time for time, *_ in p2d[::4]]
    assert serving.batches[0].end_ns == network.layers[-1][0]


def test_kv_can_be_sent_during_the_collective() -> None:
    """The 100 bytes of KV per NIC arrive before the 200 of the last collective, so there is no tail."""
    network = RecordingNetwork(8 * 1000)
    record = run(replace(tiny(), hand_over_early=True), [request(0, 100)], network).records[0]
    assert record.tail_ns == 0
    assert record.ttft_ns == record.compute_ns + record.stage2_ns
    times = [{time for time, _, spec in network.of(stage)} for stage in (Stage.P2D, Stage.COLLECTIVE)]
    assert times[0] == times[1]
    assert [spec.beyond_bytes for _, _, spec in network.of(Stage.P2D)[::4]] == [300, 200, 100, 0]


def test_combining_layers_changes_neither_bytes_nor_compute_time() -> None:
    fine, coarse = RecordingNetwork(8 * 1000), RecordingNetwork(8 * 1000)
    one = run(tiny(), [request(0, 100)], fine)
    three = run(tiny(layers_per_step=3), [request(0, 100)], coarse)
    for stage in (Stage.COLLECTIVE, Stage.P2D):
        assert coarse.bytes_by_stage[stage] == fine.bytes_by_stage[stage]
        assert coarse.flows_by_stage[stage] == 2 * 4
    assert three.batches[0].compute_ns == one.batches[0].compute_ns
    assert three.batches[0].stage2_ns == one.batches[0].stage2_ns
    assert [layer for *_, layer in coarse.layers] == [3, 4]


def test_scale_changes_bytes_but_not_times() -> None:
    requests = [request(0, 1000), request(1, 700, first_block=5)]
    whole = tiny(replace(cluster.testbed(), nic_bits_per_second=8_000_000))
    scaled = replace(whole, scale=100)
    assert scaled.scaled_nic_bits_per_second == 80_000
    big, small = RecordingNetwork(8_000_000), RecordingNetwork(80_000)
    assert [r.ttft_ns for r in run(whole, requests, big).records] == [
        r.ttft_ns for r in run(scaled, requests, small).records
    ]
    assert small.bytes_by_stage[Stage.P2D] * 100 == big.bytes_by_stage[Stage.P2D]
    tiny_flows = RecordingNetwork(1)
    run(replace(whole, scale=10**9), requests[:1], tiny_flows)
    assert {spec.total_bytes for _, _, spec in tiny_flows.flows} == {1}


def test_long_prompts_are_computed_in_chunks() -> None:
    network = RecordingNetwork(10**15)
    serving = run(tiny(batch_tokens=100), [request(0, 250)], network)
    (record,) = serving.records
    assert [batch.tokens for batch in serving.batches] == [100, 100, 50]
    assert record.batches == 3
    per_layer = [operations(100), operations(100, 100), operations(50, 200)]
    assert record.compute_ns == sum(4 * flops * SECOND // 800 for flops in per_layer)
    # The first chunk's KV is stamped with the bytes of the later chunks too: (250 x 4 - 100) tokens of 4 bytes.
    assert network.of(Stage.P2D)[0][2].beyond_bytes == (250 * 4 - 100) * 4 // 4
    assert network.of(Stage.P2D)[-1][2].beyond_bytes == 0
    assert sum(spec.total_bytes for _, _, spec in network.of(Stage.P2D)) == 250 * 4 * 4


def test_waiting_requests_share_a_batch_in_order_of_arrival() -> None:
    requests = [request(n, tokens, first_block=100 * n) for n, tokens in enumerate((60, 40, 30, 50, 20))]
    one_unit = Cluster(3, 1, 1, units=((0, 1),), decode_servers=(2,))
    serving = run(tiny(one_unit, batch_tokens=100), requests)
    # The first request finds an idle unit. The others wait: 40 + 30 + 30 of 50, then the remaining 20 and 20.
    assert [batch.requests for batch in serving.batches] == [(0,), (1, 2, 3), (3, 4)]
    assert [batch.tokens for batch in serving.batches] == [60, 100, 40]
    by_index = {record.index: record for record in serving.records}
    assert by_index[1].queued_ns == serving.batches[0].end_ns
    assert by_index[4].queued_ns == serving.batches[1].end_ns
    assert by_index[3].batches == 2


def test_requests_are_computed_where_they_are_placed() -> None:
    requests = [request(n, 100, first_block=100 * n) for n in range(4)]
    units = {0: 1, 1: 1, 2: 0, 3: 1}
    placements = {index: Placement(unit, Reuse(0, 0, None)) for index, unit in units.items()}
    assert {record.index: record.unit for record in run(tiny(), requests, placements=placements).records} == units


def test_the_speed_of_the_network_changes_times_but_not_the_work() -> None:
    """Units, reuse and the bytes of each stage are the same; only the composition of batches differs."""
    requests = with_poisson_arrivals(load_trace(SAMPLE_PATH, limit=120), 5.0, seed=2)
    config = ServingConfig(cluster.testbed(), TINY, GPU("g", 1e7, 1.0))
    fast, slow = RecordingNetwork(10**9), RecordingNetwork(10**5)
    runs = [run(config, requests, network) for network in (fast, slow)]
    assert runs[0].batches != runs[1].batches
    work = [
        {record.index: (record.unit, record.local_tokens, record.fetched_tokens) for record in serving.records}
        for serving in runs
    ]
    assert work[0] == work[1]
    assert fast.bytes_by_stage == slow.bytes_by_stage
    assert min(fast.bytes_by_stage[stage] for stage in (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D)) > 0


def test_a_prefix_that_the_unit_holds_costs_neither_compute_nor_network() -> None:
    network = RecordingNetwork(8 * 1000)
    (record,) = run(tiny(), [request(0, 1100)], network, {0: Placement(0, Reuse(1024, 0, None))}).records
    assert (record.local_tokens, record.fetched_tokens, record.new_tokens) == (1024, 0, 76)
    assert record.compute_ns == 4 * operations(76, 1024) * SECOND // 800
    assert not network.of(Stage.KV_REUSE)
    assert sum(spec.total_bytes for _, _, spec in network.of(Stage.P2D)) == 76 * 4 * 4


def test_a_prefix_that_another_unit_holds_is_fetched_layer_by_layer() -> None:
    network = RecordingNetwork(8 * 1000)
    (record,) = run(tiny(), [request(0, 1100)], network, {0: Placement(0, Reuse(512, 512, 1))}).records
    assert (record.unit, record.local_tokens, record.fetched_tokens) == (0, 512, 512)
    fetches = network.of(Stage.KV_REUSE)
    # From servers 2 and 3 (hosts 4 to 7) to servers 0 and 1 along the rails, all steps at once.
    assert sorted((source, spec.destination) for _, source, spec in fetches[:4]) == [(4, 0), (5, 1), (6, 2), (7, 3)]
    assert {time for time, *_ in fetches} == {0}
    assert [spec.target_layer for _, _, spec in fetches[::4]] == [0, 1, 2, 3]
    assert {spec.total_bytes for _, _, spec in fetches} == {512 * 4 // 4}
    # 512 bytes take 0.512 s here: the first layer waits for its KV, and that of the others arrives meanwhile.
    assert record.stage1_wait_ns == 512 * SECOND // 1000
    assert record.ttft_ns == (
        record.queued_ns + record.compute_ns + record.stage1_wait_ns + record.stage2_ns + record.tail_ns
    )


def test_prefixes_computed_in_the_run_are_reused_or_fetched() -> None:
    first = request(0, 1024)
    second = replace(request(1, 1500, arrival_ns=10**15), blocks=(0, 1, 77))
    third = replace(request(2, 1500, arrival_ns=2 * 10**15), blocks=(0, 1, 77))
    serving = run(tiny(), [first, second, third])
    assert [(r.unit, r.local_tokens, r.fetched_tokens) for r in serving.records] == [
        (0, 0, 0), (1, 0, 1024), (1, 1499, 0)
    ]  # fmt: skip


def test_a_prefix_that_no_unit_holds_anymore_is_recomputed() -> None:
    first, other = request(0, 1024), request(1, 1024, arrival_ns=10**15, first_block=50)
    again = replace(first, index=2, arrival_ns=2 * 10**15)
    requests = [first, other, again]
    serving = run(tiny(), requests, placements=place(requests, 1, cache_blocks=2))
    assert serving.records[-1].new_tokens == 1024


def test_kv_that_is_already_at_its_decode_server_is_not_sent() -> None:
    colocated = Cluster(2, 2, 4, units=((0, 1),), decode_servers=(0, 1))
    network = RecordingNetwork(8 * 1000)
    run(tiny(colocated), [request(0, 100)], network)  # there is no other unit
    assert {(source, spec.destination) for _, source, spec in network.of(Stage.P2D)} == {(2, 0), (3, 1)}
    lone = Cluster(1, 1, 1, units=((0,),), decode_servers=(0,))
    network = RecordingNetwork(8 * 1000)
    (record,) = run(tiny(lone), [request(0, 100)], network).records
    assert not network.flows
    assert record.ttft_ns == record.compute_ns


def test_incast_has_one_decode_server() -> None:
    network = RecordingNetwork(8 * 1000)
    run(tiny(cluster.incast()), [request(n, 100, first_block=9 * n) for n in range(6)], network)
    assert {spec.destination for _, _, spec in network.of(Stage.P2D)} == {12, 13}


def test_early_stages_carry_the_deadline_of_the_batch_and_p2d_that_of_its_request() -> None:
    one_unit = Cluster(3, 1, 1, units=((0, 1),), decode_servers=(2,))
    requests = [request(0, 50), request(1, 50, first_block=10), request(2, 50, first_block=20)]
    network = RecordingNetwork(8 * 1000)
    slo = {0: SECOND, 1: 10 * SECOND, 2: 30 * SECOND}
    serving = Serving(tiny(one_unit), network, requests, slo, place(requests, 1))
    serving.start()
    network.run()
    second = [spec for _, _, spec in network.flows if spec.batch == 2]
    assert {spec.deadline_ns for spec in second if spec.stage == Stage.COLLECTIVE} == {20 * SECOND}
    assert {spec.deadline_ns for spec in second if spec.stage == Stage.P2D} == {10 * SECOND, 30 * SECOND}
    assert serving.batches[1].effective_deadline_ns == 20 * SECOND


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 40.0), st.integers(1, 4))
def test_any_workload_is_served_completely(seed: int, rate: float, layers_per_step: int) -> None:
    """All requests finish, batches respect the limit, times add up, and the KV of each new token arrives."""
    requests = with_poisson_arrivals(generate(40, seed), rate, seed)
    config = ServingConfig(
        cluster.testbed(), replace(TINY, layers=5), GPU("g", 1e7, 1.0), layers_per_step=layers_per_step
    )
    network = RecordingNetwork(10**6)
    serving = run(config, requests, network)
    assert sorted(record.index for record in serving.records) == list(range(40))
    assert all(0 < batch.tokens <= 8192 for batch in serving.batches)
    assert sum(batch.tokens for batch in serving.batches) == sum(record.new_tokens for record in serving.records)
    for record in serving.records:
        parts = record.queued_ns, record.compute_ns, record.stage1_wait_ns, record.stage2_ns, record.tail_ns
        assert min(parts) >= 0
        assert record.ttft_ns == sum(parts)
    assert sum(spec.total_bytes for _, _, spec in network.of(Stage.P2D)) == sum(
        record.new_tokens * 4 * 5 for record in serving.records
    )
    spans = sorted((batch.unit, batch.start_ns, batch.end_ns) for batch in serving.batches)
    for (unit, _, end), (other, start, _) in pairwise(spans):
        assert unit != other or start >= end, "a unit computes one batch at a time"


def test_the_same_input_gives_the_same_records() -> None:
    requests = with_poisson_arrivals(load_trace(SAMPLE_PATH, limit=80), 5.0, seed=2)
    config = ServingConfig(cluster.testbed(), TINY, GPU("g", 1e7, 1.0))
    assert run(config, requests).records == run(config, requests).records


def test_an_objective_is_three_times_the_low_load_ttft() -> None:
    config = tiny(replace(cluster.testbed(), nic_bits_per_second=8 * 1000))
    requests = [request(0, 100, arrival_ns=5), request(1, 600, arrival_ns=5), request(2, 600, arrival_ns=6)]
    placements = place(requests, 2)
    low = low_load_records(config, requests, placements, IdealNetwork(config.scaled_nic_bits_per_second))
    assert [record.queued_ns for record in low] == [0, 0, 0]
    # As placed: unit 1 fetches the first block of request 1 and then holds all but the last token of request 2.
    assert [(record.unit, record.local_tokens, record.fetched_tokens) for record in low] == [
        (0, 0, 0), (1, 0, 512), (1, 599, 0)
    ]  # fmt: skip
    assert objectives(low) == {record.index: 3 * record.ttft_ns for record in low}
    assert objectives(low, 2.5)[0] == round(2.5 * low[0].ttft_ns)
    # Arrival times do not matter.
    assert (
        low_load_records(
            config,
            [replace(r, arrival_ns=0) for r in requests],
            placements,
            IdealNetwork(config.scaled_nic_bits_per_second),
        )
        == low
    )
    with pytest.raises(ServingError, match="factor"):
        objectives(low, 0)


def test_a_request_alone_meets_its_objective_and_a_crowd_does_not() -> None:
    config = ServingConfig(cluster.testbed(), TINY, GPU("g", 1e7, 1.0))
    requests = load_trace(SAMPLE_PATH, limit=60)
    placements = place(requests, 2)
    slo = objectives(low_load_records(config, requests, placements, IdealNetwork(config.scaled_nic_bits_per_second)))

    def attainment(rate: float) -> float:
        network = IdealNetwork(config.scaled_nic_bits_per_second)
        serving = Serving(config, network, with_poisson_arrivals(requests, rate, seed=1), slo, placements)
        serving.start()
        network.run()
        return summarise(serving.records, serving.batches).slo_attainment

    assert attainment(1e-6) == 1.0
    assert attainment(1e6) < 0.3


def test_inconsistent_setups_are_refused() -> None:
    with pytest.raises(ServingError, match="request 0 has no objective"):
        Serving(tiny(), IdealNetwork(1), [request(0, 1)], {}, {})
    with pytest.raises(ServingError, match="request 0 has no placement"):
        Serving(tiny(), IdealNetwork(1), [request(0, 1)], {0: 1}, {})
    with pytest.raises(ServingError, match="names unit 2, but the cluster's units are 0 to 1"):
        Serving(tiny(), IdealNetwork(1), [request(0, 1)], {0: 1}, {0: Placement(2, Reuse(0, 0, None))})
    with pytest.raises(ServingError, match="layers_per_step must be at least 1"):
        tiny(layers_per_step=0)
    with pytest.raises(ServingError, match="scale must be at least 1"):
        tiny(scale=0)
