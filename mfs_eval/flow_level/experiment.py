"""One run of the flow-level engine: a workload under a policy on a fabric, and what came of it.

What is served, the rules of a policy and what is measured are those of the packet-level engine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mfs_ctrl import policies
from mfs_eval.errors import ServingError
from mfs_eval.flow_level.fabric import Fabric
from mfs_eval.flow_level.network import HEADER_BYTES, FlowNetwork
from mfs_eval.flow_level.variants import Variant
from mfs_eval.packet_level.hosts.virtual_host import SEGMENT_BYTES
from mfs_eval.results.schema import Served
from mfs_eval.serving.coordination import Coordination
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.ideal_network import IdealNetwork
from mfs_eval.serving.metrics import RequestRecord, after_warm_up, percentile, slo_attainment, summarise
from mfs_eval.serving.network_interface import Network
from mfs_eval.serving.objectives import SLO_FACTOR, low_load_records, objectives
from mfs_eval.serving.placement import Placement
from mfs_eval.serving.prefill_batch import BatchRecord
from mfs_eval.serving.trace import Request, with_poisson_arrivals
from mfs_eval.setup.policies import CEILING, policy_for, serving_for
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.workload import Workload

SURVEYED = 256
"""Bands of policies that have some are fitted to so many requests."""


class FlowRun(Served):
    """A run of flows."""

    variant: str
    requests: int
    """Requests that count: those after the warm-up."""
    attainment_short: float
    """Attainment of the half of them with the shorter objectives."""
    attainment_long: float
    """Attainment of the half with the longer objectives."""
    overrun_p99: float
    """99th percentile of TTFT over objective: how long what is late is kept waiting."""
    requests_pruned: int
    """Requests that were given up when they finished, those of the warm-up included."""
    flows: int
    """Flows started."""
    rounds: int
    """Times at which shares were settled."""
    unsettled: int
    """Times at which places that disagree on levels found no common shares."""
    cpu_s: float
    """Time that a core of this machine worked for it, objectives not counted."""


@dataclass(frozen=True, slots=True)
class Played:
    """A run with all that it left behind: requests that count, and all batches."""

    run: FlowRun
    records: tuple[RequestRecord, ...]
    batches: tuple[BatchRecord, ...]


def flow_workload(
    scenario: Scenario,
    fabric: Fabric,
    requests: Sequence[Request],
    placements: Mapping[int, Placement],
    slo_factor: float = SLO_FACTOR,
    kind: type[FlowNetwork] = FlowNetwork,
) -> Workload:
    """The workload of ``requests`` where ``placements`` says; low-load TTFTs are measured on ``fabric``."""
    records = low_load_records(scenario.serving, requests, placements, kind(fabric, policies.fifo().rules))
    return Workload(tuple(requests), dict(placements), objectives(records, slo_factor))


def play(
    scenario: Scenario,
    fabric: Fabric,
    work: Workload,
    variant: Variant,
    request_rate: float,
    seed: int,
    warm: int,
    kind: type[FlowNetwork] = FlowNetwork,
    judged_ns: Mapping[int, int] | None = None,
) -> Played:
    """Play ``work`` at ``request_rate`` requests per second; the first ``warm`` to arrive do not count.

    ``kind``: of network; the ceiling has its own. ``judged_ns``: for each request's index the objective that it is
    judged by, if that is not the one of ``work``, which the scheduler is told.

    Raises:
        ServingError: the run stalls.
    """
    began = time.process_time()
    requests = with_poisson_arrivals(work.requests, request_rate, seed)
    network: FlowNetwork | IdealNetwork
    if variant.policy == CEILING:
        network = alone_on(fabric)
    else:
        chosen = variant.rules or policy_for(variant.policy, scenario, work, requests[:SURVEYED])
        if variant.drop_budget is not None:
            chosen = policies.giving_up(chosen)
        network = kind(fabric, chosen.rules, variant.settings)
    config = replace(serving_for(variant.policy, scenario), compute_estimate=variant.compute_estimate)
    coordination = None if variant.drop_budget is None else Coordination(config, network, variant.drop_budget)
    carrying: Network = coordination or network
    serving = Serving(config, carrying, requests, work.slo_ns, work.placements, coordination)
    serving.start()
    network.run()
    if serving.unfinished:
        raise ServingError(f"{serving.unfinished} requests of {len(requests)} do not end; are there paths for them?")
    records = after_warm_up(serving.records, warm)
    if judged_ns is not None:
        records = [replace(one, deadline_ns=one.arrival_ns + judged_ns[one.index]) for one in records]
    summary = summarise(records, serving.batches)
    by_objective = sorted(records, key=objective_ns)
    flows = sum(network.flows_by_stage.values()) if isinstance(network, IdealNetwork) else network.flows
    return Played(
        FlowRun(
            scenario=scenario.name,
            policy=variant.policy,
            variant=variant.name,
            request_rate=request_rate,
            seed=seed,
            requests=summary.requests,
            attainment_short=slo_attainment(by_objective[: len(records) // 2]),
            attainment_long=slo_attainment(by_objective[len(records) // 2 :]),
            overrun_p99=percentile([1000 * one.ttft_ns // objective_ns(one) for one in records], 0.99) / 1000,
            slo_attainment=summary.slo_attainment,
            ttft_mean_s=summary.ttft_mean_s,
            ttft_p50_s=summary.ttft_p50_s,
            ttft_p99_s=summary.ttft_p99_s,
            collective_completion_mean_s=summary.collective_mean_s,
            p2d_earliness_mean_s=summary.earliness_mean_s,
            network_share=summary.network_share,
            requests_pruned=0 if coordination is None else coordination.given_up,
            flows=flows,
            rounds=0 if isinstance(network, IdealNetwork) else network.rounds,
            unsettled=0 if isinstance(network, IdealNetwork) else network.unsettled,
            cpu_s=time.process_time() - began,
        ),
        tuple(records),
        tuple(serving.batches),
    )


def objective_ns(record: RequestRecord) -> int:
    """The TTFT that a request may take."""
    return record.deadline_ns - record.arrival_ns


def alone_on(fabric: Fabric) -> IdealNetwork:
    """The network in which each flow has its path for itself: the fabric's slowest rate, one switch on the way.

    But for the flows of one collective from one host, which share its NIC whatever the order.
    """
    return IdealNetwork(
        min(fabric.rates_bps),
        latency_ns=2 * fabric.propagation_ns,
        packet_bytes=SEGMENT_BYTES,
        header_bytes=HEADER_BYTES,
        whole_collectives=True,
    )
