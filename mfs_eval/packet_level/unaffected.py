"""The others: requests that a server has no part in, which policing is there to protect from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.metrics import RequestRecord
from mfs_eval.serving.placement import Placement


def bystanders(
    records: Iterable[RequestRecord], placements: Mapping[int, Placement], cluster: Cluster, server: int
) -> list[RequestRecord]:
    """Those of ``records`` that ``server`` neither computes, nor sends reused KV to or takes the KV cache of.

    A server that floods its own interfaces starves whoever it serves before a switch sees a packet.
    """
    units = {number for number, unit in enumerate(cluster.units) if server in unit}
    return [
        record
        for record in records
        if record.unit not in units
        and record.decode_server != server
        and placements[record.index].reuse.holder not in units
    ]
