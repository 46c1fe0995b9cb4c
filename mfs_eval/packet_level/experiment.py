"""A packet-level run: a workload through the compiled P4 program under one policy, tuned by the controller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

from host_agent.protocol.level import CODE_STEPS, URGENCY_ONE
from host_agent.protocol.units import NS_PER_S, WIRE_OVERHEAD_BYTES
from mfs_ctrl.controller import TickRecord
from mfs_ctrl.policy.policy import Policy, giving_up
from mfs_eval.errors import ServingError
from mfs_eval.packet_level.flight_recorder import FlightRecorder
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.packet_network import PacketNetwork
from mfs_eval.packet_level.stranding_meter import StrandingCounters
from mfs_eval.packet_level.testbed import open_testbed
from mfs_eval.packet_level.unaffected import unaffected
from mfs_eval.results.schema import Occupancy, Run, StageMeans, TunerPoint
from mfs_eval.serving.coordination import Coordination
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.ideal_network import IdealNetwork
from mfs_eval.serving.metrics import RequestRecord, after_warm_up, summarise
from mfs_eval.serving.network_interface import Network
from mfs_eval.serving.trace import Request, with_poisson_arrivals
from mfs_eval.setup.policies import CEILING, policy_for, serving_for
from mfs_eval.setup.run_settings import RunSettings
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.workload import Workload
from soft_switch.switch import Switch
from topologies.topology import FULL_FRAME_BYTES

WARM_UP_SHARE = 0.2
"""The first requests find an empty testbed: this share of all requests is served but does not count."""
MLU, TIGHT_SLACK = "mlu", "tight_slack"
"""Thresholds of the MFS policy that results record; policies without them record none."""
STALLED_TICKS = 60
"""A run in which no request ends for this many ticks after the last arrival is stuck."""


def run(
    scenario: Scenario,
    work: Workload,
    policy: str | Policy,
    request_rate: float,
    seed: int,
    settings: RunSettings | None = None,
    on_end: Callable[[PacketNetwork], None] | None = None,
    recorder: FlightRecorder | None = None,
) -> Run:
    """Serve ``work`` at ``request_rate`` requests per second, with Poisson arrivals drawn from ``seed``.

    ``policy`` is a name that :func:`~mfs_eval.setup.policies.policy_for` knows, the ceiling, or a policy. ``on_end`` is
    called with the network after the last request; the ceiling has none. ``recorder`` records the run, which stays
    the same.

    Raises:
        ValueError: there is no policy of that name.
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
        mfs_ctrl.errors.SessionError: the switch rejected a request.
        ServingError: requests stop completing.
    """
    settings = settings or RunSettings()
    requests = with_poisson_arrivals(work.requests, request_rate, seed)
    if policy == CEILING:
        return _ceiling(scenario, work, requests, request_rate, seed)
    chosen = policy_for(policy, scenario, work, requests) if isinstance(policy, str) else policy
    policy_name, pruning, control = chosen.name, settings.pruning, settings.control
    if pruning.drop_budget is not None or pruning.give_up_late:
        chosen = giving_up(chosen)
    occupancy: list[Occupancy] = []
    raised: list[int] = []
    history: list[TickRecord] = []
    with open_testbed(scenario, chosen, settings, recorder) as built:
        network, clock = built.network, built.network.clock
        config = replace(serving_for(policy_name, scenario), defer_infeasible=pruning.defer_infeasible)
        serving_network: Network = built.serving_network
        if recorder is not None:
            serving_network = recorder.serving_network(serving_network)
        coordination = None
        if pruning.drop_budget is not None:
            serving_network = coordination = Coordination(config, serving_network, pruning.drop_budget)
        serving = Serving(config, serving_network, requests, work.slo_ns, work.placements, coordination)
        serving.start()
        before, stalled = 0, 0
        while serving.unfinished:
            # The controller ticks and the queues are sampled in virtual time; only the gRPC calls take real time.
            for _ in range(control.tick_ns // control.sample_ns):
                clock.run(clock.now_ns + control.sample_ns)
                occupancy.append(_occupancy(network.switches, clock.now_ns))
                raised.append(network.meter.counters.raised)
            records = [controller.tick(clock.now_ns) for controller in built.controllers]
            if records[0] is not None:
                history.append(records[0])
            arrived = clock.now_ns > requests[-1].arrival_ns
            stalled = stalled + 1 if arrived and serving.unfinished == before else 0
            before = serving.unfinished
            if stalled > STALLED_TICKS:
                raise ServingError(
                    f"{before} of {len(requests)} requests do not complete; check the routes and the queue sizes"
                )
    if on_end is not None:
        on_end(network)
    if recorder is not None:
        recorder.finish(serving.records, serving.batches)
    pruned = 0 if coordination is None else coordination.given_up
    counted = _counted(serving.records)
    if (server := settings.adversary.unaffected_by) is not None:
        counted = unaffected(counted, work.placements, scenario.cluster, server)
    result = _result(scenario, chosen.name, request_rate, seed, serving, counted, network, occupancy, history, pruned)
    promotions = [now - before for before, now in pairwise([0, *raised])]
    return result.model_copy(update={"promotions": promotions})


def _ceiling(scenario: Scenario, work: Workload, requests: Sequence[Request], request_rate: float, seed: int) -> Run:
    """Run with every flow as fast as it is alone on the testbed. No packets are simulated, so it is cheap."""
    network = uncontended_network(scenario)
    serving = Serving(scenario.serving, network, requests, work.slo_ns, work.placements)
    serving.start()
    network.run()
    counted = _counted(serving.records)
    return _result(scenario, CEILING, request_rate, seed, serving, counted, None, [], [], 0)


def uncontended_network(scenario: Scenario) -> IdealNetwork:
    """Return the network in which each flow has the testbed to itself: full packets, stored and forwarded once."""
    return IdealNetwork(
        scenario.tors[0].rate_bps,
        latency_ns=2 * scenario.propagation_ns,
        packet_bytes=SEGMENT_BYTES,
        header_bytes=FULL_FRAME_BYTES + WIRE_OVERHEAD_BYTES - SEGMENT_BYTES,
    )


def _occupancy(switches: Iterable[Switch], now_ns: int) -> Occupancy:
    ports = [port.occupancy() for switch in switches for port in switch.ports.values()]
    totals = [sum(held) for held in zip(*ports, strict=True)]
    return Occupancy(time_s=now_ns / NS_PER_S, bytes_by_level=totals)


def _counted(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Return the records in order of arrival, without those of the warm-up."""
    return after_warm_up(records, round(WARM_UP_SHARE * len(records)))


def _result(
    scenario: Scenario,
    policy_name: str,
    request_rate: float,
    seed: int,
    serving: Serving,
    counted: Sequence[RequestRecord],
    network: PacketNetwork | None,
    occupancy: list[Occupancy],
    history: Iterable[TickRecord],
    pruned: int,
) -> Run:
    summary = summarise(counted, serving.batches)
    totals = network.totals() if network is not None else None
    ports = (port for switch in network.switches for port in switch.ports.values()) if network is not None else ()
    stranding = network.meter.counters if network is not None else StrandingCounters()
    return Run(
        scenario=scenario.name,
        policy=policy_name,
        request_rate=request_rate,
        seed=seed,
        requests=summary.requests,
        requests_pruned=pruned,
        requests_late_when_computed=sum(
            record.arrival_ns + record.ttft_ns - record.tail_ns > record.deadline_ns for record in counted
        ),
        slo_attainment=summary.slo_attainment,
        ttft_mean_s=summary.ttft_mean_s,
        ttft_p50_s=summary.ttft_p50_s,
        ttft_p99_s=summary.ttft_p99_s,
        collective_completion_mean_s=summary.collective_mean_s,
        p2d_earliness_mean_s=summary.earliness_mean_s,
        network_share=summary.network_share,
        packets=sum(port.sent_packets for port in ports),
        packets_lost=totals.dropped if totals is not None else 0,
        packets_reordered=totals.reordered if totals is not None else 0,
        stranded_bytes=stranding.stranded_bytes,
        stranding_delay_mean_s=stranding.delay_mean_ns / NS_PER_S,
        reordered_per_million=1e6 * totals.reordered / totals.received if totals is not None else 0.0,
        reordered_within_message=stranding.reordered_within_message,
        ttft_s=[record.ttft_ns / NS_PER_S for record in counted],
        objective_s=[(record.deadline_ns - record.arrival_ns) / NS_PER_S for record in counted],
        stages=_stage_means(counted),
        occupancy=occupancy,
        tuner=[_tuner_point(record) for record in history if {MLU, TIGHT_SLACK} <= (record.thresholds or {}).keys()],
    )


def _stage_means(records: Sequence[RequestRecord]) -> StageMeans | None:
    if not records:
        return None

    def mean_s(name: str) -> float:
        return fmean(getattr(record, name) for record in records) / NS_PER_S

    return StageMeans(
        queued_s=mean_s("queued_ns"),
        reuse_s=mean_s("stage1_wait_ns"),
        compute_s=mean_s("compute_ns"),
        collective_s=mean_s("stage2_ns"),
        hand_over_s=mean_s("tail_ns"),
    )


def _tuner_point(record: TickRecord) -> TunerPoint:
    assert record.thresholds is not None
    return TunerPoint(
        time_s=record.time_ns / NS_PER_S,
        mlu_threshold=2 ** ((record.thresholds[MLU] - URGENCY_ONE) / CODE_STEPS),
        tight_slack_s=2 ** (record.thresholds[TIGHT_SLACK] / CODE_STEPS) / 1e6,
        late_share=record.shares.get(MLU),
        rho_max=max(record.loads.values(), default=0.0),
    )
