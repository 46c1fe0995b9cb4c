"""One run: a workload through the compiled P4 program, under one policy, tuned by the controller over P4Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from evaluation.ideal_network import IdealNetwork
from evaluation.metrics import NS_PER_S, RequestRecord, summarise
from evaluation.packet_network import PacketNetwork
from evaluation.results import Occupancy, Run, TunerPoint
from evaluation.scenario import Scenario, Workload
from evaluation.serving import Serving
from evaluation.trace import Request, with_poisson_arrivals
from evaluation.virtual_host import SEGMENT_BYTES
from host_agent.arbiter import GUARANTEED_SHARE
from host_agent.flow import FlowSpec
from host_agent.level import CODE_STEPS, URGENCY_ONE, bias_code, log2_code
from host_agent.stamp import LEVELS, units_of
from mfs_ctrl import policy
from mfs_ctrl.controller import Controller, TickRecord
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.policy import Policy, Thresholds
from mfs_ctrl.session import Session
from p4src import artifact
from soft_switch.events import VirtualClock
from soft_switch.network import Link
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch
from soft_switch.traffic_manager import QueueConfig

POLICIES = ("mfs", "static", "fifo", "sjf", "edf")
ORDERS = ("both", "hosts", "switch")
BANDS = LEVELS - 1
"""Levels that SJF and EDF divide flows into: all but the scavenger."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What is the same for every policy.

    Attributes:
        tick_ns: time between steps of the controller.
        sample_ns: time between samples of the queues.
        rerank_ns: how often hosts rank waiting flows anew.
        window: packets that a flow may have under way.
        message_bytes: where a message ends and the next may rise. Scaled down, a packet stands for several megabytes,
            more than a KV block or a collective's chunk; so by default each packet is a message.
        queue_bytes: what a queue of the switch holds.
        guaranteed_share: of a port's rate, for each level.
        tune: whether the controller moves thresholds and biases.
        order: who orders by the policy, one of :data:`ORDERS`; where it is not followed, there is one queue.
    """

    tick_ns: int = NS_PER_S
    sample_ns: int = NS_PER_S // 20
    rerank_ns: int = 5_000_000
    window: int = 8
    message_bytes: int = SEGMENT_BYTES
    queue_bytes: int = 256 * 1024
    guaranteed_share: Fraction = GUARANTEED_SHARE
    tune: bool = True
    order: str = "both"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order is one of {', '.join(ORDERS)}, not {self.order!r}")


class _ServingNetwork:
    """The packet network, as the serving model asks for it."""

    def __init__(self, network: PacketNetwork, message_bytes: int) -> None:
        self._network = network
        self._message_bytes = message_bytes

    @property
    def now_ns(self) -> int:
        return self._network.clock.now_ns

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        self._network.clock.call_at(time_ns, function, *args)

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        self._network.start_flow(source_host, spec, on_complete, self._message_bytes)

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        for host in hosts:
            self._network.advance(host, batch, layer)


class _SurveyNetwork(IdealNetwork):
    """A network without contention that notes what flows look like when they start."""

    def survey(self) -> None:
        self.remaining_codes: list[int] = []
        self.slack_codes: list[int] = []

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        self.remaining_codes.append(log2_code(units_of(spec.total_bytes + spec.beyond_bytes)))
        self.slack_codes.append(log2_code(max(0, (spec.deadline_ns - self.now_ns) // 1000)))
        super().start_flow(source_host, spec, on_complete)


def policy_for(name: str, scenario: Scenario, work: Workload, requests: Iterable[Request]) -> Policy:
    """The policy ``name``; SJF and EDF with bands that hold equally many flows of this very workload.

    Raises:
        ValueError: no such policy.
    """
    if name in ("sjf", "edf"):
        network = _SurveyNetwork(scenario.serving.scaled_nic_bits_per_second)
        network.survey()
        serving = Serving(scenario.serving, network, requests, work.slo_ns, work.placements)
        serving.start()
        network.run()
        if name == "sjf":
            return policy.sjf(_quantiles(network.remaining_codes))
        return policy.edf(_quantiles(network.slack_codes))
    plain = {
        "mfs": lambda: policy.mfs(Thresholds(near_rli=scenario.layers_per_step)),
        "static": policy.static,
        "fifo": policy.fifo,
    }
    if name not in plain:
        raise ValueError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    return plain[name]()


def run(
    scenario: Scenario,
    work: Workload,
    policy_name: str,
    request_rate: float,
    seed: int,
    settings: RunSettings | None = None,
) -> Run:
    """Play ``work`` at ``request_rate`` requests per second.

    Raises:
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
        mfs_ctrl.errors.SessionError: the switch refused something.
    """
    settings = settings or RunSettings()
    requests = with_poisson_arrivals(work.requests, request_rate, seed)
    chosen = policy_for(policy_name, scenario, work, requests)
    clock, switch = VirtualClock(), Switch()
    network = _build_network(scenario, settings, clock, switch)
    server = P4RuntimeServer(switch)
    server.start()
    rate_bps = scenario.topology.rate_bps

    def tell_hosts(in_force: Policy, _biases: Mapping[int, int]) -> None:
        rules = {"both": in_force, "hosts": chosen, "switch": policy.fifo()}[settings.order].rules
        network.set_policy(rules, bias_code(rate_bps))

    try:
        controller = Controller(
            Session(f"127.0.0.1:{server.port}"),
            artifact.load(),
            scenario.topology,
            policy.fifo() if settings.order == "hosts" else chosen,
            SwitchParameters(
                queue_bytes=settings.queue_bytes,
                guaranteed_share=float(settings.guaranteed_share),
            ),
            on_policy=tell_hosts,
            tune=settings.tune,
        )
        controller.start()
        serving = Serving(
            scenario.serving,
            _ServingNetwork(network, settings.message_bytes),
            requests,
            work.slo_ns,
            work.placements,
        )
        serving.start()
        occupancy: list[Occupancy] = []
        while serving.unfinished:
            # The controller and the queues' samples keep time with the virtual clock, the gRPC between is real.
            for _ in range(settings.tick_ns // settings.sample_ns):
                clock.run(clock.now_ns + settings.sample_ns)
                occupancy.append(_occupancy(switch, clock.now_ns))
            controller.tick(clock.now_ns)
        controller.stop()
    finally:
        server.stop(0)
    return _result(scenario, policy_name, request_rate, seed, serving, network, occupancy, controller.history)


def _build_network(scenario: Scenario, settings: RunSettings, clock: VirtualClock, switch: Switch) -> PacketNetwork:
    topology = scenario.topology
    return PacketNetwork(
        clock,
        switch,
        {host.id: host.port for host in topology.hosts},
        {host.id: (host.mac, host.ipv4.packed) for host in topology.hosts},
        Link(topology.rate_bps, topology.propagation_ns),
        queues=[QueueConfig(settings.guaranteed_share, settings.queue_bytes)] * LEVELS,
        window=settings.window,
        rerank_interval_ns=settings.rerank_ns,
    )


def _quantiles(codes: list[int]) -> list[int]:
    bounds = np.quantile(codes, [share / BANDS for share in range(1, BANDS)])
    return sorted({int(bound) for bound in bounds if bound >= 1})


def _occupancy(switch: Switch, now_ns: int) -> Occupancy:
    totals = [sum(held) for held in zip(*(port.occupancy() for port in switch.ports.values()), strict=True)]
    return Occupancy(time_s=now_ns / NS_PER_S, bytes_by_level=totals)


def _result(
    scenario: Scenario,
    policy_name: str,
    request_rate: float,
    seed: int,
    serving: Serving,
    network: PacketNetwork,
    occupancy: list[Occupancy],
    history: Iterable[TickRecord],
) -> Run:
    summary = summarise(serving.records, serving.batches)
    totals = network.totals()
    by_index: Mapping[int, RequestRecord] = {record.index: record for record in serving.records}
    return Run(
        scenario=scenario.name,
        policy=policy_name,
        request_rate=request_rate,
        seed=seed,
        requests=summary.requests,
        slo_attainment=summary.slo_attainment,
        ttft_mean_s=summary.ttft_mean_s,
        ttft_p50_s=summary.ttft_p50_s,
        ttft_p99_s=summary.ttft_p99_s,
        collective_completion_mean_s=summary.collective_mean_s,
        p2d_earliness_mean_s=summary.earliness_mean_s,
        network_share=summary.network_share,
        packets=sum(port.sent_packets for port in network.switch.ports.values()),
        packets_lost=totals.dropped,
        packets_reordered=totals.reordered,
        ttft_s=[by_index[index].ttft_ns / NS_PER_S for index in sorted(by_index)],
        occupancy=occupancy,
        tuner=[_tuner_point(record) for record in history if record.thresholds is not None],
    )


def _tuner_point(record: TickRecord) -> TunerPoint:
    assert record.thresholds is not None
    return TunerPoint(
        time_s=record.time_ns / NS_PER_S,
        mlu_threshold=2 ** ((record.thresholds.mlu[0] - URGENCY_ONE) / CODE_STEPS),
        tight_slack_s=2 ** (record.thresholds.tight_slack / CODE_STEPS) / 1e6,
        late_share=record.late_share,
        rho_max=max(record.loads.values(), default=0.0),
    )
