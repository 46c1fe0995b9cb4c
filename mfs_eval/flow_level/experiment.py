"""A run of the flow-level engine: a workload under a policy on a fabric, and its outcome.

The serving model, the rules of policies and the metrics are those of the packet-level engine.
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
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
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
"""Number of requests that the bands of a policy are fitted to."""


class FlowRun(Served):
    """Outcome of a flow-level run."""

    variant: str
    requests: int
    """Requests that count: those after the warm-up."""
    attainment_short: float
    """Attainment of the half of the requests with the shorter objectives (SLOs)."""
    attainment_long: float
    """Attainment of the half with the longer objectives."""
    overrun_p99: float
    """99th percentile of TTFT (time to first token) over the objective: how long late requests have to wait."""
    requests_pruned: int
    """Requests that were given up when they finished, including those of the warm-up."""
    flows: int
    """Flows started."""
    rounds: int
    """Number of times that shares were settled."""
    unsettled: int
    """Number of times that places that disagree on levels found no consistent shares."""
    cpu_s: float
    """CPU time of the run in seconds, without measuring the objectives."""


@dataclass(frozen=True, slots=True)
class Played:
    """A run with its records: the requests that count, and all batches."""

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
    """Return the workload of ``requests`` at ``placements``, with low-load TTFTs measured on ``fabric``."""
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
    """Serve ``work`` at ``request_rate`` requests per second; the first ``warm`` requests to arrive do not count.

    Args:
        scenario: what is served, on which cluster.
        fabric: the network.
        work: requests, placements, and the objectives that the scheduler is told.
        variant: the policy, who follows it, and what they know.
        request_rate: requests per second.
        seed: seed of the arrivals.
        warm: number of requests that do not count.
        kind: class of the network; the ceiling has its own.
        judged_ns: by request index, the objective that attainment is measured by, if it differs from that of ``work``.

    Raises:
        ServingError: requests do not complete.
    """
    began = time.process_time()
    requests = with_poisson_arrivals(work.requests, request_rate, seed)
    network: FlowNetwork | IdealNetwork
    if variant.policy == CEILING:
        network = uncontended_on(fabric)
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
        raise ServingError(
            f"{serving.unfinished} of {len(requests)} requests do not complete; check the fabric's paths"
        )
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
    """Return the TTFT objective of a request."""
    return record.deadline_ns - record.arrival_ns


def uncontended_on(fabric: Fabric) -> IdealNetwork:
    """Return the network in which each flow has its path to itself, at the fabric's slowest rate across one switch.

    Only the flows of one collective from one host share its NIC, as they must in any schedule.
    """
    return IdealNetwork(
        min(fabric.rates_bps),
        latency_ns=2 * fabric.propagation_ns,
        packet_bytes=SEGMENT_BYTES,
        header_bytes=HEADER_BYTES,
        whole_collectives=True,
    )
