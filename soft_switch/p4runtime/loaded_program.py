"""One loaded program: P4Info, compiled pipeline and what the control plane wrote that the data plane need not know."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from p4.v1 import p4runtime_pb2

from soft_switch.backend import Backend
from soft_switch.errors import SwitchError
from soft_switch.p4runtime.binding import check_belong_together
from soft_switch.p4runtime.digest_data import digest_shapes
from soft_switch.p4runtime.digests import DigestBook
from soft_switch.p4runtime.p4info import ProgramInfo, TableInfo
from soft_switch.p4runtime.roles import Roles
from soft_switch.p4runtime.status import invalid
from soft_switch.pipeline import Pipeline
from soft_switch.tables.idle import IdleWatch
from soft_switch.tables.matches import Match
from soft_switch.tables.table import Table

EntryKey: TypeAlias = tuple[str, tuple[Match, ...] | None, int]


@dataclass(slots=True)
class OneShot:
    """An action set written in one shot: the message as it came, and the group and members that carry it."""

    message: p4runtime_pb2.ActionProfileActionSet
    group_id: int
    member_ids: list[int]


@dataclass(frozen=True, slots=True)
class EntryNotes:
    """What an entry returns on reading although the data plane has no use for it."""

    controller_metadata: int = 0
    metadata: bytes = b""
    one_shot: OneShot | None = None


@dataclass(slots=True)
class LoadedProgram:
    """A pipeline with its P4Info; all reads and writes of entities go to one of these."""

    info: ProgramInfo
    pipeline: Pipeline
    config: p4runtime_pb2.ForwardingPipelineConfig
    digests: DigestBook
    roles: Roles
    idle: IdleWatch
    # The time of the packets, in nanoseconds.
    clock: Callable[[], int]
    notes: dict[EntryKey, EntryNotes] = field(default_factory=dict)
    # Action profiles whose groups and members come from one-shot action sets, with the number of those sets.
    one_shots: dict[str, int] = field(default_factory=dict)
    # max_size as the client wrote it, by (action profile, group id): 0 and the default must read back as written.
    group_max_sizes: dict[tuple[str, int], int] = field(default_factory=dict)
    # What a read returns of the replication engine, by group and by session.
    multicast_groups: dict[int, p4runtime_pb2.MulticastGroupEntry] = field(default_factory=dict)
    clone_sessions: dict[int, p4runtime_pb2.CloneSessionEntry] = field(default_factory=dict)

    def table(self, table_id: int) -> tuple[TableInfo, Table]:
        """The table with this id, as the P4Info has it and as the pipeline runs it; NOT_FOUND when unknown."""
        info = self.info.tables.get(table_id)
        return info, self.pipeline.tables[info.name]


def load_program(
    config: p4runtime_pb2.ForwardingPipelineConfig,
    clock: Callable[[], int] = time.monotonic_ns,
    backend: Backend = "auto",
) -> LoadedProgram:
    """Make a program ready to be run from a pipeline config: text of the bmv2 JSON and the P4Info.

    `clock` is that of the packets, in nanoseconds.

    Raises RequestError INVALID_ARGUMENT, naming the reason, when it cannot be realised.
    """
    if not config.p4_device_config:
        raise invalid("the config has no p4_device_config; it is the JSON text that p4c-bm2-ss writes")
    if not config.HasField("p4info"):
        raise invalid("the config has no p4info; p4c writes it with --p4runtime-files")
    info = ProgramInfo(config.p4info)
    try:
        pipeline = Pipeline.load(bytes(config.p4_device_config), backend)
    except SwitchError as error:
        raise invalid(f"the device config cannot be realised: {error}") from error
    shapes = digest_shapes(config.p4info)
    check_belong_together(info, shapes.values(), pipeline)
    kept = p4runtime_pb2.ForwardingPipelineConfig()
    kept.CopyFrom(config)
    idle = IdleWatch(pipeline.tables.values())
    return LoadedProgram(info, pipeline, kept, DigestBook(shapes), Roles(config.p4info), idle, clock)
