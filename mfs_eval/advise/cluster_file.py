"""Reads the TOML file that describes a cluster for ``mfs advise`` (``docs/guide/advise.md`` has the keys)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from host_agent.protocol.flow_spec import LAYER_MAX
from mfs_ctrl import toml_report
from mfs_ctrl.config_tables import Rate
from mfs_ctrl.toml_report import Report
from mfs_eval.flow_level.fabric import Fabric, FatTree, Racks
from mfs_eval.serving import costs
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.costs import GPU, ModelShape
from mfs_eval.serving.objectives import SLO_FACTOR
from mfs_eval.serving.placement import HotPrefixes
from mfs_eval.serving.trace import MOST_TOKENS
from mfs_eval.setup.scenario import Scenario

GPUS = {gpu.name: gpu for gpu in (costs.A100, costs.H100, costs.B200)}
MODELS = {
    model.name: model
    for model in (
        costs.MIXTRAL_8X7B,
        costs.MIXTRAL_8X22B,
        costs.DBRX,
        costs.QWEN3_CODER,
        costs.GROK_2,
        costs.LLAMA3_8B,
    )
}
MOST_RATES = 4
"""Request rates in a file: each costs runs of all policies."""
_SHAPE = frozenset(field.name for field in fields(ModelShape)) - {"name"}

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PrefillTable(_Table):
    """``[prefill]``: the prefill units, and which unit computes a request."""

    units: Count
    servers_per_unit: Count
    routing: Literal["balanced", "cache-aware"] = "balanced"
    hot_prefix: Share | None = None


class DecodeTable(_Table):
    """``[decode]``: servers of their own, or the servers of the prefill units."""

    servers: Count | None = None
    colocated: bool = False


class ServerTable(_Table):
    """``[server]``: what each server has."""

    gpus: Count
    nics: Count
    nic_rate: Rate


class GPUTable(_Table):
    """``[gpu]``: a known GPU, or its peak rate."""

    name: str | None = None
    flops: Positive | None = None
    efficiency: Annotated[float, Field(gt=0, le=1)] = 0.5


class ModelTable(_Table):
    """``[model]``: a known model, or the sizes of another (:class:`~mfs_eval.serving.costs.ModelShape`)."""

    name: str
    layers: Annotated[int, Field(ge=1, le=LAYER_MAX)] | None = None
    hidden: Count | None = None
    heads: Count | None = None
    kv_heads: Count | None = None
    head_dim: Count | None = None
    intermediate: Count | None = None
    experts: Count | None = None
    experts_per_token: Count | None = None
    vocab: Count | None = None
    bytes_per_element: Count | None = None
    shared_intermediate: Annotated[int, Field(ge=0)] | None = None


class ParallelismTable(_Table):
    """``[parallelism]``: fields of :class:`~mfs_eval.serving.config.ServingConfig`."""

    kv_nics: Annotated[int, Field(ge=0)] = 0
    sequence_parallel: bool = False
    collective_factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    hand_over_early: bool = True


class NetworkTable(_Table):
    """``[network]``: racks of servers, prefill units first, below spines."""

    servers_per_rack: Count | None = None
    oversubscription: Count = 1


class RequestsTable(_Table):
    """``[requests]``: how many come, and when their first token is due."""

    rates: Annotated[list[Positive], Field(min_length=1, max_length=MOST_RATES)]
    slo_factor: Positive | None = None
    slo_seconds: Positive | None = None
    longest_prompt: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = MOST_TOKENS


_TABLES: Mapping[str, type[_Table]] = {
    "prefill": PrefillTable,
    "decode": DecodeTable,
    "server": ServerTable,
    "gpu": GPUTable,
    "model": ModelTable,
    "parallelism": ParallelismTable,
    "network": NetworkTable,
    "requests": RequestsTable,
}
_OPTIONAL = ("parallelism", "network")


@dataclass(frozen=True, slots=True)
class Described:
    """A cluster as its file describes it.

    Attributes:
        scenario: what is served on which servers, at which request rates, unscaled.
        fabric: its network.
        slo_factor: objectives are the low-load TTFT times this; None if they are ``slo_ns``.
        slo_ns: the objective of every request, in nanoseconds.
        cache_aware: whether requests go where their prefix is held.
    """

    scenario: Scenario
    fabric: Fabric
    slo_factor: float | None
    slo_ns: int | None
    cache_aware: bool


def read(path: Path) -> Described:
    """Return the cluster that the file at ``path`` describes.

    Raises:
        ConfigError: the file cannot be read or has mistakes; the message lists all of them with line and key.
    """
    return toml_report.read(path, parse)


def parse(text: str) -> Described:
    """Return the cluster that ``text`` describes.

    Raises:
        ConfigError: ``text`` is not TOML or has mistakes; the message lists all of them with line and key.
    """
    document, report = toml_report.document(text), Report(text)
    for name in sorted(document.keys() - _TABLES.keys()):
        report.add((name,), f"unknown table; the tables are {', '.join(_TABLES)}")
    for name in _TABLES:
        if name not in document and name not in _OPTIONAL:
            report.add((name,), "is missing")
    given = {
        name: report.validated((name,), document.get(name, {}), model)
        for name, model in _TABLES.items()
        if name in document or name in _OPTIONAL
    }
    report.raise_mistakes()
    return _Reader(given, report).described()


class _Reader:
    """Validator of valid tables against each other."""

    def __init__(self, tables: Mapping[str, Any], report: Report) -> None:
        self._prefill: PrefillTable = tables["prefill"]
        self._decode: DecodeTable = tables["decode"]
        self._server: ServerTable = tables["server"]
        self._gpu: GPUTable = tables["gpu"]
        self._model: ModelTable = tables["model"]
        self._parallelism: ParallelismTable = tables["parallelism"]
        self._network: NetworkTable = tables["network"]
        self._requests: RequestsTable = tables["requests"]
        self._report = report

    def described(self) -> Described:
        model, gpu = self._shape(), self._processor()
        prefill, requests = self._prefill, self._requests
        if prefill.hot_prefix is not None and prefill.routing == "cache-aware":
            self._report.add(("prefill", "hot_prefix"), 'needs routing = "balanced": all units fetch from one')
        if requests.slo_factor is not None and requests.slo_seconds is not None:
            self._report.add(("requests", "slo_seconds"), "contradicts slo_factor; give one of them")
        if self._decode.colocated == (self._decode.servers is not None):
            self._report.add(("decode",), "needs either servers = NUMBER or colocated = true")
        unit_nics = prefill.servers_per_unit * self._server.nics
        if self._parallelism.kv_nics and unit_nics % self._parallelism.kv_nics:
            reason = f"must divide the {unit_nics} NICs of a unit, not {self._parallelism.kv_nics}"
            self._report.add(("parallelism", "kv_nics"), reason)
        rack_nics = self._rack() * self._server.nics
        if self._several_racks() and rack_nics % self._network.oversubscription:
            self._report.add(("network", "oversubscription"), f"must divide the {rack_nics} NICs of a rack")
        if not self._several_racks() and self._network.oversubscription > 1:
            reason = f"needs several racks: set servers_per_rack below the {self._servers} servers"
            self._report.add(("network", "oversubscription"), reason)
        self._report.raise_mistakes()
        assert model is not None
        assert gpu is not None
        # Within one rack the interfaces of a server are alike, each with its share of every flow: one fast one is the
        # same and takes a fraction of the time.
        alike = not self._several_racks() and not self._parallelism.kv_nics
        nics = 1 if alike else self._server.nics
        rate = self._server.nic_rate * self._server.nics // nics
        units = tuple(
            tuple(range(unit * prefill.servers_per_unit, (unit + 1) * prefill.servers_per_unit))
            for unit in range(prefill.units)
        )
        in_units = prefill.units * prefill.servers_per_unit
        decode = range(in_units) if self._decode.colocated else range(in_units, self._servers)
        cluster = Cluster(self._servers, nics, self._server.gpus, units, tuple(decode), rate)
        scenario = Scenario(
            "advised",
            cluster,
            tuple(requests.rates),
            model,
            gpu,
            scale=1,
            longest_prompt=requests.longest_prompt,
            hand_over_early=self._parallelism.hand_over_early,
            collective_factor=self._parallelism.collective_factor,
            kv_nics=self._parallelism.kv_nics,
            sequence_parallel=self._parallelism.sequence_parallel,
            hot_prefixes=None if prefill.hot_prefix is None else HotPrefixes(0, prefill.hot_prefix),
        )
        return Described(
            scenario,
            self._fabric(cluster),
            None if requests.slo_seconds is not None else requests.slo_factor or SLO_FACTOR,
            None if requests.slo_seconds is None else round(requests.slo_seconds * 1e9),
            prefill.routing == "cache-aware",
        )

    @property
    def _servers(self) -> int:
        return self._prefill.units * self._prefill.servers_per_unit + (self._decode.servers or 0)

    def _rack(self) -> int:
        return self._network.servers_per_rack or self._servers

    def _several_racks(self) -> bool:
        return self._rack() < self._servers

    def _fabric(self, cluster: Cluster) -> Fabric:
        if not self._several_racks():
            return Racks(cluster.hosts, cluster.nic_bits_per_second)
        racks = -(-self._servers // self._rack())
        # One pod of a fat-tree: racks whose uplinks lead to spines.
        return FatTree(
            self._servers,
            cluster.nics_per_server,
            cluster.nic_bits_per_second,
            self._network.oversubscription,
            servers_per_edge=self._rack(),
            edges_per_pod=racks,
        )

    def _processor(self) -> GPU | None:
        table = self._gpu
        if table.flops is not None:
            return GPU(table.name or "GPU", table.flops, table.efficiency)
        if table.name not in GPUS:
            reason = f"give flops, the operations per second at 16 bits, or one of {', '.join(GPUS)}"
            self._report.add(("gpu", "name"), f"{reason}, not {table.name!r}")
            return None
        return replace(GPUS[table.name], efficiency=table.efficiency)

    def _shape(self) -> ModelShape | None:
        table = self._model
        sizes = {name: value for name in _SHAPE if (value := getattr(table, name)) is not None}
        if table.name in MODELS:
            return replace(MODELS[table.name], **sizes)
        sizes = {"experts": 1, "experts_per_token": 1, "vocab": 1} | sizes  # vocab moves neither times nor bytes
        try:
            return ModelShape(table.name, **sizes)
        except TypeError:
            required = {"layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate"}
            lacking = ", ".join(sorted(required - sizes.keys()))
            reason = f"is none of {', '.join(MODELS)}; for another model also give {lacking}"
            self._report.add(("model", "name"), f"{table.name!r} {reason}")
            return None
