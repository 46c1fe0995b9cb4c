"""Pruning in a serving run (mfs_eval.serving.coordination), and its effect in hosts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import pytest

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import bias_code
from host_agent.protocol.stamp import SCAVENGER, Stage, Stamp
from mfs_ctrl import policies
from mfs_ctrl.policy.policy import GIVE_UP, giving_up
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.hosts.agent import Agent
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.hosts.sender import Segment
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.config import ServingConfig
from mfs_eval.serving.coordination import Coordination, ports
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.ideal_network import IdealNetwork
from mfs_eval.serving.placement import place
from mfs_eval.serving.trace import Request, block_count
from mfs_eval.setup.run_settings import ControlSettings, PruningSettings, RunSettings
from tests.mfs_eval.test_experiment import RATE, TINY, play, work
from tests.mfs_eval.test_serving import SLOW_GPU
from tests.mfs_eval.test_serving import TINY as TINY_MODEL
from tests.mfs_eval.test_virtual_network import build
from tests.mfs_eval.test_virtual_network import spec as link_spec

SECOND = 10**9
LINE = Cluster(3, 1, 1, units=((0,), (1,)), decode_servers=(2,))
"""Two units of one server and one GPU each, and one decode server."""


class RecordingNetwork(IdealNetwork):
    """An ideal network that records which requests hosts were told to give up, and when."""

    def __init__(self, bits_per_second: int) -> None:
        super().__init__(bits_per_second)
        self.pruned: list[tuple[int, frozenset[int]]] = []
        self.flows: list[tuple[int, FlowSpec]] = []

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        self.flows.append((source_host, spec))
        super().start_flow(source_host, spec, on_complete)

    def prune(self, requests: Collection[int]) -> None:
        self.pruned.append((self.now_ns, frozenset(requests)))


def serve(
    tokens: list[int], slo_s: list[float], budget: float, compute_estimate: float = 1.0
) -> tuple[RecordingNetwork, Coordination, Serving]:
    """Serve requests that arrive together, alternately at units 0 and 1; KV has four layers of 4 bytes per token."""
    requests = [
        Request(index, 0, count, 1, tuple(range(100 * index, 100 * index + block_count(count))))
        for index, count in enumerate(tokens)
    ]
    config = ServingConfig(
        replace(LINE, nic_bits_per_second=8_000), TINY_MODEL, SLOW_GPU, compute_estimate=compute_estimate
    )
    network = RecordingNetwork(8_000)
    coordination = Coordination(config, network, budget)
    slo_ns = {index: round(slo * SECOND) for index, slo in enumerate(slo_s)}
    serving = Serving(config, coordination, requests, slo_ns, place(requests, 2), coordination)
    serving.start()
    network.run()
    assert serving.unfinished == 0
    return network, coordination, serving


def test_nothing_is_pruned_while_all_requests_can_be_in_time() -> None:
    network, coordination, _ = serve([100, 100], [10**6, 10**6], 1.0)
    assert not network.pruned
    assert coordination.given_up == 0


def test_a_request_that_cannot_be_in_time_is_given_up_and_counts_against_the_budget() -> None:
    network, coordination, serving = serve([100, 100], [10**6, 1e-3], 0.5)
    assert network.pruned[0] == (0, {1})
    assert coordination.given_up == 1
    assert {record.index for record in serving.records} == {0, 1}, "requests that are given up are served all the same"
    assert not serve([100, 100], [10**6, 1e-3], 0.4)[0].pruned


def test_a_request_is_given_up_needlessly_if_compute_time_is_overestimated() -> None:
    batch = serve([100], [10**6], 0.0)[2].batches[0]
    assert batch.compute_ns > 0
    enough = 10 * serve([100], [10**6], 0.0)[2].records[0].ttft_ns / SECOND
    assert not serve([100], [enough], 1.0)[0].pruned
    network, _, serving = serve([100], [enough], 1.0, compute_estimate=2 * enough * SECOND / batch.compute_ns)
    assert network.pruned[0] == (0, {0})
    assert serving.records[0].in_time


def test_a_request_returns_when_the_batch_that_blocked_it_departs() -> None:
    """1,600 and 16,000 bytes take 1.7 and 17.2 s at 930 payload bytes per second. ``alone`` and ``big`` contain 0.4 and
    4 s of them, for the last layer, so the bounds leave 2.4 s and 18.2 s: enough for each alone but not for both."""
    alone = serve([100], [10**6], 0.0)[2].records[0].ttft_ns / SECOND
    big = serve([1000], [10**6], 0.0)[2].records[0].ttft_ns / SECOND
    assert big > alone
    network, coordination, _ = serve([100, 1000], [alone + 2, big + 14.2], 0.5)
    assert [pruned for _, pruned in network.pruned] == [{1}, frozenset()]
    assert network.pruned[1][0] < big * SECOND
    assert coordination.given_up == 0


def test_only_last_stage_flows_belong_to_a_request() -> None:
    network, _, _ = serve([100, 700], [10**6, 10**6], 0.0)
    assert {(spec.stage, spec.request) for _, spec in network.flows} == {(Stage.P2D, 0), (Stage.P2D, 1)}
    assert ports(0, 2) == (0, 5)


RULES = policies.mfs().rules


def agent() -> Agent:
    host = Agent(1000)
    host.set_policy(RULES)
    host.set_bias(bias_code(1e9))
    return host


def spec(request: int | None, stage: Stage = Stage.P2D) -> FlowSpec:
    return FlowSpec(1, 1, stage, SECOND, 4000, request=request)


def test_flows_of_a_pruned_request_are_scavengers_and_stamped_late_even_if_opened_later() -> None:
    host = agent()
    before = host.open(spec(7))
    host.prune({7})
    after, other, shared = host.open(spec(7)), host.open(spec(8)), host.open(spec(None))
    for flow in (before, after, other, shared):
        flow.write(4000)
    levels = [host.level(flow, 0) for flow in (before, after, other, shared)]
    assert levels[:2] == [SCAVENGER, SCAVENGER]
    assert min(levels[2:]) > SCAVENGER
    slacks = [Stamp.unpack(host.stamp(flow, segment(flow))).slack_us for flow in (before, after, other)]
    assert slacks == [0, 0, 1_000_000]


def segment(flow: object) -> Segment:
    """Return the next segment of ``flow``."""
    made = flow.sender.next_segment(0, 0)  # type: ignore[attr-defined]
    assert made is not None
    return made  # type: ignore[no-any-return]


def test_a_flow_that_returns_rises_where_its_next_message_starts() -> None:
    host = agent()
    flow = host.open(spec(7))
    flow.write(2000)
    flow.write(2000)
    wanted = host.level(flow, 0)
    host.prune({7})
    flow.level = host.level(flow, 0)
    segment(flow)
    host.prune({8})
    assert host.level(flow, 0) == SCAVENGER  # in the middle of the first message
    segment(flow)
    assert host.level(flow, 0) == wanted > SCAVENGER


def test_every_policy_gives_up_late_flows_when_requests_are_pruned() -> None:
    assert giving_up(policies.fifo()).rules[0] == GIVE_UP
    assert giving_up(policies.static()) == policies.static()


@pytest.mark.parametrize("name", ["mfs", "fifo"])
def test_pruning_on_the_whole_testbed(name: str) -> None:
    """With far too many requests, some are given up, all are served in the end, and the scavenger queue is used."""
    settings = RunSettings(
        control=ControlSettings(sample_ns=2_000_000, tick_ns=100_000_000), pruning=PruningSettings(drop_budget=1.0)
    )
    one = run(TINY, work(), name, 20 * RATE, 1, settings)
    assert 0 < one.requests_pruned <= len(work().requests)
    assert len(one.ttft_s) == one.requests
    assert any(sample.bytes_by_level[SCAVENGER] for sample in one.occupancy)
    assert play(name, settings=RunSettings(pruning=PruningSettings(drop_budget=0.0))).requests_pruned == 0


def test_budgets_that_are_not_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="drop_budget"):
        PruningSettings(drop_budget=1.1)


def test_hosts_let_others_pass_a_pruned_request_until_it_returns() -> None:
    """Two flows of 2.4 ms each share a link. Pruned, the first waits for the other; restored, it catches up."""

    def ends(events: list[tuple[int, set[int]]]) -> list[int]:
        clock, network = build()
        done = {7: 0, 8: 0}
        for number in done:
            one = link_spec(1, 200 * SEGMENT_BYTES, request=number)
            network.start_flow(0, one, partial(done.__setitem__, number), SEGMENT_BYTES)
        for time_ns, requests in events:
            clock.call_at(time_ns, network.prune, requests)
        clock.run()
        return list(done.values())

    together = ends([])
    pruned = ends([(0, {7})])
    returned = ends([(0, {7}), (1_000_000, set())])
    assert abs(together[0] - together[1]) < 100_000
    assert pruned[1] < 0.65 * together[1]
    assert pruned[0] > pruned[1] + 1_500_000
    assert pruned[1] < returned[1] < together[1] + 100_000
