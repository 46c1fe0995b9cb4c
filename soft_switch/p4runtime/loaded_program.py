"""A loaded program: P4Info, compiled pipeline, and what the control plane wrote that the data plane does not need."""

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
    """An action set written in one shot: the message as received, and the group and members that implement it."""

    message: p4runtime_pb2.ActionProfileActionSet
    group_id: int
    member_ids: list[int]


@dataclass(frozen=True, slots=True)
class EntryNotes:
    """Fields of an entry that reads return although the data plane does not need them."""

    controller_metadata: int = 0
    metadata: bytes = b""
    one_shot: OneShot | None = None


@dataclass(slots=True)
class LoadedProgram:
    """A pipeline with its P4Info, to which reads and writes of entities go.

    Attributes:
        clock: the time of the packets, in nanoseconds.
        notes: by table, match and priority; the default entry has match None and priority 0.
        one_shots: number of one-shot action sets in each action profile that has any.
        group_max_sizes: max_size as the client wrote it, by (action profile, group id), to read back as written.
        multicast_groups: what a read of the replication engine returns, by group.
        clone_sessions: what a read of the replication engine returns, by session.
    """

    info: ProgramInfo
    pipeline: Pipeline
    config: p4runtime_pb2.ForwardingPipelineConfig
    digests: DigestBook
    roles: Roles
    idle: IdleWatch
    clock: Callable[[], int]
    notes: dict[EntryKey, EntryNotes] = field(default_factory=dict)
    one_shots: dict[str, int] = field(default_factory=dict)
    group_max_sizes: dict[tuple[str, int], int] = field(default_factory=dict)
    multicast_groups: dict[int, p4runtime_pb2.MulticastGroupEntry] = field(default_factory=dict)
    clone_sessions: dict[int, p4runtime_pb2.CloneSessionEntry] = field(default_factory=dict)

    def table(self, table_id: int) -> tuple[TableInfo, Table]:
        """Return the table with this id, as described by the P4Info and as run by the pipeline.

        Raises:
            RequestError: NOT_FOUND if there is none.
        """
        info = self.info.tables.get(table_id)
        return info, self.pipeline.tables[info.name]


def load_program(
    config: p4runtime_pb2.ForwardingPipelineConfig,
    clock: Callable[[], int] = time.monotonic_ns,
    backend: Backend = "auto",
) -> LoadedProgram:
    """Make a program that can run from a pipeline config: the text of the bmv2 JSON, and the P4Info.

    ``clock`` is that of the packets, in nanoseconds.

    Raises:
        RequestError: INVALID_ARGUMENT with the reason why the program cannot run.
    """
    if not config.p4_device_config:
        raise invalid("the config has no p4_device_config; it is the JSON text that p4c-bm2-ss writes")
    if not config.HasField("p4info"):
        raise invalid("the config has no p4info; p4c writes it with --p4runtime-files")
    info = ProgramInfo(config.p4info)
    try:
        pipeline = Pipeline.load(bytes(config.p4_device_config), backend)
    except SwitchError as error:
        raise invalid(f"the device config cannot run: {error}") from error
    shapes = digest_shapes(config.p4info)
    check_belong_together(info, shapes.values(), pipeline)
    kept = p4runtime_pb2.ForwardingPipelineConfig()
    kept.CopyFrom(config)
    idle = IdleWatch(pipeline.tables.values())
    return LoadedProgram(info, pipeline, kept, DigestBook(shapes), Roles(config.p4info), idle, clock)
