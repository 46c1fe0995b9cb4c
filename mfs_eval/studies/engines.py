"""The two engines behind one interface: a window of a trace becomes a workload, and a variant serves it."""

from __future__ import annotations

from mfs_eval.flow_level import variants as flow_variants
from mfs_eval.flow_level.deep_queues import BufferedRacks, DeepQueues
from mfs_eval.flow_level.experiment import flow_workload
from mfs_eval.flow_level.experiment import play as play_flows
from mfs_eval.flow_level.fabric import racks_of
from mfs_eval.packet_level.experiment import WARM_UP_SHARE
from mfs_eval.packet_level.experiment import run as run_packets
from mfs_eval.packet_level.low_load import workload_of
from mfs_eval.results.schema import Measured, Served
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.variants import VARIANTS, Variant
from mfs_eval.setup.windows import Window, placements
from mfs_eval.setup.workload import Workload
from p4src import artifact
from p4src.artifact import Artifact

PACKETS, FLOWS = "packets", "flows"


def program(engine: str) -> Artifact | None:
    """Return the compiled program that runs of ``engine`` pass; None for flows.

    Raises:
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    return artifact.load() if engine == PACKETS else None


def variants(engine: str) -> tuple[str, ...]:
    """Return the variants of an ablation that ``engine`` has, by name."""
    return tuple(name for name in VARIANTS if engine == PACKETS or name in flow_variants.VARIANTS)


def check(engine: str, variant: Variant) -> None:
    """Check that ``engine`` has ``variant``.

    Raises:
        EvaluationError: it has not; the message lists those of the flow-level engine.
    """
    if engine == FLOWS:
        flow_variants.variant_named(variant.name)


def prepare(engine: str, scenario: Scenario, window: Window) -> Workload:
    """Return the work of ``window``; ``engine`` measures the low-load TTFTs of its objectives.

    Raises:
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
    """
    if engine == PACKETS:
        return workload_of(scenario, window)
    fabric = BufferedRacks(racks_of(scenario))
    return flow_workload(scenario, fabric, window.requests, placements(scenario, window), kind=DeepQueues)


def play(engine: str, scenario: Scenario, work: Workload, variant: Variant, request_rate: float, seed: int) -> Measured:
    """Serve ``work`` under ``variant``. Of flows, what is counted in packets is 0.

    Raises:
        ServingError: requests do not complete.
        EvaluationError: ``engine`` has no such variant.
    """
    if engine == PACKETS:
        packets = run_packets(scenario, work, variant.policy, request_rate, seed, variant.settings)
        return Measured(**{name: getattr(packets, name) for name in Measured.model_fields})
    fabric = BufferedRacks(racks_of(scenario))
    warm = round(WARM_UP_SHARE * len(work.requests))
    same = flow_variants.variant_named(variant.name)
    flows = play_flows(scenario, fabric, work, same, request_rate, seed, warm, DeepQueues).run
    seen = {name: getattr(flows, name) for name in Served.model_fields}
    return Measured(**(dict.fromkeys(Measured.model_fields, 0) | seen))
