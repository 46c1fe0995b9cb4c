"""What is known of a run that is explained: by a recorder in the simulated network, or from outside a real one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from mfs_eval.live.live_record import LiveFlow, LiveRecord
from mfs_eval.packet_level.flight_recorder import (
    Inputs,
    LevelChange,
    Place,
    RecordedFlow,
    Transmission,
)
from mfs_eval.serving.metrics import RequestRecord
from mfs_eval.serving.prefill_batch import BatchRecord

UNKNOWN_LEVEL = -1
"""Level of a transmission whose flow ended before its agent was asked."""


class Recording(Protocol):
    """See :class:`~mfs_eval.packet_level.flight_recorder.FlightRecorder`."""

    @property
    def flows(self) -> Sequence[RecordedFlow]:
        """All flows between hosts."""
        ...

    @property
    def links(self) -> Mapping[Place, Sequence[Transmission]]:
        """What each link carried."""
        ...

    @property
    def advances(self) -> Mapping[int, Sequence[tuple[int, int]]]:
        """By batch, when each step ended, and the layers done by then."""
        ...

    @property
    def requests(self) -> Mapping[int, RequestRecord]:
        """Outcome of each request, by index."""
        ...

    @property
    def batches(self) -> Mapping[int, BatchRecord]:
        """History of each batch, by number."""
        ...


class LiveRecording:
    """The record of a run over real sockets as a :class:`Recording`.

    Packets are not seen there. So a flow occupies its NIC and the switch port to its receiver as long as it lasts, as
    one transmission that overlaps with those of others.

    Args:
        record: of the run.
        ports: number of the switch port of each host.
    """

    def __init__(self, record: LiveRecord, ports: Mapping[int, int]) -> None:
        self.flows: list[RecordedFlow] = []
        self.links: defaultdict[Place, list[Transmission]] = defaultdict(list)
        self.advances = record.advances
        self.requests = {one.index: one for one in record.requests}
        self.batches = {one.batch: one for one in record.batches}
        for live in sorted(record.flows, key=lambda one: one.started_ns):
            flow = RecordedFlow(len(self.flows), live.source, live.spec, live.started_ns, live.ended_ns)
            nic, port = Place(None, live.source), Place(0, ports[live.spec.destination])
            flow.changes += _changes(live, nic)
            level = flow.changes[-1].after if flow.changes else UNKNOWN_LEVEL
            whole = Transmission(live.started_ns, live.started_ns, live.ended_ns, flow, 0, level)
            for place in (nic, port):
                self.links[place].append(whole)
            flow.passages.append((port, whole))
            self.flows.append(flow)


def _changes(live: LiveFlow, nic: Place) -> list[LevelChange]:
    found: list[LevelChange] = []
    for seen in live.levels:
        inputs = Inputs(seen.rli, seen.slack_us, seen.remaining_bytes)
        before = found[-1] if found else None
        found.append(
            LevelChange(
                seen.time_ns,
                nic,
                before.after if before is not None else None,
                seen.level,
                "seen",
                before.inputs if before is not None else None,
                inputs,
            )
        )
    return found
