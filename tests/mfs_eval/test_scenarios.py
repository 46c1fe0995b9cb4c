"""The named scenarios: which servers compute and decode, which hold KV, and which interfaces send it.

Covers mfs_eval.setup.scenario, and what cluster, placement and batches provide for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from host_agent.protocol.units import NS_PER_S
from mfs_ctrl import policies
from mfs_ctrl.counters import observe
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.policy.tuner import evidence_cells
from mfs_eval.demo import run_demo
from mfs_eval.errors import ServingError
from mfs_eval.packet_level.low_load import workload
from mfs_eval.packet_level.testbed import open_testbed
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.ideal_network import IdealNetwork
from mfs_eval.serving.placement import HotPrefixes, Placement, place
from mfs_eval.serving.prefix_cache import Reuse
from mfs_eval.serving.trace import SAMPLE_PATH, Request, load_trace, with_poisson_arrivals
from mfs_eval.setup.run_settings import ControlSettings, RunSettings
from mfs_eval.setup.scenario import DEMO_SCENARIOS, SCENARIOS, Scenario, scenario_named
from mfs_eval.setup.workload import select
from p4src.artifact import load

REQUESTS = 40
TRACE = load_trace(SAMPLE_PATH)


@dataclass(frozen=True, slots=True)
class Sent:
    source: int
    spec: FlowSpec


class RecordingNetwork(IdealNetwork):
    """A network without contention that records the flows."""

    def __init__(self, bits_per_second: int) -> None:
        super().__init__(bits_per_second)
        self.sent: list[Sent] = []

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        self.sent.append(Sent(source_host, spec))
        super().start_flow(source_host, spec, on_complete)


@dataclass(frozen=True, slots=True)
class Played:
    serving: Serving
    placements: dict[int, Placement]
    network: RecordingNetwork

    def of(self, stage: Stage) -> list[Sent]:
        return [sent for sent in self.network.sent if sent.spec.stage == stage]

    def bytes_of(self, stage: Stage) -> int:
        return self.network.bytes_by_stage[stage]


def placed(scenario: Scenario) -> dict[int, Placement]:
    return place(
        select(scenario, TRACE, REQUESTS),
        len(scenario.cluster.units),
        TRACE[: scenario.warm_requests],
        scenario.cache_blocks,
        scenario.hot_prefixes,
    )


def play(scenario: Scenario, rate: float | None = None) -> Played:
    requests = with_poisson_arrivals(select(scenario, TRACE, REQUESTS), rate or scenario.request_rates[0], seed=1)
    placements = placed(scenario)
    network = RecordingNetwork(scenario.serving.scaled_nic_bits_per_second)
    objective = {request.index: 10**15 for request in requests}
    serving = Serving(scenario.serving, network, requests, objective, placements)
    serving.start()
    network.run()
    return Played(serving, placements, network)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_serves_its_requests(name: str) -> None:
    scenario = scenario_named(name)
    played = play(scenario)
    assert len(played.serving.records) == REQUESTS
    assert {record.unit for record in played.serving.records} == set(range(len(scenario.cluster.units)))
    assert all(played.bytes_of(stage) for stage in (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D))
    assert list(scenario.request_rates) == sorted(set(scenario.request_rates))


def test_colocated_servers_decode_what_another_unit_has_computed() -> None:
    scenario = scenario_named("colocated")
    cluster = scenario.cluster
    computing = {server for unit in cluster.units for server in unit}
    assert computing == set(cluster.decode_servers) == set(range(cluster.servers))
    played = play(scenario)
    assert all(record.decode_server not in cluster.units[record.unit] for record in played.serving.records)
    assert {record.decode_server for record in played.serving.records} == computing
    # The choice depends neither on when requests arrive nor on the order in which they end.
    other = play(scenario, rate=1.0)
    assert {r.index: r.decode_server for r in other.serving.records} == {
        r.index: r.decode_server for r in played.serving.records
    }


def test_a_single_unit_that_decodes_keeps_its_kv() -> None:
    scenario = scenario_named("colocated")
    alone = replace(scenario.cluster, units=((0, 1),), decode_servers=(0, 1))
    assert {alone.decode_server(request, 0) for request in range(4)} == {0, 1}


def test_hot_prefixes_are_fetched_from_one_unit() -> None:
    hot = scenario_named("hot-prefix")
    placements = placed(hot)
    fetched = Counter[int | None]()
    for placement in placements.values():
        fetched[placement.reuse.holder] += placement.reuse.remote_tokens
    assert fetched[0] > 0.9 * sum(fetched.values())
    played, usual = play(hot), play(replace(hot, hot_prefixes=None))
    of_holder = [sent for sent in played.of(Stage.KV_REUSE) if sent.source in hot.cluster.unit_hosts(0)]
    assert sum(sent.spec.total_bytes for sent in of_holder) > 0.9 * played.bytes_of(Stage.KV_REUSE)
    assert played.bytes_of(Stage.KV_REUSE) > 1.5 * usual.bytes_of(Stage.KV_REUSE)
    # A good part of what the holder sends is for others.
    all_of_holder = [sent for sent in played.network.sent if sent.source in hot.cluster.unit_hosts(0)]
    assert sum(s.spec.total_bytes for s in of_holder) > 0.3 * sum(s.spec.total_bytes for s in all_of_holder)
    assert not {server for unit in hot.cluster.units for server in unit} & set(hot.cluster.decode_servers)


def test_a_unit_that_has_fetched_from_the_holder_fetches_again() -> None:
    def request(index: int, *blocks: int) -> Request:
        return Request(index, 0, 512 * len(blocks), 1, blocks)

    hot = HotPrefixes(unit=0, share=0.5)
    requests = [request(1, 8, 9), *[request(n, 1, 2, 10 + n, 20 + n) for n in range(2, 5)]]
    plan = place(requests, 2, [request(0, 1, 2)], hot_prefixes=hot)
    assert [(plan[n].unit, plan[n].reuse) for n in range(1, 5)] == [
        (0, Reuse(512, 0, None)),
        (1, Reuse(0, 1024, 0)),
        (0, Reuse(1024, 0, None)),
        (1, Reuse(0, 1024, 0)),
    ]
    with pytest.raises(ServingError, match="unit 2 cannot hold prefixes; units are 0 to 1"):
        place(requests, 2, hot_prefixes=HotPrefixes(unit=2, share=0.5))
    with pytest.raises(ServingError, match="share"):
        HotPrefixes(unit=0, share=1.5)


def test_kv_on_one_gpu_has_one_interface() -> None:
    scenario = scenario_named("one-gpu")
    spread = replace(scenario, kv_on_one_gpu=False)
    played, usual = play(scenario, rate=1.0), play(spread, rate=1.0)
    unit_of = {record.index: record.unit for record in played.serving.records}
    sources: dict[int, set[int]] = {}
    # At one request per second, each request is a batch.
    request_of = {batch.batch: batch.requests for batch in played.serving.batches}
    for sent in played.of(Stage.P2D):
        for request in request_of[sent.spec.batch] if len(request_of[sent.spec.batch]) == 1 else ():
            assert sent.source in scenario.cluster.unit_hosts(unit_of[request])
            sources.setdefault(request, set()).add(sent.source)
    assert len(sources) > REQUESTS / 2
    assert all(len(hosts) == 1 for hosts in sources.values())
    assert len({host for hosts in sources.values() for host in hosts}) == 8
    fetching: dict[int, set[tuple[int, int]]] = {}
    for sent in played.of(Stage.KV_REUSE):
        fetching.setdefault(sent.spec.batch, set()).add((sent.source, sent.spec.destination))
    assert all(len(pairs) <= len(request_of[batch]) for batch, pairs in fetching.items())
    # One flow instead of four, and the same bytes up to the rounding of each flow.
    for stage in (Stage.P2D, Stage.KV_REUSE):
        assert len(usual.of(stage)) == 4 * len(played.of(stage))
        assert played.bytes_of(stage) == pytest.approx(usual.bytes_of(stage), rel=0.001)


def test_collective_heavy_multiplies_only_the_bytes_of_collectives() -> None:
    heavy = scenario_named("collective-heavy")
    more, usual = play(heavy, rate=1.0), play(replace(heavy, collective_factor=1.0), rate=1.0)
    assert more.bytes_of(Stage.COLLECTIVE) == pytest.approx(4 * usual.bytes_of(Stage.COLLECTIVE), rel=0.001)
    for stage in (Stage.KV_REUSE, Stage.P2D):
        assert more.bytes_of(stage) == usual.bytes_of(stage)


def test_the_demo_runs_two_scenarios_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        """Ends the demo early."""

    def stop(*_: object) -> None:
        raise Stop

    monkeypatch.setattr("mfs_eval.demo.check_writable", stop)
    said = StringIO()
    with pytest.raises(Stop):
        run_demo(tmp_path, console=Console(file=said, width=1000))
    described = tuple(line.partition(":")[0] for line in said.getvalue().splitlines())
    assert described == DEMO_SCENARIOS == ("testbed", "incast")


@pytest.mark.parametrize(("name", "ratio"), [("uplink-2", 2), ("uplink-4", 4)])
def test_uplinks_are_oversubscribed(name: str, ratio: int) -> None:
    scenario = scenario_named(name)
    prefill, decode = scenario.tors
    assert {host.server for host in prefill.hosts} == {server for unit in scenario.cluster.units for server in unit}
    assert {host.server for host in decode.hosts} == set(scenario.cluster.decode_servers)
    for tor in (prefill, decode):
        assert len(tor.hosts) * tor.rate_bps == ratio * sum(uplink.rate_bps for uplink in tor.uplinks)


def test_a_run_over_two_switches_is_stamped_and_counted_on_both() -> None:
    scenario = replace(scenario_named("uplink-4"), scale=60_000, layers_per_step=8)
    work = workload(scenario, TRACE, 6)
    requests = with_poisson_arrivals(work.requests, 20.0, seed=1)
    with open_testbed(scenario, policies.mfs(), RunSettings(control=ControlSettings(sample_ns=NS_PER_S))) as racks:
        serving = Serving(scenario.serving, racks.serving_network, requests, work.slo_ns, work.placements)
        serving.start()
        racks.serving_network.run()
        records = [controller.tick(racks.network.clock.now_ns) for controller in racks.controllers]
        counted = [
            controller.session.read_counters(P4InfoIndex.from_text(load().p4info), evidence_cells(policies.mfs()))
            for controller in racks.controllers
        ]
        uplinks = [
            [switch.ports[uplink.port].sent_packets for uplink in tor.uplinks]
            for switch, tor in zip(racks.network.switches, scenario.tors, strict=True)
        ]
    assert serving.unfinished == 0
    assert racks.network.totals().dropped == 0
    # Every P2D flow crosses both switches, and both see its stage and its end. Collectives stay within a rack.
    ended = [observe({}, cells).completed(Stage.P2D) for cells in counted]
    assert ended[0] == ended[1] == sum(record.batches for record in serving.records) * 4 * 4
    assert all(record is not None and sum(record.level_bytes) > 0 for record in records)
    # Both links carry traffic in each direction: KV one way, acknowledgements the other.
    assert min(min(packets) for packets in uplinks) > 0
