"""Requests that an adversarial server takes no part in: those that policing must protect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.metrics import RequestRecord
from mfs_eval.serving.placement import Placement


def unaffected(
    records: Iterable[RequestRecord], placements: Mapping[int, Placement], cluster: Cluster, server: int
) -> list[RequestRecord]:
    """Return the records of requests that ``server`` neither computes nor decodes nor holds reused KV for.

    A server that floods its own interfaces starves the requests that it serves before the switch sees a packet.
    """
    units = {number for number, unit in enumerate(cluster.units) if server in unit}
    return [
        record
        for record in records
        if record.unit not in units
        and record.decode_server != server
        and placements[record.index].reuse.holder not in units
    ]
