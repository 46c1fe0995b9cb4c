"""Cases of a data centre: models on their instances, the prompts that they get, and the resulting workloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mfs_eval.defaults import SWEEP_REQUESTS, SWEEP_SERVERS
from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level.data_centre import NIC_BITS_PER_SECOND, NICS_PER_SERVER, PACKED, data_centre
from mfs_eval.flow_level.experiment import flow_workload
from mfs_eval.flow_level.fabric import FatTree
from mfs_eval.serving.costs import A100, DBRX, GROK_2, LLAMA3_8B, MIXTRAL_8X22B, QWEN3_CODER, ModelShape
from mfs_eval.serving.prompts import AGENT_LIKE, CONVERSATION_LIKE, PromptClass, openers, prompts
from mfs_eval.serving.router import route
from mfs_eval.serving.trace import SAMPLE_PATH, Request, load_trace
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.workload import Workload

WARM_SHARE = 1 / 3
"""Share of the requests that are warm-up and do not count: 512 of 1,536 by default."""
SERVED_BEFORE = 1_000
"""Prompts that are served before a run and fill the caches."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model on its instances, and the prompts that it gets.

    Attributes:
        name: as on the command line.
        model: the model that is served.
        servers_per_unit: servers of 8 GPUs per prefill unit.
        tensor_parallel: GPUs that share a request's attention and each expert. They hold the request's KV, which is
            therefore sent and received by their NICs. Each of them exchanges all activations of a token with the
            experts, because experts are split along their inner width; nothing is sent once per server and shared.
        prompts: the class of prompts; None for those of the Mooncake conversation trace.
        sequence_parallel: whether sequences are spread over the servers of the unit, so that all NICs carry KV.
        rates_per_gpu: requests per second and GPU (decode GPUs included), from a rate at which nearly all requests are
            in time to one at which few are.
    """

    name: str
    model: ModelShape
    servers_per_unit: int
    tensor_parallel: int
    prompts: PromptClass | None
    sequence_parallel: bool = False
    rates_per_gpu: tuple[float, ...] = (1.0,)

    def scenario(self, servers: int = SWEEP_SERVERS, layout: str = PACKED) -> Scenario:
        """Return the scenario of the case on ``servers`` servers, with rates in requests per second."""
        cluster = data_centre(servers, self.servers_per_unit, layout)
        gpus = cluster.servers * cluster.gpus_per_server
        return Scenario(
            self.name,
            cluster,
            tuple(rate * gpus for rate in self.rates_per_gpu),
            model=self.model,
            gpu=A100,
            scale=1,
            collective_factor=float(self.tensor_parallel) if self.model.experts > 1 else 1.0,
            kv_nics=0 if self.sequence_parallel else self.tensor_parallel,
            sequence_parallel=self.sequence_parallel,
        )

    def fabric(self, servers: int = SWEEP_SERVERS, oversubscription: int = 1) -> FatTree:
        """Return the fat-tree of the case: one edge switch per unit, and one per equally many decode servers."""
        cluster = data_centre(servers, self.servers_per_unit)
        return FatTree(
            cluster.servers,
            NICS_PER_SERVER,
            NIC_BITS_PER_SECOND,
            oversubscription,
            servers_per_edge=self.servers_per_unit,
            edges_per_pod=32 // self.servers_per_unit,
        )


_MODELS = (
    ("mixtral-8x22b", MIXTRAL_8X22B, 4, ((0.45, 0.55, 0.65), (0.9, 1.2, 1.5))),
    ("grok-2", GROK_2, 4, ((0.15, 0.2, 0.25), (0.35, 0.5, 0.65))),
    ("dbrx", DBRX, 2, ((0.5, 0.65, 0.8), (1.0, 1.4, 1.8))),
    ("qwen3-coder", QWEN3_CODER, 1, ((0.4, 0.5, 0.65), (1.0, 1.3, 1.6))),
)
"""Name, shape, tensor parallelism, and the request rates for each class of prompts."""
CASES = {
    case.name: case
    for case in (
        *(
            Case(f"{name}-{kind.name}", model, 4, tensor_parallel, kind, rates_per_gpu=own_rates)
            for name, model, tensor_parallel, rates in _MODELS
            for kind, own_rates in zip((CONVERSATION_LIKE, AGENT_LIKE), rates, strict=True)
        ),
        Case("llama3-8b-mooncake", LLAMA3_8B, 2, 4, None, sequence_parallel=True, rates_per_gpu=(0.2, 0.3, 0.45)),
    )
}


def case_named(name: str) -> Case:
    """Return the case ``name``.

    Raises:
        EvaluationError: there is no such case; the message lists all of them.
    """
    if name not in CASES:
        raise EvaluationError(f"there is no case {name!r}; there are {', '.join(CASES)}")
    return CASES[name]


def case_workload(
    case: Case, servers: int = SWEEP_SERVERS, count: int = SWEEP_REQUESTS, seed: int = 1, trace: Path | None = None
) -> Workload:
    """Return ``count`` requests of ``case``, routed by cache and load, with objectives measured on the 1:1 fabric.

    ``seed`` determines the prompts, unless they come from a trace.

    Raises:
        EvaluationError: the trace has too few requests.
    """
    scenario = case.scenario(servers)
    before, requests = case_requests(case, count, seed, trace)
    placements = route(requests, len(scenario.cluster.units), before)
    return flow_workload(scenario, case.fabric(servers), requests, placements)


def with_slo_factor(work: Workload, factor: float) -> Workload:
    """Return ``work`` with its objectives multiplied by ``factor``."""
    return replace(work, slo_ns={index: round(value * factor) for index, value in work.slo_ns.items()})


def case_requests(
    case: Case, count: int, seed: int, trace: Path | None = None
) -> tuple[Sequence[Request], Sequence[Request]]:
    """Return the requests that are served before the run, and the ``count`` requests of the run.

    Raises:
        EvaluationError: the trace has too few requests.
    """
    if case.prompts is not None:
        drawn = prompts(case.prompts, SERVED_BEFORE + count, seed)
        return [*openers(case.prompts), *drawn[:SERVED_BEFORE]], drawn[SERVED_BEFORE:]
    path = trace or SAMPLE_PATH
    read = load_trace(path, SERVED_BEFORE + count)
    if len(read) < count:
        raise EvaluationError(f"{path} has {len(read)} requests, but the run needs {count}; give a longer --trace")
    return read[:-count], read[-count:]
